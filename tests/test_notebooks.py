"""The notebooks as files: structure, style, stored outputs, and the code that they teach before it is imported."""

from __future__ import annotations

import ast
import importlib
import re
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest

from helpers.authoring import series
from helpers.bench import measured
from helpers.config import REPO_ROOT

PATHS = series.notebook_paths()
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in PATHS}
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS.values(), ids=NOTEBOOKS.keys())
SOLUTIONS = {f"solutions/{path.stem}": nbformat.read(path, as_version=4) for path in series.solution_paths()}
EVERY = NOTEBOOKS | SOLUTIONS
DISPLAYS = ("print", "display", "plt", "pd", "exercises")
lessons_and_solutions = pytest.mark.parametrize("notebook", EVERY.values(), ids=EVERY.keys())


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def code_lines(cell: Any) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip()]


def test_the_series_is_numbered_without_gaps() -> None:
    assert [path.name[:2] for path in PATHS] == [f"{n:02d}" for n in range(1, len(PATHS) + 1)]
    assert len(PATHS) >= 7


@each_notebook
def test_opening_and_closing(notebook: Any) -> None:
    opening, closing = notebook.cells[1].source, "\n".join(cell.source for cell in notebook.cells[-3:])
    headings = [cell.source.splitlines()[0] for cell in notebook.cells if cell.source.startswith("## ")]
    for promise in ("# ", "**你将做**", "**你将学会**", "**你需要**", "**时间**"):
        assert promise in opening
    assert re.search(r"约 \d+ 分钟；全部运行 classroom 约 [\d.]+ 分钟（2 核 CPU 实测），gpu 约 [\d.]+ 分钟", opening)
    assert "## 你现在知道" in closing and headings.count("## 练习") == 1
    assert "nav" in tags(notebook.cells[0]) and "nav" in tags(notebook.cells[-1])


def test_the_gpu_minutes_of_the_openings_were_measured() -> None:
    said = {
        stem[:2]: float(minutes)
        for stem, notebook in NOTEBOOKS.items()
        for minutes in re.findall(r"gpu 约 ([\d.]+) 分钟（H100 实测", notebook.cells[1].source)
    }
    seconds = measured("gpu_notebooks")["seconds"]
    assert said == {number: pytest.approx(measured / 60, rel=0.1) for number, measured in seconds.items()}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_navigation_is_up_to_date(path: Path) -> None:
    bars = [cell.source for cell in NOTEBOOKS[path.stem].cells if "nav" in tags(cell)]
    assert bars == [series.navigation(path)] * 2


def test_readme_table_is_up_to_date() -> None:
    assert series.readme_table() in (REPO_ROOT / "README.md").read_text(encoding="utf-8")


@lessons_and_solutions
def test_cells_are_small(notebook: Any) -> None:
    sizes = sorted(len(code_lines(cell)) for cell in code_cells(notebook))
    assert 3 <= statistics.median(sizes) <= 8
    assert sizes[int(0.9 * (len(sizes) - 1))] <= 20
    assert sizes[-1] <= 30
    assert max(len(line) for cell in code_cells(notebook) for line in cell.source.splitlines()) <= 88


def only_displays(source: str) -> bool:
    """Nothing but names, attributes, subscripts, and calls of print, display, plt.…, pd.… and exercises.…"""
    body = [] if source.startswith("%%") else ast.parse(source).body
    values = [node.value if isinstance(node, ast.Expr) else node for node in body]
    return bool(values) and all(
        ast.unparse(value.func).split(".")[0] in DISPLAYS
        if isinstance(value, ast.Call)
        else isinstance(value, ast.Name | ast.Attribute | ast.Subscript)
        for value in values
    )


@pytest.mark.parametrize(
    "source", ["table", "x.T[0]", "print(f(x))\nplt.show()", "exercises.progress()", "pd.DataFrame(x)"]
)
def test_a_cell_that_displays(source: str) -> None:
    assert only_displays(source)


@pytest.mark.parametrize(
    "source", ["x = 1\nprint(x)", "import re", "assert x", "server.stop()", "await ask()", "printed()", "%%bash\nls"]
)
def test_a_cell_that_does_more_than_display(source: str) -> None:
    assert not only_displays(source)


@each_notebook
def test_prose_stands_between_code_cells(notebook: Any) -> None:
    pairs = [
        f"{first.id}, {second.id}"
        for first, second in pairwise(notebook.cells)
        if first.cell_type == second.cell_type == "code" and not only_displays(second.source)
    ]
    assert not pairs, "say in a sentence what to look at, or merge"


