"""Static and continuous batching: the two schedules are simulated, then drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.figure import Figure

from helpers.authoring.figures.canvas import (
    BLUE,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PALE_BLUE,
    PALE_GREY,
    PALE_ORANGE,
    PAPER,
    TEAL,
    box,
    canvas,
    write,
)

__all__ = ["Run", "busy_percent", "continuous_batching", "simulate_continuous", "simulate_static"]

OUTPUT_TOKENS: Final = (3, 8, 2, 5, 6, 2, 4, 3)  # of requests 1 … 8
SLOTS: Final = 4


@dataclass(frozen=True)
class Run:
    """One request in one slot: the steps `start` … `end - 1`; each step makes one token."""

    request: int
    slot: int
    start: int
    end: int


def simulate_static(lengths: Sequence[int], slots: int) -> list[Run]:
    """Batches of `slots` requests; the next batch starts when the longest request of this one has ended."""
    runs: list[Run] = []
    clock = 0
    for first in range(0, len(lengths), slots):
        batch = lengths[first : first + slots]
        runs += [Run(first + slot, slot, clock, clock + length) for slot, length in enumerate(batch)]
        clock += max(batch)
    return runs


def simulate_continuous(lengths: Sequence[int], slots: int) -> list[Run]:
    """A slot takes the next waiting request in the step after its request has ended."""
    runs: list[Run] = []
    free_at = [0] * slots
    for request, length in enumerate(lengths):
        slot = min(range(slots), key=lambda index: (free_at[index], index))
        runs.append(Run(request, slot, free_at[slot], free_at[slot] + length))
        free_at[slot] += length
    return runs


def busy_percent(runs: Sequence[Run], slots: int) -> float:
    """Share of slot-steps that make a token, from the first step to the end of the last request."""
    return 100 * sum(run.end - run.start for run in runs) / (slots * max(run.end for run in runs))


def continuous_batching() -> Figure:
    """The same requests under static and under continuous batching."""
    figure, axes = canvas(300)
    timelines = (
        ("静态批处理（static batching）", "一批里最长的写完，才换下一批", simulate_static(OUTPUT_TOKENS, SLOTS)),
        ("连续批处理（continuous batching）", "空出的位置，下一步就补上", simulate_continuous(OUTPUT_TOKENS, SLOTS)),
    )
    steps = max(run.end for _, _, runs in timelines for run in runs)
    left, unit, height = 62.0, (492 - 62) / steps, 20.0
    for panel, (name, rule, runs) in enumerate(timelines):
        top = 286 - panel * 134.0
        total = max(run.end for run in runs)
        title = f"{name}：{total} 步，位置用了 {busy_percent(runs, SLOTS):.0f}%"
        write(axes, 12, top, title, size=11)
        write(axes, 492, top, rule, color=MUTED, ha="right")
        for slot in range(SLOTS):
            y = top - 34 - slot * 23
            write(axes, 12, y + height / 2, f"位置 {slot + 1}", color=MUTED)
            box(axes, left, y, total * unit, height, fill=PALE_GREY, edge=LINE, hatch="////")
        for run in runs:
            y = top - 34 - run.slot * 23
            dark, pale = (BLUE, PALE_BLUE) if run.request < SLOTS else (ORANGE, PALE_ORANGE)
            for step in range(run.start, run.end):
                box(axes, left + step * unit, y, unit, height, fill=pale, edge=PAPER, line=0.8)
            box(
                axes, left + run.start * unit, y, (run.end - run.start) * unit, height, fill="none", edge=dark, line=1.1
            )
            middle = left + (run.start + run.end) / 2 * unit
            write(axes, middle, y + height / 2 - 0.5, f"R{run.request + 1}", color=dark, ha="center")
        axes.plot([left + total * unit] * 2, [top - 110, top - 8], color=INK, lw=1.4)
        if total < steps:
            write(axes, left + total * unit + 6, top - 60, f"全部完成，早了 {steps - total} 步", color=TEAL)
    for step in range(1, steps + 1):
        write(axes, left + (step - 0.5) * unit, 34, str(step), size=8.5, color=MUTED, ha="center")
    write(axes, 12, 34, "第几步", color=MUTED)
    lengths = "、".join(str(length) for length in OUTPUT_TOKENS)
    note = f"请求 R1–R{len(OUTPUT_TOKENS)} 各写 {lengths} 个 token，一步写一个。橙色：排过队的请求。斜线：空着。"
    write(axes, 12, 12, note, size=8.5, color=MUTED)
    return figure
