"""Which model of the family fits on which card; and how fast each was on a real one."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from helpers.authoring.figures.canvas import (
    BLUE,
    GREY,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PALE_GREY,
    PALE_ORANGE,
    PALE_TEAL,
    TEAL,
    WIDTH,
    box,
    canvas,
    write,
)
from helpers.bench import measured, spread
from helpers.models.fit import CARDS_GIB, FAMILY, PRECISIONS, fits

__all__ = ["fit_your_card", "gpu_family"]

SHORT, LONG = 2048, 32768  # tokens
NAMES = {"bf16": "bf16", "fp8 weights": "权重 fp8", "fp8 KV cache": "KV 缓存 fp8"}


def fit_your_card() -> Figure:
    """Tokens of KV cache of each model at each precision on each card."""
    figure, axes = canvas(324)
    left, top, width, height = 104.0, 276.0, 64.0, 18.0
    for column, (gb, gib) in enumerate(CARDS_GIB.items()):
        middle = left + (column + 0.5) * width
        write(axes, middle, top + 29, f"{gb} GB", ha="center", size=10)
        write(axes, middle, top + 15, f"CUDA {gib} GiB", ha="center", size=8.5, color=MUTED)
    y = top
    for name, config in FAMILY.items():
        write(axes, 12, y - 1.5 * height, name, size=11)
        for precision, options in PRECISIONS.items():
            y -= height
            write(axes, left - 10, y + height / 2, precision, ha="right", color=MUTED)
            for column, gib in enumerate(CARDS_GIB.values()):
                tokens = fits(config, gib, **options).tokens
                fill, colour = (PALE_TEAL, TEAL) if tokens >= LONG else (PALE_ORANGE, ORANGE)
                if tokens < SHORT:
                    fill, colour = PALE_GREY, GREY
                box(axes, left + column * width, y, width, height, fill=fill, edge="#ffffff")
                text = "–" if tokens < SHORT else f"{tokens / 10_000:.1f} 万"
                write(axes, left + (column + 0.5) * width, y + height / 2, text, ha="center", color=colour)
        y -= 7
    for x, fill, text in ((104, PALE_TEAL, "放得下 32K"), (204, PALE_ORANGE, "放得下 2K"), (304, PALE_GREY, "放不下")):
        box(axes, x, 7, 14, 10, fill=fill, edge=LINE)
        write(axes, x + 20, 12, text, size=8.5, color=INK)
    return figure


def gpu_family() -> Figure:
    """Output tokens per second of each case with one request in flight and with many, medians and ranges."""
    report = measured("gpu_family")
    rows = [row for row in report["family"] if {"1", "128"} & row["output_tok_per_s"].keys()]
    rows.sort(key=lambda row: ([*FAMILY].index(row["model"]), [*NAMES].index(row["setting"]), row["cards"]))
    figure = Figure(figsize=(WIDTH / 72, (90 + 21 * len(rows)) / 72), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(reversed(rows)):
        for size, colour in (("1", BLUE), ("32", TEAL), ("128", ORANGE)):
            values = row["output_tok_per_s"].get(size)
            if values:
                found = spread(values)
                error = [[found.median - found.low], [found.high - found.median]]
                label = f"{size} 个一起" if row is rows[-1] or place == len(rows) - 1 else None
                axes.errorbar(found.median, place, xerr=error, fmt="o", color=colour, ecolor=MUTED, label=label)
                text = f"{float(f'{found.median:.3g}'):,g}"
                axes.annotate(text, (found.median, place), (0, 5), textcoords="offset points", ha="center", size=8.5)
    axes.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)])
    axes.set(xscale="log", xlabel="每秒输出多少 token（对数轴；每个请求 64 个 token 进、128 个出）")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1, y=0.1)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), frameon=False, loc="outside lower center", ncols=3)
    machine = report["machine"]
    where = f"{machine['gpu'][0]} · vLLM {machine['versions']['vllm']} · 7B 是撑大的教室模型，别的是随机数"
    figure.suptitle(f"{where} · {machine['date']}", fontsize=9, color=MUTED, x=0.01, ha="left")
    return figure


def _label(row: dict[str, Any]) -> str:
    cards = f"，{row['cards']} 块卡" if row["cards"] > 1 else ""
    return f"{row['model']}，{NAMES[row['setting']]}{cards}"
