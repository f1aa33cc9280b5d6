"""The Makefile as a learner meets it: what it refuses, in words, and what it keeps. Nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.config import REPO_ROOT

READY = ".venv/.ready"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A folder with the Makefile and empty files for what it depends on."""
    for name in ("requirements/cpu.txt", "requirements/vllm-alias/pyproject.toml", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(REPO_ROOT / "Makefile", tmp_path)
    return tmp_path


def make(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | environ
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, env=env)


def stub(folder: Path, name: str, script: str) -> Path:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_clean_keeps_the_solved_exercises_and_says_so(course: Path) -> None:
    for name in (".venv/bin/python", "build/exercises.json", "build/models/r1/config.json", "build/.hidden"):
        (course / name).parent.mkdir(parents=True, exist_ok=True)
        (course / name).write_text("x")
    done = make(course, "clean")
    assert done.returncode == 0 and "build/exercises.json" in done.stdout
    assert [path.name for path in (course / "build").iterdir()] == ["exercises.json"]
    assert not (course / ".venv").exists()


def test_clean_of_a_fresh_clone_has_nothing_to_say(course: Path) -> None:
    done = make(course, "clean")
    assert done.returncode == 0 and "exercises.json" not in done.stdout


def test_another_system_is_sent_to_the_readme(course: Path) -> None:
    path = f"{stub(course, 'uname', 'echo Darwin arm64').parent}:{os.environ['PATH']}"
    done = make(course, READY, PATH=path)
    assert done.returncode and "Darwin arm64" in done.stdout and "README.md" in done.stdout
    assert not (course / ".venv").exists()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('case "$2" in *version_info*) exit 1;; esac', "3.11"),
        ('case "$2" in *ensurepip*) echo Traceback >&2; exit 1;; esac', "python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_told_with_the_next_step(course: Path, script: str, says: str) -> None:
    done = make(course, READY, f"PYTHON={stub(course, 'python', script)}")
    assert done.returncode and says in done.stdout and "Traceback" not in done.stderr
    assert not (course / ".venv").exists()


def test_an_installation_that_breaks_off_is_told_with_the_next_step(course: Path) -> None:
    no_pip = "mkdir -p .venv/bin; ln -s /bin/false .venv/bin/python"
    broken = f'case "$2" in venv) {no_pip};; *) exec {sys.executable} "$@";; esac'
    done = make(course, READY, f"PYTHON={stub(course, 'python', broken)}")
    assert done.returncode and "再执行一次" in done.stdout and not (course / READY).exists()
