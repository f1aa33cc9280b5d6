"""The look of the course's plots: a style sheet, and a font that has the Chinese characters of the labels.

Rented GPU machines have no Chinese font, so one travels with the course: `course_sans_sc.ttf`, a part of Noto Sans SC
(licence: `OFL.txt`). `helpers.authoring.figures.font` makes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["FONT_FILE", "plot_style"]

FONT_FILE: Final = Path(__file__).with_name("course_sans_sc.ttf")


def plot_style() -> None:
    """Make matplotlib draw in the course's style, with Chinese labels, until the kernel ends (notebook 07)."""
    from matplotlib import font_manager, style

    font_manager.fontManager.addfont(FONT_FILE)
    style.use("helpers.bench.plots")
