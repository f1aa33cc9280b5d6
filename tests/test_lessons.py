"""Every lesson goes on where learners and models do not behave: a cell run twice, an answer that never ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from lesson_kit import CHAINS, errors_in, rambling_model, scripted_model

from helpers.authoring.series import notebook_paths

pytestmark = [pytest.mark.extra, pytest.mark.engine]

LESSONS = notebook_paths()
ASKING = [path for path in LESSONS if path.name[:2] in ("03", "04", "05", "06")]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_every_cell_runs_twice(lesson: Path) -> None:
    assert errors_in(lesson, env={}, times=2) == []


@pytest.mark.parametrize("lesson", ASKING, ids=lambda path: path.stem)
def test_an_endless_thought_stops_no_lesson(lesson: Path, tmp_path: Path) -> None:
    model = rambling_model(tmp_path / "rambling")
    assert errors_in(lesson, env={"TUTORIAL_MODEL_DIR": str(model)}) == []


@pytest.mark.parametrize("lesson", ASKING, ids=lambda path: path.stem)
def test_an_empty_answer_stops_no_lesson(lesson: Path, tmp_path: Path) -> None:
    model = scripted_model(tmp_path / "empty", CHAINS["empty"])
    assert errors_in(lesson, env={"TUTORIAL_MODEL_DIR": str(model)}) == []


@pytest.mark.parametrize("kind", ["many_tags", "no_answer", "half_characters"])
def test_an_odd_answer_stops_no_lesson_on_the_sdk(kind: str, tmp_path: Path) -> None:
    [lesson] = [path for path in ASKING if path.name.startswith("06")]
    model = scripted_model(tmp_path / kind, CHAINS[kind])
    assert errors_in(lesson, env={"TUTORIAL_MODEL_DIR": str(model)}) == []
