from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

from helpers.authoring import series
from helpers.errors import TutorialError

METADATA = {"kernelspec": {"name": "vllm-tutorial", "display_name": "vLLM Tutorial"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(series, "NOTEBOOKS_DIR", tmp_path)
    monkeypatch.setattr(series, "EXECUTED_DIR", tmp_path / "executed")
    return tmp_path


def notebook(path: Path, *cells: str, tags: tuple[str, ...] = ()) -> Path:
    code = [nbformat.v4.new_code_cell(cell, metadata={"tags": list(tags)}) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=code, metadata=METADATA), path)
    return path


def test_a_failure_names_notebook_and_cell(folder: Path) -> None:
    path = notebook(folder / "01_a.ipynb", "x = 1", "y = x / 0")
    with pytest.raises(
        TutorialError, match=r"01_a.ipynb 没有跑完，停在第 2 个单元格.*y = x / 0\n(.*\n)*.*ZeroDivisionError"
    ):
        series.execute(path)


def test_run_stops_at_the_first_failure_with_status_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook(folder / "01_a.ipynb", "raise ValueError('told you')")
    notebook(folder / "02_b.ipynb", "print('never')")
    assert series.main(["run"]) == 1
    shown = capsys.readouterr()
    assert "told you" in shown.err
    assert not (folder / "executed" / "02_b.ipynb").exists()


def test_run_prints_headlines_and_keeps_the_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = notebook(folder / "01_a.ipynb", "print('the result')", tags=("headline",))
    before = path.read_text()
    assert series.main(["run"]) == 0
    assert "the result" in capsys.readouterr().out
    assert path.read_text() == before
    executed = nbformat.read(folder / "executed" / "01_a.ipynb", as_version=4)
    assert executed.cells[0].execution_count == 1
    assert executed.metadata == METADATA


def test_rewrite_stores_what_a_reader_sees(folder: Path) -> None:
    path = notebook(
        folder / "01_a.ipynb", f"print('10%\\r50%\\rdone'); print({str(series.REPO_ROOT)!r}, {sys.base_prefix!r})"
    )
    assert series.main(["rewrite"]) == 0
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].text == "done\n<repo> <python>\n"


def test_rewrite_takes_the_solutions_along_and_run_does_not(folder: Path) -> None:
    notebook(folder / "01_a.ipynb", "")
    (folder / "solutions").mkdir()
    where = "import os; from pathlib import Path; print(Path.cwd().name, os.environ['TUTORIAL_PROGRESS'])"
    solved = notebook(folder / "solutions" / "01_a.ipynb", where)
    assert series.notebook_paths() == [folder / "01_a.ipynb"]
    assert series.main(["run"]) == 0
    assert not nbformat.read(solved, as_version=4).cells[0].outputs
    assert series.main(["rewrite", "01"]) == 0
    assert nbformat.read(solved, as_version=4).cells[0].outputs[0].text == "solutions off\n"


def test_bars_link_the_neighbours(folder: Path) -> None:
    paths = [notebook(folder / f"0{n}_{name}.ipynb") for n, name in enumerate("abc", start=1)]
    assert series.navigation(paths[0]) == "[目录](../README.md) · [02_b →](02_b.ipynb)"
    assert series.navigation(paths[1]) == "[← 01_a](01_a.ipynb) · [目录](../README.md) · [03_c →](03_c.ipynb)"
    assert series.navigation(paths[2]) == "[← 02_b](02_b.ipynb) · [目录](../README.md)"


def test_an_unknown_number_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook(folder / "01_a.ipynb")
    with pytest.raises(SystemExit):
        series.main(["run", "9"])
    assert "没有编号为 9 的笔记本" in capsys.readouterr().err
