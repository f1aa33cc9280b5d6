"""The Makefile as a learner meets it: what it refuses, in words, and what it keeps. Nothing is installed."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from helpers.config import REPO_ROOT


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A folder with the Makefile and empty files for what it depends on."""
    for name in ("cpu.txt", "gpu.txt", "gpu.in", "vllm-alias/pyproject.toml", "../pyproject.toml"):
        (tmp_path / "requirements" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "requirements" / name).touch()
    shutil.copy(REPO_ROOT / "requirements" / "choose.py", tmp_path / "requirements")
    shutil.copy(REPO_ROOT / "Makefile", tmp_path)
    return tmp_path


def make(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | environ
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, env=env)


def stub(folder: Path, name: str, script: str) -> Path:
    path = folder / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_clean_keeps_the_solved_exercises_and_says_so(course: Path) -> None:
    for name in (".venv-gpu/bin/python", "build/exercises.json", "build/models/r1/config.json", "build/.hidden"):
        (course / name).parent.mkdir(parents=True, exist_ok=True)
        (course / name).write_text("x")
    done = make(course, "clean")
    assert done.returncode == 0 and "build/exercises.json" in done.stdout
    assert [path.name for path in (course / "build").iterdir()] == ["exercises.json"]
    assert not list(course.glob(".venv*"))


def test_clean_of_a_fresh_clone_has_nothing_to_say(course: Path) -> None:
    done = make(course, "clean")
    assert done.returncode == 0 and "exercises.json" not in done.stdout


