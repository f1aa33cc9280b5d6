"""Fixes that work where the doctor runs: `%env` in a notebook, `export` in a terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.config import REPO_ROOT
from helpers.doctor import where
from helpers.doctor.check import Check, failed, ok, render


@pytest.mark.parametrize(
    ("fix", "expected"),
    [
        ("export A=1", "%env A=1"),
        ("想固定下来的话：export TUTORIAL_PORT=8001", "想固定下来的话：%env TUTORIAL_PORT=8001"),
        ("export A=x B=/y/z-1", "%env A=x\n%env B=/y/z-1"),
        ("export A='*,b c'", "%env A=*,b c"),
        ("export A=0.27\nkill 406", "%env A=0.27\nkill 406"),
        ("export A=1，还有", "%env A=1，还有"),
        ("unset A", 'import os; os.environ.pop("A", None)'),
        ("unset a_b B", 'import os; os.environ.pop("a_b", None); os.environ.pop("B", None)'),
        ("unset A，或者改对", 'import os; os.environ.pop("A", None)，或者改对'),
        ("", ""), ("ps aux", "ps aux"),
    ],
)  # fmt: skip
def test_fix_for_a_notebook(fix, expected):
    assert where.for_notebook(Check("x", "WARN", "y", fix)) == Check("x", "WARN", "y", expected)


def test_table_ends_with_how_to_use_its_fixes():
    check = failed("x", "y", "export A=1")
    assert where.advice([ok("a", "b"), failed("x", "y", "kill 1")]) == ""
    assert "%env" in where.advice([check]) and where.advice([check]) != where.advice([where.for_notebook(check)])
    assert render([check], advice=where.advice([check])).endswith(where.IN_TERMINAL)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({"AutoDLService6006URL": "https://x"}, True), ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True), ({}, False)],
)
def test_container(environ, expected, monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    assert where.in_container(environ) is expected


def test_container_of_docker():
    assert where.in_container({}) is any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


FIRST_CELLS = """
import os
from helpers.config import get_profile
profile = get_profile()
os.environ.update(profile.engine_env)
print(profile.name, profile.port, profile.dtype, os.environ["VLLM_USE_FLASHINFER_SAMPLER"])
"""
DOCTOR = f"""
import subprocess, sys
done = subprocess.run([sys.executable, "-m", "helpers.doctor"], cwd={str(REPO_ROOT)!r}, capture_output=True, text=True)
print(done.stdout)
"""


def test_a_cell_with_env_before_the_first_one_sets_what_the_lesson_uses(monkeypatch):
    """In a real kernel: the doctor's advice there, followed as it says, reaches the profile and the engine."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPO_ROOT))
    fixes = ["export TUTORIAL_PORT=8231", "export TUTORIAL_PROFILE=gpu TUTORIAL_DTYPE=float16",
             "export VLLM_USE_FLASHINFER_SAMPLER=1"]  # fmt: skip
    added = "\n".join(where.for_notebook(Check("x", "WARN", "y", fix)).fix for fix in fixes)
    removed = where.for_notebook(Check("x", "WARN", "y", "unset TUTORIAL_DTYPE")).fix
    cells = [added, FIRST_CELLS, removed, FIRST_CELLS, DOCTOR]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    said = ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]
    assert said[1].split() == ["gpu", "8231", "float16", "1"]
    assert said[3].split() == ["gpu", "8231", "bfloat16", "1"]
    assert "%env TUTORIAL_PROFILE=classroom" in said[4] and "export" not in said[4]  # no card here
    assert where.IN_NOTEBOOK in said[4]


def test_fix_of_a_terminal_works_in_a_shell():
    fix = where.EXPORT.search("想固定下来的话：export TUTORIAL_PORT=8001")
    assert fix
    done = subprocess.run(["sh", "-c", f"{fix[0]}; echo $TUTORIAL_PORT"], capture_output=True, text=True, check=True)
    assert done.stdout == "8001\n"
    command = shlex.join([sys.executable, "-c", "from helpers.doctor import where; print(where.in_kernel())"])
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=REPO_ROOT, env=os.environ, check=True
    )
    assert done.stdout == "False\n"
