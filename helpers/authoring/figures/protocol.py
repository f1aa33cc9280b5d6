"""R1's thinking protocol: one conversation as tokens."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from helpers.authoring.figures.canvas import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PALE_BLUE,
    PALE_GREY,
    PALE_ORANGE,
    PALE_TEAL,
    PAPER,
    TEAL,
    box,
    canvas,
    write,
)

__all__ = ["think_protocol"]


def think_protocol() -> Figure:
    """One R1 conversation as tokens: what the chat template writes, and what the model writes."""
    figure, axes = canvas(246)
    # DejaVu has no full-width bar (U+FF5C): an ordinary one stands for it, and the last line says so.
    prompt = (("<|begin\u2581of\u2581sentence|>", "special"), ("<|User|>", "special"), ("1 + 1 = ?", "user"),
              ("<|Assistant|>", "special"), ("<think>", "tag"), ("\\n", "tag"))  # fmt: skip
    output = (("They ask for 1 + 1. That is 2.", "thought"), ("\\n", "thought"), ("</think>", "tag"),
              ("\\n\\n", "answer"), ("It is 2.", "answer"), ("<|end\u2581of\u2581sentence|>", "special"))  # fmt: skip
    colors = {"special": (GREY, PALE_GREY), "user": (INK, PAPER), "tag": (ORANGE, PALE_ORANGE),
              "thought": (BLUE, PALE_BLUE), "answer": (TEAL, PALE_TEAL)}  # fmt: skip

    def strip(chips: Sequence[tuple[str, str]], y: float) -> list[tuple[float, float]]:
        """Draw chips that fill the width, each as wide as its text; returns their left and right edges."""
        padding, gap = 11.0, 3.0
        letters = sum(len(text) for text, _ in chips)
        letter = (480 - len(chips) * padding - (len(chips) - 1) * gap) / letters
        x, edges = 12.0, []
        for text, kind in chips:
            dark, pale = colors[kind]
            width = len(text) * letter + padding
            box(axes, x, y, width, 24, fill=pale, edge=dark, radius=3)
            write(
                axes,
                x + width / 2,
                y + 11.5,
                text,
                size=8.5,
                color=dark if kind != "special" else INK,
                ha="center",
                mono=True,
            )
            edges.append((x, x + width))
            x += width + gap
        return edges

    def bracket(left: float, right: float, y: float, label: str, color: str) -> None:
        axes.plot([left, left, right, right], [y + 5, y, y, y + 5], color=color, lw=1.1)
        axes.plot([(left + right) / 2] * 2, [y, y - 4], color=color, lw=1.1)
        write(axes, (left + right) / 2, y - 7, label, color=color, ha="center", va="top")

    write(axes, 12, 230, "Prompt: the chat template writes it", size=11, bold=True)
    edges = strip(prompt, 194)
    bracket(*edges[2], 187, "your message", INK)
    bracket(edges[4][0], edges[5][1], 187, "opens the thought", ORANGE)
    write(axes, 12, 142, "Output: the model writes it, token by token", size=11, bold=True)
    edges = strip(output, 106)
    bracket(edges[0][0], edges[1][1], 99, "thought: field reasoning", BLUE)
    bracket(*edges[2], 99, "the border", ORANGE)
    bracket(edges[3][0], edges[4][1], 99, "answer: field content", TEAL)
    bracket(*edges[5], 99, "stops the request", MUTED)
    notes = (
        "The output has no <think> of its own. Cut short before </think>, it is all thought and no answer.",
        "In the next turn the template keeps the answer and drops the thought.",
        "In the grey tokens the bars are U+FF5C and the low lines U+2581: copy them, do not type them.",
    )
    for row, note in enumerate(notes):
        write(axes, 12, 48 - row * 17, note, size=8.5, color=MUTED)
    return figure
