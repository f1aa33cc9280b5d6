"""A Python without the course's packages, or an old one, gets one line that says which to take."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.config import REPO_ROOT


def test_a_python_without_packages_gets_one_line() -> None:
    command = [sys.executable, "-S", "-m", "helpers.doctor"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO_ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert sys.executable in done.stderr and ".venv/bin/python -m helpers.doctor" in done.stderr


@pytest.mark.parametrize(("kernel", "words"), [(False, "make doctor"), (True, "vLLM Tutorial")])
def test_importing_says_it_too(kernel: bool, words: str) -> None:
    code = f"import sys; sys.modules.update(ipykernel=sys) if {kernel} else None; from helpers import exercises"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=REPO_ROOT, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError") and words in last


@pytest.mark.parametrize("folders", [[], ["conda-meta"]])
def test_conda_is_named_only_to_who_uses_it(folders: list[str], tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    code = f"import sys; sys.prefix = {str(tmp_path)!r}; import helpers"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=REPO_ROOT, check=False
    )
    assert ".venv/bin/python" in done.stderr and ("conda activate" in done.stderr) is bool(folders)


def test_an_old_python_gets_as_far_as_the_line() -> None:
    ast.parse((REPO_ROOT / "helpers" / "__init__.py").read_text(encoding="utf-8"), feature_version=(3, 8))
