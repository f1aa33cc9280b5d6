"""`python -m helpers.authoring.figures.font NotoSansSC-Regular.ttf`: cut the course's font again.

Needed when a label takes a character that the font lacks; `tests/test_figures.py` then fails. The source is in the
package zhplot 1.0.0 (`pip download --no-deps zhplot==1.0.0`, then `unzip`), with its licence beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from fontTools import subset
from fontTools.ttLib import TTFont

from helpers.bench.plots import FONT_FILE
from helpers.config import REPO_ROOT

FAMILY: Final = "Course Sans SC"  # a changed font needs its own name, or an installed Noto would take its place
READ: Final = ("notebooks/*.ipynb", "notebooks/*.md", "helpers/authoring/figures/*.py")


def cut(source: Path, target: Path = FONT_FILE) -> None:
    """Keep the characters that the course uses, so that learners can change a label as well."""
    texts = "".join(file.read_text(encoding="utf-8") for pattern in READ for file in REPO_ROOT.glob(pattern))
    options = subset.Options(
        layout_features=[], hinting=False, drop_tables=["BASE", "GPOS", "GSUB", "STAT", "vhea", "vmtx"]
    )
    font = subset.load_font(str(source), options)
    part = subset.Subsetter(options)
    part.populate(text=texts)
    part.subset(font)
    _rename(font)
    subset.save_font(font, str(target), options)


def _rename(font: TTFont) -> None:
    for name_id, text in ((1, FAMILY), (4, FAMILY), (6, FAMILY.replace(" ", ""))):
        font["name"].setName(text, name_id, 3, 1, 0x409)


if __name__ == "__main__":
    cut(Path(sys.argv[1]))
