"""The KV cache reserved to the maximum length, against the KV cache cut into blocks."""

from __future__ import annotations

from typing import Final

from matplotlib.figure import Figure

from helpers.authoring.figures.canvas import (
    BLUE,
    GREY,
    LINE,
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
    link,
    write,
)

__all__ = ["paged_attention"]

BLOCK_TOKENS: Final = 4  # of the drawing; vLLM takes 16 on a GPU
MAX_LENGTH: Final = 2048
PROMPTS: Final = {
    "A": ["Why", "is", "the", "sky", "blue", "?", "It", "is", "lit"],
    "B": ["Why", "is", "the", "sky", "red", "at", "dusk"],
}
BLOCK_TABLES: Final = {"A": [3, 0, 5], "B": [3, 6]}
REQUEST_COLORS: Final = {"A": (BLUE, PALE_BLUE), "B": (ORANGE, PALE_ORANGE)}


def paged_attention() -> Figure:
    """The KV cache reserved to the maximum length, against the KV cache cut into blocks."""
    figure, axes = canvas(398)
    used = sum(len(tokens) for tokens in PROMPTS.values())
    write(axes, 12, 382, "旧办法：每个请求按最大长度，预留连续的一整段 KV 缓存", size=11)
    cell = 29.0
    for row, (name, tokens) in enumerate(PROMPTS.items()):
        y, (dark, pale) = 344 - row * 31, REQUEST_COLORS[name]
        write(axes, 12, y + 10, f"请求 {name}", color=dark)
        for i, token in enumerate(tokens):
            box(axes, 76 + i * cell, y, cell, 20, fill=pale, edge=dark)
            write(axes, 76 + (i + 0.5) * cell, y + 9.5, token, size=8.5, ha="center")
        left = 76 + len(tokens) * cell
        box(axes, left, y, 492 - left, 20, fill=PALE_GREY, edge=GREY, hatch="////")
        label = f"预留了 {MAX_LENGTH - len(tokens)} 格，空着"
        box(axes, (left + 492) / 2 - 68, y + 3.5, 136, 13, fill=PAPER, edge=PAPER)
        write(axes, (left + 492) / 2, y + 9.5, label, size=8.5, color=MUTED, ha="center")
    slots = len(PROMPTS) * MAX_LENGTH
    summary = f"放得下 {slots} 个 token 的地方，只放了 {used} 个；第三个请求要等前面的写完。"
    write(axes, 12, 299, summary, color=MUTED)

    axes.plot([12, 492], [281, 281], color=LINE, lw=0.8)
    write(axes, 12, 262, "PagedAttention：切成小块，写到哪里，分到哪里", size=11)
    for x, heading in ((58, "请求看到的块（逻辑块）"), (241, "块表"), (364, "显存里的块（物理块）")):
        write(axes, x, 241, heading, color=MUTED)

    physical: dict[int, tuple[list[str], str]] = {}
    for name, table in BLOCK_TABLES.items():
        for index, block in enumerate(table):
            tokens = PROMPTS[name][index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
            physical[block] = (tokens, "shared" if block in physical else name)

    def block_row(x: float, y: float, tokens: list[str], dark: str, pale: str) -> None:
        for i in range(BLOCK_TOKENS):
            filled = i < len(tokens)
            box(axes, x + i * cell, y, cell, 19, fill=pale if filled else PALE_GREY, edge=dark,
                 hatch=None if filled else "////")  # fmt: skip
            if filled:
                write(axes, x + (i + 0.5) * cell, y + 9, tokens[i], size=8.5, ha="center")

    memory_y = [207 - 24.0 * block for block in range(8)]
    row_y = 207.0
    for name, table in BLOCK_TABLES.items():
        dark, pale = REQUEST_COLORS[name]
        write(axes, 12, row_y + 9, f"请求 {name}", color=dark)
        for index, block in enumerate(table):
            tokens = PROMPTS[name][index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
            shared = physical[block][1] == "shared"
            block_row(58, row_y, tokens, TEAL if shared else dark, PALE_TEAL if shared else pale)
            arrow(axes, (178, row_y + 9.5), (236, row_y + 9.5), color=LINE)
            box(axes, 241, row_y, 26, 19, edge=dark)
            box(axes, 267, row_y, 26, 19, edge=dark, fill=pale)
            write(axes, 254, row_y + 9, str(index), ha="center", color=MUTED)
            write(axes, 280, row_y + 9, str(block), ha="center")
            link(axes, (294, row_y + 9.5), (362, memory_y[block] + 9.5), color=TEAL if shared else dark)
            row_y -= 24
        row_y -= 24

    for block, block_y in enumerate(memory_y):
        write(axes, 485, block_y + 9, str(block), color=MUTED, ha="left")
        if block not in physical:
            box(axes, 364, block_y, BLOCK_TOKENS * cell, 19, fill=PAPER, edge=LINE)
            write(axes, 364 + 2 * cell, block_y + 9, "空闲", size=8.5, color=GREY, ha="center")
            continue
        tokens, owner = physical[block]
        dark, pale = (TEAL, PALE_TEAL) if owner == "shared" else REQUEST_COLORS[owner]
        block_row(364, block_y, tokens, dark, pale)
    held = len(physical) * BLOCK_TOKENS
    stored = sum(len(tokens) for tokens, _ in physical.values())
    write(axes, 12, 62, f"绿色：A 和 B 的前 {BLOCK_TOKENS} 个 token 一样，", color=TEAL)
    write(axes, 12, 48, "两个请求共用一个物理块（前缀缓存）。", color=TEAL)
    last = f"分出去 {held} 格，{stored} 格放着 token：只有每个请求的最后一块没有写满。"
    last += "空闲的块给后来的请求。"
    write(axes, 12, 22, last, size=8.5, color=MUTED)
    write(
        axes,
        12,
        8,
        f"图里一块 {BLOCK_TOKENS} 个 token；vLLM 在显卡上默认一块 16 个。",
        size=8.5,
        color=MUTED,
    )
    return figure
