"""The path of one request through the processes of `vllm serve`."""

from __future__ import annotations

from matplotlib.figure import Figure

from helpers.authoring.figures.canvas import (
    BLUE,
    GREY,
    MUTED,
    ORANGE,
    PALE_BLUE,
    PALE_GREY,
    PALE_ORANGE,
    PALE_TEAL,
    PAPER,
    TEAL,
    arrow,
    box,
    canvas,
    write,
)

__all__ = ["serving_path"]


def serving_path() -> Figure:
    """One chat request through the processes of `vllm serve`, and its tokens back."""
    figure, axes = canvas(268)
    write(axes, 12, 252, "One chat request through vllm serve", size=11, bold=True)
    top, bottom = 234.0, 46.0
    lanes = {"template": 188.0, "tokenizer": 152.0, "detokenizer": 100.0, "parser": 70.0}

    def panel(x: float, width: float, title: str, fill: str, edge: str) -> None:
        box(axes, x, bottom, width, top - bottom, fill=fill, edge=edge, radius=5)
        write(axes, x + width / 2, top - 11, title, bold=True, color=edge, ha="center")

    def part(x: float, y: float, width: float, label: str, edge: str, height: float = 22) -> None:
        box(axes, x, y - height / 2, width, height, fill=PAPER, edge=edge, radius=3)
        write(axes, x + width / 2, y - 0.5, label, ha="center")

    def down(x: float, start: float, end: float, color: str) -> None:
        arrow(axes, (x, start - 12), (x, end + 12), color=color)

    panel(12, 78, "Client", PALE_GREY, MUTED)
    part(18, lanes["template"], 66, "curl", MUTED)
    part(18, lanes["tokenizer"], 66, "OpenAI SDK", MUTED)
    part(18, lanes["detokenizer"], 66, "reasoning", TEAL)
    part(18, lanes["parser"], 66, "content", TEAL)
    panel(140, 106, "API server", PALE_BLUE, BLUE)
    for lane, label in (("template", "chat template"), ("tokenizer", "tokenizer")):
        part(147, lanes[lane], 92, label, BLUE)
    for lane, label in (("detokenizer", "detokenizer"), ("parser", "reasoning parser")):
        part(147, lanes[lane], 92, label, TEAL)
    panel(294, 90, "EngineCore", PALE_ORANGE, ORANGE)
    write(axes, 339, lanes["template"], "one step =\none token each", size=8.5, color=MUTED, ha="center")
    part(303, lanes["tokenizer"], 72, "scheduler", ORANGE)
    write(axes, 339, 114, "KV cache blocks", size=8.5, color=MUTED, ha="center")
    for i, owner in enumerate("ABFAABFBFAFF"):  # F: free
        fill = {"A": BLUE, "B": GREY, "F": PAPER}[owner]
        box(axes, 304 + i % 6 * 12, 91 - i // 6 * 12, 10, 10, fill=fill, edge=ORANGE, line=0.7)
    panel(432, 60, "Workers", PALE_TEAL, TEAL)
    write(axes, 462, lanes["template"], "run the\nmodel", size=8.5, color=MUTED, ha="center")
    part(438, lanes["tokenizer"], 48, "GPU 0", TEAL)
    part(438, lanes["detokenizer"], 48, "GPU 1", TEAL)
    write(axes, 462, 126, "tensor\nparallel", size=8.5, color=MUTED, ha="center")
    write(axes, 462, lanes["parser"], "or CPU\ncores", size=8.5, color=MUTED, ha="center")

    def hop(x0: float, x1: float, y: float, gap: float, label: str, color: str) -> None:
        arrow(axes, (x0, y), (x1, y), color=color)
        write(axes, gap, y + 5, label, size=8.5, color=color, ha="center", va="bottom")

    hop(91, 146, lanes["template"], 115, "messages", BLUE)
    down(193, lanes["template"], lanes["tokenizer"], BLUE)
    hop(240, 302, lanes["tokenizer"], 270, "token ids", BLUE)
    hop(385, 431, lanes["tokenizer"], 408, "a batch", BLUE)
    hop(431, 385, lanes["detokenizer"], 408, "new\ntokens", TEAL)
    hop(293, 240, lanes["detokenizer"], 270, "token ids", TEAL)
    down(193, lanes["detokenizer"], lanes["parser"], TEAL)
    hop(139, 91, lanes["parser"], 115, "stream", TEAL)
    notes = (
        "Blue: the request on its way in.  Green: its tokens on their way back, one per step.",
        "The reasoning parser sends text before </think> as reasoning, text after it as content.",
    )
    for row, note in enumerate(notes):
        write(axes, 12, 28 - row * 16, note, size=8.5, color=MUTED)
    return figure