def test_another_system_is_sent_to_the_readme(course: Path) -> None:
    path = f"{stub(course, 'uname', 'echo Darwin arm64').parent}:{os.environ['PATH']}"
    done = make(course, "setup", PATH=path)
    assert done.returncode and "Darwin arm64" in done.stdout and "README.md" in done.stdout
    assert not list(course.glob(".venv*"))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ('case "$2" in *version_info*) exit 1;; esac', "3.11"),
        ('case "$2" in *ensurepip*) echo Traceback >&2; exit 1;; esac', "python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_told_with_the_next_step(course: Path, script: str, says: str) -> None:
    done = make(course, "setup", "SET=classroom", f"PYTHON={stub(course, 'python', script)}")
    assert done.returncode and says in done.stdout and "Traceback" not in done.stderr
    assert not list(course.glob(".venv*"))


def test_an_installation_that_breaks_off_is_told_with_the_next_step(course: Path) -> None:
    no_pip = "mkdir -p $3/bin; ln -s /bin/false $3/bin/python"
    broken = f'case "$2" in venv) {no_pip};; *) exec {sys.executable} "$@";; esac'
    done = make(course, "setup", "SET=classroom", f"PYTHON={stub(course, 'python', broken)}")
    assert done.returncode and "再执行一次" in done.stdout and not list(course.glob(".venv-*/.ready"))


def test_a_full_disk_is_told_before_anything_is_fetched(course: Path) -> None:
    path = f"{stub(course, 'df', 'echo; echo x x x 3000000 x').parent}:{os.environ['PATH']}"
    done = make(course, "setup", "PROFILE=gpu", PATH=path)
    assert done.returncode and "2 GB" in done.stdout and "下一步" in done.stdout and not list(course.glob(".venv*"))


@pytest.mark.parametrize(
    ("smi", "chosen", "says"),
    [
        ("NVIDIA GeForce RTX 4090, 24564, 8.9, 580.95.05", ".venv-gpu", ""),
        ("NVIDIA GeForce RTX 4090, 24564, 8.9, 550.144.03", ".venv-gpu-cu129", "550.144.03"),
        ("NVIDIA GeForce RTX 4090, 24564, 8.9, 470.256.02", ".venv-classroom", "470.256.02"),
        ("NVIDIA GeForce GTX 1060 6GB, 6144, 6.1, 580.95.05", ".venv-classroom", "6.1"),
        ("NVIDIA GeForce RTX 2060, 6144, 7.5, 580.95.05", ".venv-classroom", "6144"),
        ("NVIDIA GB10, [N/A], 12.1, 580.95.05", ".venv-classroom", "PROFILE=gpu"),
        ("NVIDIA T400, 2048, 7.5, 580.1\nTesla T4, 15360, 7.5, 580.1", ".venv-gpu", ""),
        ("No devices were found", ".venv-classroom", ""),
        (None, ".venv-classroom", ""),
    ],
)
def test_the_machine_chooses_the_set(smi: str | None, chosen: str, says: str, course: Path) -> None:
    there = stub(course, "nvidia-smi", f"printf '{smi}\n'" if smi else "exit 9").parent
    done = make(course, "--dry-run", "tutorial", PATH=f"{there}:{os.environ['PATH']}")
    assert f"venv {chosen}\n" in done.stdout and f"ln -sfn {chosen} .venv" in done.stdout
    assert says in done.stderr and bool(done.stderr) == bool(says)


@pytest.mark.parametrize("forced", ["classroom", "gpu"])
def test_the_reader_may_decide(forced: str, course: Path) -> None:
    cards = "RTX 4090, 24564, 8.9, 580.1" if forced == "classroom" else ""
    there = stub(course, "nvidia-smi", f"echo '{cards}'").parent
    done = make(course, "--dry-run", "lab", f"PROFILE={forced}", PATH=f"{there}:{os.environ['PATH']}")
    assert f"venv .venv-{forced}\n" in done.stdout


def test_the_real_model_without_a_card_needs_the_classroom_set(course: Path) -> None:
    ready = course / ".venv-classroom" / ".ready"
    stub(course / ".venv-classroom", "python", "echo $TUTORIAL_PROFILE $*")
    ready.touch()
    os.utime(ready, (2**31, 2**31))
    there = stub(course, "nvidia-smi", "echo 'RTX 4090, 24564, 8.9, 580.1'").parent
    done = make(course, "doctor", "PROFILE=cpu", PATH=f"{there}:{os.environ['PATH']}")
    assert done.stdout.splitlines()[-1] == "cpu -m helpers.doctor"
    assert make(course, "doctor", "PROFILE=classroom").stdout.splitlines()[-1] == "-m helpers.doctor"


def test_an_unknown_profile_is_refused(course: Path) -> None:
    done = make(course, "lab", "PROFILE=cuda")
    assert done.returncode and "PROFILE=cuda" in done.stderr and "下一步" in done.stdout


def test_the_sets_live_side_by_side_and_a_ready_one_is_not_made_again(course: Path) -> None:
    for name in ("classroom", "gpu"):
        ready = course / f".venv-{name}" / ".ready"
        ready.parent.mkdir()
        ready.touch()
        os.utime(ready, (2**31, 2**31))
    (course / ".venv" / "bin").mkdir(parents=True)  # from an older checkout
    for name in ("gpu", "classroom"):
        assert make(course, "setup", f"PROFILE={name}").returncode == 0
        assert os.readlink(course / ".venv") == f".venv-{name}"
    assert (course / ".venv-gpu" / ".ready").exists()


@pytest.mark.parametrize(
    ("environ", "config", "index"),
    [
        ({}, "exit 1", "none"),
        ({}, "echo of-pip", "of-pip"),
        ({"PIP_INDEX_URL": "of-env"}, "echo of-pip", "of-env"),
        ({"UV_INDEX_URL": "of-uv", "PIP_INDEX_URL": "of-env"}, "echo of-pip", "of-uv"),
    ],
)
def test_a_mirror_that_pip_knows_serves_uv_too(environ: dict[str, str], config: str, index: str, course: Path) -> None:
    pip = f'case "$*" in *"config get"*) {config};; esac'
    for name, script in (("python", pip), ("uv", "echo index ${UV_INDEX_URL-none}")):
        stub(course, name, script)
    fake = f'case "$2" in venv) mkdir -p $3; cp -r {course}/bin $3/;; *) exec {sys.executable} "$@";; esac'
    python = stub(course / "other", "python", fake)
    clean = {name: value for name, value in os.environ.items() if name not in ("UV_INDEX_URL", "PIP_INDEX_URL")}
    words = ["make", "setup", "PROFILE=gpu", f"PYTHON={python}"]
    done = subprocess.run(words, cwd=course, capture_output=True, text=True, env=clean | environ)
    assert done.returncode == 0, done.stderr
    assert {line for line in done.stdout.splitlines() if line.startswith("index")} == {f"index {index}"}


def test_the_texts_state_the_rule_that_make_follows() -> None:
    choose = runpy.run_path(str(REPO_ROOT / "requirements" / "choose.py"))
    cells = nbformat.read(REPO_ROOT / "notebooks" / "01_environment.ipynb", as_version=4).cells
    taught: dict[str, Any] = {}
    exec(next(cell.source for cell in cells if "def set_for" in cell.source), taught)
    for driver in ("610.1", "580.1", "579.1", "525.60", "524.9", "470.256.02"):
        chosen, _ = choose["judge"]("RTX 4090", "24564", "8.9", driver)
        assert taught["set_for"](driver).split(":")[0].endswith(f".venv-{chosen}")
    readme = (REPO_ROOT / "README.md").read_text(encoding="utf-8")
    [classroom_gb, gpu_gb] = re.findall(r"NEEDS_GB := .*,(\d+),(\d+)\)", (REPO_ROOT / "Makefile").read_text())[0]
    assert f"CPU 版要留 {classroom_gb} GB 的磁盘，CUDA 版 {gpu_gb} GB" in readme
    prose = "\n".join(cell.source for cell in cells)
    for text in (prose, readme):
        assert f"显存不到 {choose['MIN_MIB']} MiB" in text
        assert f"低于 {choose['MIN_CAPABILITY']}" in text
