"""Colours and matplotlib settings that all pictures share."""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "BLUE",
    "GREY",
    "INK",
    "LINE",
    "MUTED",
    "ORANGE",
    "PALE_BLUE",
    "PALE_GREY",
    "PALE_ORANGE",
    "PALE_TEAL",
    "PAPER",
    "STYLE",
    "TEAL",
    "WIDTH",
]

WIDTH: Final = 504.0  # points: 7 inches, about the width of a notebook's text

INK, MUTED, LINE, PAPER = "#1f2933", "#5f6c7b", "#c3ccd6", "#ffffff"
BLUE, ORANGE, TEAL, GREY = "#2f6db3", "#c9701c", "#1f8a78", "#8a96a3"
PALE_BLUE, PALE_ORANGE, PALE_TEAL, PALE_GREY = "#dbe8f6", "#fbe6d0", "#d5efe9", "#f1f4f7"

STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine draws the same glyphs
    "font.size": 9.0,
    "text.color": INK,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "vllm-reasoning-tutorial",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
