"""R1's thinking protocol: one conversation as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import east_asian_width

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


def columns(text: str) -> int:
    """Width of `text` in half-width characters."""
    return sum(2 if east_asian_width(letter) in "FW" else 1 for letter in text)


def think_protocol() -> Figure:
    """One R1 conversation as tokens: what the chat template writes, and what the model writes."""
    figure, axes = canvas(246)
    prompt = (("<｜begin▁of▁sentence｜>", "special"), ("<｜User｜>", "special"), ("1加1等于几？", "user"),
              ("<｜Assistant｜>", "special"), ("<think>", "tag"), ("\\n", "tag"))  # fmt: skip
    output = (("求 1 加 1，结果是 2。", "thought"), ("\\n", "thought"), ("</think>", "tag"),
              ("\\n\\n", "answer"), ("等于 2。", "answer"), ("<｜end▁of▁sentence｜>", "special"))  # fmt: skip
    colors = {"special": (GREY, PALE_GREY), "user": (INK, PAPER), "tag": (ORANGE, PALE_ORANGE),
              "thought": (BLUE, PALE_BLUE), "answer": (TEAL, PALE_TEAL)}  # fmt: skip

    def strip(chips: Sequence[tuple[str, str]], y: float) -> list[tuple[float, float]]:
        """Draw chips that fill the width, each as wide as its text; returns their left and right edges."""
        padding, gap = 11.0, 3.0
        letters = sum(columns(text) for text, _ in chips)
        letter = (480 - len(chips) * padding - (len(chips) - 1) * gap) / letters
        x, edges = 12.0, []
        for text, kind in chips:
            dark, pale = colors[kind]
            width = columns(text) * letter + padding
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

    write(axes, 12, 230, "提示词：对话模板（chat template）写的", size=11)
    edges = strip(prompt, 194)
    bracket(*edges[2], 187, "你的话", INK)
    bracket(edges[4][0], edges[5][1], 187, "思考从这里开始", ORANGE)
    write(axes, 12, 142, "输出：模型写的，一个 token 一个 token 地写", size=11)
    edges = strip(output, 106)
    bracket(edges[0][0], edges[1][1], 99, "思考：字段 reasoning", BLUE)
    bracket(*edges[2], 99, "分界", ORANGE)
    bracket(edges[3][0], edges[4][1], 99, "答案：字段 content", TEAL)
    bracket(*edges[5], 99, "到此停止", MUTED)
    notes = (
        "输出里没有 <think>，它在提示词里。还没写到 </think> 就被截断，便只有思考，没有答案。",
        "下一轮对话，模板只留答案，去掉思考。",
        "灰色的是特殊 token：竖线是全角的（U+FF5C），低的横线是 U+2581。要用就复制，不要自己敲。",
    )
    for row, note in enumerate(notes):
        write(axes, 12, 48 - row * 17, note, size=8.5, color=MUTED)
    return figure
