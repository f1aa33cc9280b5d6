"""What the drawn pictures share: a canvas measured in points, colours, and the marks that stand on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BLUE", "GREY", "INK", "LINE", "MUTED", "ORANGE", "PALE_BLUE", "PALE_GREY", "PALE_ORANGE", "PALE_TEAL", "PAPER",
    "TEAL", "WIDTH", "arrow", "box", "canvas", "link", "write",
]  # fmt: skip

WIDTH: Final = 504.0  # points: 7 inches, about the width of a notebook's text
BLUE, ORANGE, TEAL, GREY = "C0", "C1", "C2", "C3"  # of the style sheet
PALE_BLUE, PALE_ORANGE, PALE_TEAL, PALE_GREY = "#dbe8f6", "#fbe6d0", "#d5efe9", "#f1f4f7"
INK, MUTED, LINE, PAPER = "#1f2933", "#5f6c7b", "#c3ccd6", "#ffffff"


def canvas(height: float) -> tuple[Figure, Axes]:
    """An empty figure whose data unit is one point, origin bottom left."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    return figure, axes


def write(
    axes: Axes, x: float, y: float, text: str, *, size: float = 9, color: str = INK, ha: str = "left",
    va: str = "center", mono: bool = False,
) -> None:  # fmt: skip
    family = ["DejaVu Sans Mono"] * mono + rcParams["font.family"]
    axes.text(x, y, text, fontsize=size, color=color, ha=ha, va=va, linespacing=1.4, family=family)


def box(
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


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, color: str = MUTED) -> None:
    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=color, lw=1.2, shrinkA=0, shrinkB=0)
    axes.add_patch(arrow)


def link(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, color: str) -> None:
    """A smooth left-to-right curve that ends in an arrow head."""
    (x0, y0), (x1, y1) = start, end
    middle, head = (x0 + x1) / 2, 6.0
    curve = Curve(
        [(x0, y0), (middle, y0), (middle, y1), (x1 - head, y1)],
        [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4],
    )
    axes.add_patch(PathPatch(curve, fc="none", ec=color, lw=1.3))
    arrow(axes, (x1 - head - 0.5, y1), (x1, y1), color=color)
