"""Every picture in `images/`: a registry from file name to the function that draws it.

`python -m helpers.figures` draws them all again; the bytes are the same on every run with the locked matplotlib.
The numbers in the pictures are computed here, not typed. Pictures are drawn on a canvas measured in points.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve

from helpers.config import REPO_ROOT
from helpers.doctor.gpu import RUNTIME_GIB
from helpers.errors import ConfigError
from helpers.models import SEVEN_B_CONFIG, model_size
from helpers.palette import (
    BLUE,
    GREY,
    INK,
    LINE,
    MUTED,
    ORANGE,
    PALE_BLUE,
    PALE_GREY,
    PALE_ORANGE,
    PALE_TEAL,
    PAPER,
    STYLE,
    TEAL,
    WIDTH,
)
from helpers.report import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURES", "IMAGES_DIR", "Run", "busy_percent", "draw", "main", "simulate_continuous", "simulate_static"]

IMAGES_DIR: Final = REPO_ROOT / "images"


def _canvas(height: float) -> tuple[Figure, Axes]:
    """An empty figure whose data unit is one point, origin bottom left."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    return figure, axes


def _text(
    axes: Axes, x: float, y: float, text: str, *, size: float = 9, color: str = INK, ha: str = "left",
    va: str = "center", bold: bool = False, mono: bool = False,
) -> None:  # fmt: skip
    family = "DejaVu Sans Mono" if mono else "DejaVu Sans"
    weight = "bold" if bold else "normal"
    axes.text(x, y, text, fontsize=size, color=color, ha=ha, va=va, fontweight=weight, family=family)


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, *, fill: str = PAPER, edge: str = LINE,
    hatch: str | None = None, radius: float = 0, line: float = 0.9,
) -> None:  # fmt: skip
    if radius:
        style = f"round,pad=0,rounding_size={radius}"
        axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=fill, ec=edge, lw=line))
        return
    axes.add_patch(Rectangle((x, y), width, height, fc=fill, ec="none"))
    if hatch:
        axes.add_patch(Rectangle((x, y), width, height, fc="none", ec=LINE, lw=0, hatch=hatch))
    axes.add_patch(Rectangle((x, y), width, height, fc="none", ec=edge, lw=line))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, color: str = MUTED) -> None:
    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=color, lw=1.2, shrinkA=0, shrinkB=0)
    axes.add_patch(arrow)


def _link(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, color: str) -> None:
    """A smooth left-to-right curve that ends in an arrow head."""
    (x0, y0), (x1, y1) = start, end
    middle, head = (x0 + x1) / 2, 6.0
    curve = Curve(
        [(x0, y0), (middle, y0), (middle, y1), (x1 - head, y1)],
        [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4],
    )
    axes.add_patch(PathPatch(curve, fc="none", ec=color, lw=1.3))
    _arrow(axes, (x1 - head - 0.5, y1), (x1, y1), color=color)


