"""The cheat sheet cannot drift: each of its lines stands in a notebook or in README.md, or a helper builds it."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from helpers.authoring import series
from helpers.bench import serving_command
from helpers.config import REPO_ROOT, get_profile
from helpers.models import SEVEN_B_CONFIG
from helpers.models.size import CARD_24GB_GIB, context_that_fits, model_size
from helpers.server import serve_command
from helpers.server.command import readable

SHEET = (series.NOTEBOOKS_DIR / "CHEATSHEET.md").read_text(encoding="utf-8")
FENCED = [line for block in re.findall(r"```\w+\n(.*?)```", SHEET, re.DOTALL) for line in block.splitlines()]


def bare(line: str) -> str:
    """Without indentation, comment, a pipe for the eye, and the end of a line or of a quoted body."""
    return re.sub(r"\s+#.*$|\s+\\$|\s+\|.*$", "", line).strip()


def known() -> set[str]:
    context = f"{context_that_fits(CARD_24GB_GIB, model_size(SEVEN_B_CONFIG))}"  # of a 24 GB card, as the sheet says
    gpu, model = get_profile({"TUTORIAL_PROFILE": "gpu", "TUTORIAL_MAX_MODEL_LEN": context}), Path("$MODEL")
    serving = serving_command("http://127.0.0.1:8000", gpu.served_model_name, model, concurrency=16, result=Path("x"))
    texts = [readable(serve_command(gpu, model)), readable(serving), (REPO_ROOT / "README.md").read_text("utf-8")]
    texts = [text.replace("'$MODEL'", '"$MODEL"') for text in texts]
    for path in series.notebook_paths():
        for cell in nbformat.read(path, as_version=4).cells:
            texts += [cell.source, *(output.get("text", "") for output in cell.get("outputs", []))]
    code = {span for text in texts for span in re.findall(r"`([^`\n]+)`", text)}
    return {bare(line) for text in texts for line in text.splitlines()} | {bare(span) for span in code}


KNOWN = known()


@pytest.mark.parametrize("line", dict.fromkeys(FENCED))
def test_a_line_stands_in_the_course(line: str) -> None:
    assert bare(line) in KNOWN


def test_every_notebook_has_its_part() -> None:
    assert re.findall(r"^## (\d\d) · ", SHEET, re.MULTILINE) == [path.name[:2] for path in series.notebook_paths()]