@lessons_and_solutions
def test_no_magic_that_can_fail_unseen(notebook: Any) -> None:
    for cell in code_cells(notebook):
        first, *rest = cell.source.splitlines()
        assert not first.startswith(("!", "%")) or first == "%%bash", cell.id
        assert not any(line.lstrip().startswith(("!", "%")) for line in rest), cell.id
        if first == "%%bash":
            assert rest[0].startswith("set -e"), f"{cell.id}: a failing line in the middle would pass"


@lessons_and_solutions
def test_stored_outputs_are_of_one_clean_run(notebook: Any) -> None:
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    for cell in code_cells(notebook):
        kinds = {output.output_type for output in cell.outputs}
        assert "error" not in kinds or "raises-exception" in tags(cell), cell.id
        if "nbval-check-output" in tags(cell):
            assert cell.outputs, f"{cell.id}: nothing is compared"
    assert str(REPO_ROOT) not in nbformat.writes(notebook)
    printed = str([cell.get("outputs") for cell in notebook.cells])
    assert re.findall(r"/(?:root|home|tmp|Users)/\S+", printed) == []
    assert notebook.metadata.kernelspec.name == "vllm-tutorial"


@lessons_and_solutions
def test_no_key_stands_in_a_stored_output(notebook: Any) -> None:
    shown = "\n".join(str(cell.outputs) for cell in code_cells(notebook) if "image/png" not in str(cell.outputs))
    assert "Bearer" not in shown
    words = re.findall(r"(?<![\w-])[\w-]{22}(?![\w-])", shown, re.ASCII)  # as long as secrets.token_urlsafe(16)
    assert not [w for w in words if re.search(r"\d", w) and re.search("[a-z]", w) and re.search("[A-Z]", w)]


@each_notebook
def test_enough_cells_are_compared(notebook: Any) -> None:
    compared = [cell for cell in code_cells(notebook) if "nbval-check-output" in tags(cell)]
    assert 3 <= len(compared) <= 12
    for cell in code_cells(notebook):
        assert "raises-exception" not in tags(cell) or "nbval-check-output" in tags(cell), cell.id
        assert "nbval-skip" not in tags(cell), cell.id


@each_notebook
def test_helpers_are_used(notebook: Any) -> None:
    assert any("helpers" in cell.source for cell in code_cells(notebook))


def plain(node: ast.AST) -> str:
    """Code without docstrings and annotations, so that the lesson may be shorter than the helper."""
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(inner) is not None
        ):
            inner.body = inner.body[1:]
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            inner.returns = None
        if isinstance(inner, ast.arg):
            inner.annotation = None
    return ast.unparse(node)


TAUGHT = [
    (stem, cell, tag.removeprefix("defines:"))
    for stem, notebook in NOTEBOOKS.items()
    for cell in code_cells(notebook)
    for tag in tags(cell)
    if tag.startswith("defines:")
]


@pytest.mark.parametrize(("stem", "cell", "name"), TAUGHT, ids=[name for *_, name in TAUGHT])
def test_taught_code_is_the_helpers_code(stem: str, cell: Any, name: str) -> None:
    module_name, _, function = name.rpartition(".")
    source = Path(importlib.import_module(module_name).__file__ or "").read_text(encoding="utf-8")

    def defined(code: str) -> str:
        [node] = [n for n in ast.parse(code).body if getattr(n, "name", None) == function]
        return plain(node)

    assert defined(cell.source) == defined(source)


@each_notebook
def test_pictures_exist_and_have_alt_text(notebook: Any) -> None:
    for cell in notebook.cells:
        for alt, target in re.findall(r"!\[(.*?)\]\((.*?)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert len(alt) >= 8, f"{cell.id}: {target} has no alt text"
            assert (series.NOTEBOOKS_DIR / target).is_file(), f"{cell.id}: {target}"


def test_every_picture_is_used() -> None:
    prose = "\n".join(cell.source for notebook in NOTEBOOKS.values() for cell in notebook.cells)
    prose += (REPO_ROOT / "README.md").read_text(encoding="utf-8")
    unused = [path.name for path in (REPO_ROOT / "images").iterdir() if path.name not in prose]
    assert not unused


@pytest.mark.parametrize("name", EVERY)
def test_links_lead_somewhere(name: str) -> None:
    for cell in EVERY[name].cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"(?<!!)\[[^\]]*\]\((?!http)([^)#]+)", cell.source):
                assert (series.NOTEBOOKS_DIR / name / ".." / target).resolve().exists(), f"{cell.id}: {target}"