# --- 1. PagedAttention ------------------------------------------------------------------------------------------
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
    figure, axes = _canvas(398)
    used = sum(len(tokens) for tokens in PROMPTS.values())
    _text(axes, 12, 382, "Contiguous KV cache: every request reserves the maximum length", size=11, bold=True)
    cell = 29.0
    for row, (name, tokens) in enumerate(PROMPTS.items()):
        y, (dark, pale) = 344 - row * 31, REQUEST_COLORS[name]
        _text(axes, 12, y + 10, f"Request {name}", color=dark, bold=True)
        for i, token in enumerate(tokens):
            _box(axes, 76 + i * cell, y, cell, 20, fill=pale, edge=dark)
            _text(axes, 76 + (i + 0.5) * cell, y + 9.5, token, size=8.5, ha="center")
        left = 76 + len(tokens) * cell
        _box(axes, left, y, 492 - left, 20, fill=PALE_GREY, edge=GREY, hatch="////")
        label = f"{MAX_LENGTH - len(tokens)} slots reserved, unused"
        _box(axes, (left + 492) / 2 - 68, y + 3.5, 136, 13, fill=PAPER, edge=PAPER)
        _text(axes, (left + 492) / 2, y + 9.5, label, size=8.5, color=MUTED, ha="center")
    slots = len(PROMPTS) * MAX_LENGTH
    summary = f"Memory for {slots} tokens holds {used}: no room for a third request until one ends."
    _text(axes, 12, 299, summary, color=MUTED)

    axes.plot([12, 492], [281, 281], color=LINE, lw=0.8)
    _text(axes, 12, 262, "Paged KV cache: blocks are handed out as the text grows", size=11, bold=True)
    for x, heading in ((58, "Logical blocks"), (241, "Block tables"), (364, "Physical blocks in memory")):
        _text(axes, x, 241, heading, color=MUTED)

    physical: dict[int, tuple[list[str], str]] = {}
    for name, table in BLOCK_TABLES.items():
        for index, block in enumerate(table):
            tokens = PROMPTS[name][index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
            physical[block] = (tokens, "shared" if block in physical else name)

    def block_row(x: float, y: float, tokens: list[str], dark: str, pale: str) -> None:
        for i in range(BLOCK_TOKENS):
            filled = i < len(tokens)
            _box(axes, x + i * cell, y, cell, 19, fill=pale if filled else PALE_GREY, edge=dark,
                 hatch=None if filled else "////")  # fmt: skip
            if filled:
                _text(axes, x + (i + 0.5) * cell, y + 9, tokens[i], size=8.5, ha="center")

    memory_y = [207 - 24.0 * block for block in range(8)]
    row_y = 207.0
    for name, table in BLOCK_TABLES.items():
        dark, pale = REQUEST_COLORS[name]
        _text(axes, 12, row_y + 9, f"Req {name}", color=dark, bold=True)
        for index, block in enumerate(table):
            tokens = PROMPTS[name][index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]
            shared = physical[block][1] == "shared"
            block_row(58, row_y, tokens, TEAL if shared else dark, PALE_TEAL if shared else pale)
            _arrow(axes, (178, row_y + 9.5), (236, row_y + 9.5), color=LINE)
            _box(axes, 241, row_y, 26, 19, edge=dark)
            _box(axes, 267, row_y, 26, 19, edge=dark, fill=pale)
            _text(axes, 254, row_y + 9, str(index), ha="center", color=MUTED)
            _text(axes, 280, row_y + 9, str(block), ha="center", bold=True)
            _link(axes, (294, row_y + 9.5), (362, memory_y[block] + 9.5), color=TEAL if shared else dark)
            row_y -= 24
        row_y -= 24

    for block, block_y in enumerate(memory_y):
        _text(axes, 485, block_y + 9, str(block), color=MUTED, ha="left")
        if block not in physical:
            _box(axes, 364, block_y, BLOCK_TOKENS * cell, 19, fill=PAPER, edge=LINE)
            _text(axes, 364 + 2 * cell, block_y + 9, "free", size=8.5, color=GREY, ha="center")
            continue
        tokens, owner = physical[block]
        dark, pale = (TEAL, PALE_TEAL) if owner == "shared" else REQUEST_COLORS[owner]
        block_row(364, block_y, tokens, dark, pale)
    held = len(physical) * BLOCK_TOKENS
    stored = sum(len(tokens) for tokens, _ in physical.values())
    _text(axes, 12, 62, f"The first {BLOCK_TOKENS} tokens are the same in A and B:", color=TEAL)
    _text(axes, 12, 48, "one physical block serves both.", color=TEAL)
    last = f"{stored} of {held} slots in use hold a token; only a request's last block is part-filled."
    last += " Free blocks serve the next."
    _text(axes, 12, 22, last, size=8.5, color=MUTED)
    _text(
        axes,
        12,
        8,
        f"Drawn with {BLOCK_TOKENS} tokens per block; vLLM's default on a GPU is 16.",
        size=8.5,
        color=MUTED,
    )
    return figure


# --- 2. Continuous batching -------------------------------------------------------------------------------------
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
    figure, axes = _canvas(300)
    timelines = (
        ("Static batching", "the batch waits for its longest request", simulate_static(OUTPUT_TOKENS, SLOTS)),
        ("Continuous batching", "a free slot is refilled at the next step", simulate_continuous(OUTPUT_TOKENS, SLOTS)),
    )
    steps = max(run.end for _, _, runs in timelines for run in runs)
    left, unit, height = 62.0, (492 - 62) / steps, 20.0
    for panel, (name, rule, runs) in enumerate(timelines):
        top = 286 - panel * 134.0
        total = max(run.end for run in runs)
        title = f"{name}: {total} steps, slots {busy_percent(runs, SLOTS):.0f} % busy"
        _text(axes, 12, top, title, size=11, bold=True)
        _text(axes, 492, top, rule, color=MUTED, ha="right")
        for slot in range(SLOTS):
            y = top - 34 - slot * 23
            _text(axes, 12, y + height / 2, f"Slot {slot + 1}", color=MUTED)
            _box(axes, left, y, total * unit, height, fill=PALE_GREY, edge=LINE, hatch="////")
        for run in runs:
            y = top - 34 - run.slot * 23
            dark, pale = (BLUE, PALE_BLUE) if run.request < SLOTS else (ORANGE, PALE_ORANGE)
            for step in range(run.start, run.end):
                _box(axes, left + step * unit, y, unit, height, fill=pale, edge=PAPER, line=0.8)
            _box(
                axes, left + run.start * unit, y, (run.end - run.start) * unit, height, fill="none", edge=dark, line=1.1
            )
            middle = left + (run.start + run.end) / 2 * unit
            _text(axes, middle, y + height / 2 - 0.5, f"R{run.request + 1}", color=dark, bold=True, ha="center")
        axes.plot([left + total * unit] * 2, [top - 110, top - 8], color=INK, lw=1.4)
        if total < steps:
            _text(axes, left + total * unit + 6, top - 60, f"all done, {steps - total} steps earlier", color=TEAL)
    for step in range(1, steps + 1):
        _text(axes, left + (step - 0.5) * unit, 34, str(step), size=8.5, color=MUTED, ha="center")
    _text(axes, 12, 34, "Step", color=MUTED)
    lengths = ", ".join(str(length) for length in OUTPUT_TOKENS)
    note = (
        f"R1–R{len(OUTPUT_TOKENS)} write {lengths} tokens, one per step. Orange: had to wait for a slot. Hatched: idle."
    )
    _text(axes, 12, 12, note, size=8.5, color=MUTED)
    return figure


# --- 3. The path of a request -----------------------------------------------------------------------------------
def serving_path() -> Figure:
    """One chat request through the processes of `vllm serve`, and its tokens back."""
    figure, axes = _canvas(268)
    _text(axes, 12, 252, "One chat request through vllm serve", size=11, bold=True)
    top, bottom = 234.0, 46.0
    lanes = {"template": 188.0, "tokenizer": 152.0, "detokenizer": 100.0, "parser": 70.0}

    def panel(x: float, width: float, title: str, fill: str, edge: str) -> None:
        _box(axes, x, bottom, width, top - bottom, fill=fill, edge=edge, radius=5)
        _text(axes, x + width / 2, top - 11, title, bold=True, color=edge, ha="center")

    def part(x: float, y: float, width: float, label: str, edge: str, height: float = 22) -> None:
        _box(axes, x, y - height / 2, width, height, fill=PAPER, edge=edge, radius=3)
        _text(axes, x + width / 2, y - 0.5, label, ha="center")

    def down(x: float, start: float, end: float, color: str) -> None:
        _arrow(axes, (x, start - 12), (x, end + 12), color=color)

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
    _text(axes, 339, lanes["template"], "one step =\none token each", size=8.5, color=MUTED, ha="center")
    part(303, lanes["tokenizer"], 72, "scheduler", ORANGE)
    _text(axes, 339, 114, "KV cache blocks", size=8.5, color=MUTED, ha="center")
    for i, owner in enumerate("ABFAABFBFAFF"):  # F: free
        fill = {"A": BLUE, "B": GREY, "F": PAPER}[owner]
        _box(axes, 304 + i % 6 * 12, 91 - i // 6 * 12, 10, 10, fill=fill, edge=ORANGE, line=0.7)
    panel(432, 60, "Workers", PALE_TEAL, TEAL)
    _text(axes, 462, lanes["template"], "run the\nmodel", size=8.5, color=MUTED, ha="center")
    part(438, lanes["tokenizer"], 48, "GPU 0", TEAL)
    part(438, lanes["detokenizer"], 48, "GPU 1", TEAL)
    _text(axes, 462, 126, "tensor\nparallel", size=8.5, color=MUTED, ha="center")
    _text(axes, 462, lanes["parser"], "or CPU\ncores", size=8.5, color=MUTED, ha="center")

    def hop(x0: float, x1: float, y: float, gap: float, label: str, color: str) -> None:
        _arrow(axes, (x0, y), (x1, y), color=color)
        _text(axes, gap, y + 5, label, size=8.5, color=color, ha="center", va="bottom")

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
        _text(axes, 12, 28 - row * 16, note, size=8.5, color=MUTED)
    return figure


# --- 4. Memory of a 24 GB card ----------------------------------------------------------------------------------
CARD_GIB: Final = 24564 / 1024  # an RTX 3090 or 4090, as nvidia-smi counts it
UTILIZATION: Final = 0.9
KIB: Final = 1024
GIB: Final = 1024**3


def memory_24gb() -> Figure:
    """Where the memory of a 24 GB card goes, and how many tokens the rest can hold."""
    size = model_size(SEVEN_B_CONFIG)
    kv_gib = CARD_GIB * UTILIZATION - size.weights_gib - RUNTIME_GIB
    tokens = int(kv_gib * GIB / size.kv_bytes_per_token)
    figure, axes = _canvas(312)
    _text(axes, 12, 296, f"A 24 GB card with gpu_memory_utilization = {UTILIZATION}", size=11, bold=True)
    unit, y, height = 480 / CARD_GIB, 212.0, 38.0
    rest = CARD_GIB * (1 - UTILIZATION)
    x = 12.0
    for gib, label, dark, pale in (
        (size.weights_gib, "weights, bf16", BLUE, PALE_BLUE),
        (RUNTIME_GIB, f"activations, CUDA graphs:\nabout {RUNTIME_GIB} GiB (estimate)", GREY, PALE_GREY),
        (kv_gib, "KV cache", TEAL, PALE_TEAL),
        (rest, f"not vLLM's:\n{rest:.1f} GiB", GREY, PALE_GREY),
    ):
        middle, right = x + gib * unit / 2, x + gib * unit
        _box(axes, x, y, gib * unit, height, fill=pale, edge=dark, hatch="////" if gib == rest else None, line=1.1)
        if dark == GREY:  # too narrow for words inside
            axes.plot([middle, middle], [y + height, y + height + 6], color=GREY, lw=0.9)
            _text(axes, right, y + height + 8, label, size=8.5, color=MUTED, ha="right", va="bottom")
        else:
            _text(axes, middle, y + 25, f"{gib:.1f} GiB", bold=True, color=dark, ha="center")
            _text(axes, middle, y + 12, label, color=dark, ha="center")
        x = right

    left, right, floor = 118.0, 492.0, 188.0
    kv_right = 492 - rest * unit
    for start, end in ((kv_right - kv_gib * unit, left), (kv_right, right)):
        axes.plot([start, end], [y, floor], color=TEAL, lw=0.8, ls=(0, (3, 2)))
    note = f"{kv_gib:.1f} GiB / {size.kv_bytes_per_token / KIB:.0f} KiB per token = {tokens / 1000:.0f} thousand tokens"
    _box(axes, left, floor - 24, right - left, 24, fill=PALE_TEAL, edge=TEAL, line=1.1)
    _text(axes, (left + right) / 2, floor - 12.5, note, color=TEAL, bold=True, ha="center")
    _text(axes, 12, floor - 12.5, "KV cache", color=TEAL, bold=True)
    _text(axes, 12, floor - 42, "Full-length requests that fit at once, by max_model_len:", color=MUTED)
    scale = (right - left) / tokens
    for row, length in enumerate((2048, 8192, 32768, 131072)):
        base, count = floor - 73 - row * 25.0, tokens // length
        _text(axes, 12, base + 9, f"{count}", bold=True, color=BLUE if count else ORANGE)
        _text(axes, 32, base + 9, f"× {length} tokens")
        for i in range(count):
            _box(axes, left + i * length * scale, base, length * scale, 18, fill=PALE_BLUE, edge=BLUE, line=0.7)
        if not count:
            label = f"does not fit: one request needs {length * size.kv_bytes_per_token / GIB:.1f} GiB"
            _box(axes, left, base, right - left, 18, fill=PALE_ORANGE, edge=ORANGE)
            _text(axes, (left + right) / 2, base + 8.5, label, color=ORANGE, ha="center")
    _text(axes, 12, 14, "Computed from the shape in config.json; bars to scale.", size=8.5, color=MUTED)
    return figure


# --- 5. The thinking protocol -----------------------------------------------------------------------------------
def think_protocol() -> Figure:
    """One R1 conversation as tokens: what the chat template writes, and what the model writes."""
    figure, axes = _canvas(246)
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
            _box(axes, x, y, width, 24, fill=pale, edge=dark, radius=3)
            _text(
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
        _text(axes, (left + right) / 2, y - 7, label, color=color, ha="center", va="top")

    _text(axes, 12, 230, "Prompt: the chat template writes it", size=11, bold=True)
    edges = strip(prompt, 194)
    bracket(*edges[2], 187, "your message", INK)
    bracket(edges[4][0], edges[5][1], 187, "opens the thought", ORANGE)
    _text(axes, 12, 142, "Output: the model writes it, token by token", size=11, bold=True)
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
        _text(axes, 12, 48 - row * 17, note, size=8.5, color=MUTED)
    return figure


FIGURES: Final[dict[str, Callable[[], Figure]]] = {
    "paged_attention.svg": paged_attention,
    "continuous_batching.svg": continuous_batching,
    "serving_path.svg": serving_path,
    "memory_24gb.svg": memory_24gb,
    "think_protocol.svg": think_protocol,
    "gpu_throughput.svg": plots.throughput,
    "gpu_roofline.svg": plots.roofline,
    "gpu_curve.svg": plots.curve,
}


def draw(name: str, *, fmt: str = "svg", dpi: int = 96) -> bytes:
    """Draw one registered picture in the course's own style, whatever style is active here.

    Args:
        name: a key of `FIGURES`.
        fmt: `svg` (what `images/` holds) or `png` (to look at).
        dpi: pixels per inch of a PNG.

    Raises:
        ConfigError: no picture has this name; the message lists the names.
    """
    if name not in FIGURES:
        raise ConfigError(f"没有叫 {name!r} 的图；有这些：{'、'.join(FIGURES)}")
    buffer = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        FIGURES[name]().savefig(buffer, format=fmt, dpi=dpi, metadata={"Date": None} if fmt == "svg" else None)
    return buffer.getvalue()


def main(folder: Path = IMAGES_DIR) -> int:
    """Draw every picture into `folder`; returns the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        (folder / name).write_bytes(draw(name))
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
