"""The memory of a 24 GB card."""

from __future__ import annotations

from typing import Final

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
    TEAL,
    box,
    canvas,
    write,
)
from helpers.models.size import CARD_24GB_GIB, GIB, RUNTIME_GIB, SEVEN_B_CONFIG, kv_budget_gib, model_size

__all__ = ["memory_24gb"]

UTILIZATION: Final = 0.9
KIB: Final = 1024


def memory_24gb() -> Figure:
    """Where the memory of a 24 GB card goes, and how many tokens the rest can hold."""
    size = model_size(SEVEN_B_CONFIG)
    kv_gib = kv_budget_gib(CARD_24GB_GIB, size.weights_gib, utilization=UTILIZATION)
    tokens = int(kv_gib * GIB / size.kv_bytes_per_token)
    figure, axes = canvas(312)
    card = f"一块 24 GB 的卡，CUDA 看到 {CARD_24GB_GIB} GiB，gpu_memory_utilization = {UTILIZATION}"
    write(axes, 12, 296, card, size=11)
    unit, y, height = 480 / CARD_24GB_GIB, 212.0, 38.0
    rest = CARD_24GB_GIB * (1 - UTILIZATION)
    x = 12.0
    for gib, label, dark, pale in (
        (size.weights_gib, "权重（bf16）", BLUE, PALE_BLUE),
        (RUNTIME_GIB, f"计算的中间结果等：\n约 {RUNTIME_GIB} GiB（估计）", GREY, PALE_GREY),
        (kv_gib, "KV 缓存", TEAL, PALE_TEAL),
        (rest, f"不归 vLLM：\n{rest:.1f} GiB", GREY, PALE_GREY),
    ):
        middle, right = x + gib * unit / 2, x + gib * unit
        box(axes, x, y, gib * unit, height, fill=pale, edge=dark, hatch="////" if gib == rest else None, line=1.1)
        if dark == GREY:  # too narrow for words inside
            axes.plot([middle, middle], [y + height, y + height + 6], color=GREY, lw=0.9)
            write(axes, right, y + height + 8, label, size=8.5, color=MUTED, ha="right", va="bottom")
        else:
            write(axes, middle, y + 25, f"{gib:.1f} GiB", color=dark, ha="center")
            write(axes, middle, y + 12, label, color=dark, ha="center")
        x = right

    left, right, floor = 118.0, 492.0, 188.0
    kv_right = 492 - rest * unit
    for start, end in ((kv_right - kv_gib * unit, left), (kv_right, right)):
        axes.plot([start, end], [y, floor], color=TEAL, lw=0.8, ls=(0, (3, 2)))
    note = f"{kv_gib:.1f} GiB / {size.kv_bytes_per_token / KIB:.0f} KiB（每个 token）= {tokens / 10_000:.1f} 万个 token"
    box(axes, left, floor - 24, right - left, 24, fill=PALE_TEAL, edge=TEAL, line=1.1)
    write(axes, (left + right) / 2, floor - 12.5, note, color=TEAL, ha="center")
    write(axes, 12, floor - 12.5, "KV 缓存放大看", color=TEAL)
    write(axes, 12, floor - 42, "写到最大长度（max_model_len）的请求，同时放得下几个：", color=MUTED)
    scale = (right - left) / tokens
    for row, length in enumerate((2048, 8192, 32768, 131072)):
        base, count = floor - 73 - row * 25.0, tokens // length
        write(axes, 12, base + 9, f"{count}", color=BLUE if count else ORANGE)
        write(axes, 32, base + 9, f"× {length} token")
        for i in range(count):
            box(axes, left + i * length * scale, base, length * scale, 18, fill=PALE_BLUE, edge=BLUE, line=0.7)
        if not count:
            label = f"一个也放不下：一个请求就要 {length * size.kv_bytes_per_token / GIB:.1f} GiB"
            box(axes, left, base, right - left, 18, fill=PALE_ORANGE, edge=ORANGE)
            write(axes, (left + right) / 2, base + 8.5, label, color=ORANGE, ha="center")
    write(
        axes, 12, 14, "估算：真有多少，看启动日志里的 Available KV cache memory。长条按比例画。", size=8.5, color=MUTED
    )
    return figure
