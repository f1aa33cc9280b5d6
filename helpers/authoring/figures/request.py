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
    write(axes, 12, 252, "一个对话请求，怎样走过 vllm serve", size=11)
    top, bottom = 234.0, 46.0
    lanes = {"template": 188.0, "tokenizer": 152.0, "detokenizer": 100.0, "parser": 70.0}

    def panel(x: float, width: float, title: str, fill: str, edge: str) -> None:
        box(axes, x, bottom, width, top - bottom, fill=fill, edge=edge, radius=5)
        write(axes, x + width / 2, top - 11, title, color=edge, ha="center")

    def part(x: float, y: float, width: float, label: str, edge: str, height: float = 22) -> None:
        box(axes, x, y - height / 2, width, height, fill=PAPER, edge=edge, radius=3)
        write(axes, x + width / 2, y - 0.5, label, ha="center")

    def down(x: float, start: float, end: float, color: str) -> None:
        arrow(axes, (x, start - 12), (x, end + 12), color=color)

    panel(12, 78, "客户端", PALE_GREY, MUTED)
    part(18, lanes["template"], 66, "curl", MUTED)
    part(18, lanes["tokenizer"], 66, "OpenAI SDK", MUTED)
    part(18, lanes["detokenizer"], 66, "reasoning", TEAL)
    part(18, lanes["parser"], 66, "content", TEAL)
    panel(140, 106, "API 服务进程", PALE_BLUE, BLUE)
    for lane, label in (("template", "套对话模板"), ("tokenizer", "切成 token")):
        part(147, lanes[lane], 92, label, BLUE)
    for lane, label in (("detokenizer", "转成文字"), ("parser", "分开思考和答案")):
        part(147, lanes[lane], 92, label, TEAL)
    panel(294, 90, "引擎 EngineCore", PALE_ORANGE, ORANGE)
    write(axes, 339, lanes["template"], "走一步，每个请求\n各写一个 token", size=8.5, color=MUTED, ha="center")
    part(303, lanes["tokenizer"], 72, "调度器", ORANGE)
    write(axes, 339, 114, "KV 缓存的块", size=8.5, color=MUTED, ha="center")
    for i, owner in enumerate("ABFAABFBFAFF"):  # F: free
        fill = {"A": BLUE, "B": GREY, "F": PAPER}[owner]
        box(axes, 304 + i % 6 * 12, 91 - i // 6 * 12, 10, 10, fill=fill, edge=ORANGE, line=0.7)
    panel(432, 60, "工作进程", PALE_TEAL, TEAL)
    write(axes, 462, lanes["template"], "运行\n模型", size=8.5, color=MUTED, ha="center")
    part(438, lanes["tokenizer"], 48, "GPU 0", TEAL)
    part(438, lanes["detokenizer"], 48, "GPU 1", TEAL)
    write(axes, 462, 126, "一块不够，\n切到两块", size=8.5, color=MUTED, ha="center")
    write(axes, 462, lanes["parser"], "或者\nCPU 核", size=8.5, color=MUTED, ha="center")

    def hop(x0: float, x1: float, y: float, gap: float, label: str, color: str) -> None:
        arrow(axes, (x0, y), (x1, y), color=color)
        write(axes, gap, y + 5, label, size=8.5, color=color, ha="center", va="bottom")

    hop(91, 146, lanes["template"], 115, "消息", BLUE)
    down(193, lanes["template"], lanes["tokenizer"], BLUE)
    hop(240, 302, lanes["tokenizer"], 270, "编号", BLUE)
    hop(385, 431, lanes["tokenizer"], 408, "一批", BLUE)
    hop(431, 385, lanes["detokenizer"], 408, "新\ntoken", TEAL)
    hop(293, 240, lanes["detokenizer"], 270, "编号", TEAL)
    down(193, lanes["detokenizer"], lanes["parser"], TEAL)
    hop(139, 91, lanes["parser"], 115, "一段段", TEAL)
    notes = (
        "蓝色：请求进去的路。绿色：生成的 token 回来的路，一步一个。编号是 token 的编号（token id）。",
        "推理解析器（reasoning parser）把 </think> 之前的放进 reasoning，之后的放进 content。",
    )
    for row, note in enumerate(notes):
        write(axes, 12, 28 - row * 16, note, size=8.5, color=MUTED)
    return figure
