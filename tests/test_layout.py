"""The house: eleven entries, small files, learners' modules apart from the authors', and a light front door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from helpers.authoring import series
from helpers.config import REPO_ROOT

HELPERS = REPO_ROOT / "helpers"
FILES = sorted(HELPERS.rglob("*.py"))
AUTHORING = "helpers.authoring"


def module(path: Path) -> str:
    name = ".".join(path.relative_to(REPO_ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


def imported(code: str, *, package: str = "") -> Iterator[str]:
    """The modules that a piece of code imports, at any depth of it, by full name."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def reached(start: set[str]) -> set[str]:
    """`start` and all modules of ours that these import, directly or not."""
    found: set[str] = set()
    todo = {name for name in start if name in MODULES}
    while todo:
        name = todo.pop()
        found.add(name)
        package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
        named = set(imported(MODULES[name].read_text(encoding="utf-8"), package=package))
        named |= {other.rpartition(".")[0] for other in named}  # a package is run when its module is imported
        todo |= {other for other in named if other in MODULES} - found
    return found


def test_no_learner_needs_what_is_for_authors() -> None:
    cells = [
        cell.source
        for path in series.notebook_paths() + series.solution_paths()
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and not cell.source.startswith("%%")
    ]
    by_notebooks = {name for source in cells for name in imported(source)}
    assert {"helpers.server", "helpers.exercises"} <= by_notebooks
    start = by_notebooks | {name for name in MODULES if not name.startswith(AUTHORING)}
    assert {name for name in reached(start) | by_notebooks if name.startswith(AUTHORING)} == set()


def test_the_walk_finds_what_is_imported_on_a_detour() -> None:
    assert {"helpers.config", "helpers.server.local", "helpers.machine"} <= reached({"helpers.classroom.server"})
    assert "helpers.authoring.handbook" in reached({"helpers.authoring.series"})


def test_helpers_shows_eleven_entries() -> None:
    shown = {path.stem for path in HELPERS.iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert shown == {
        "config", "errors", "machine", "reasoning",
        "models", "server", "bench", "exercises", "doctor", "classroom", "authoring",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=module)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 260


def test_the_front_door_is_light() -> None:
    program = "import sys, helpers; print([m for m in ('torch', 'vllm', 'pandas', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPO_ROOT)
    assert done.stdout == "[]\n"
