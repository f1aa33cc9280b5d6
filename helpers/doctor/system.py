"""Checks of what lies under the packages: WSL, the C library, and what kernels are compiled with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from helpers.doctor.check import Check, failed, ok, warned

__all__ = ["check_flashinfer", "check_glibc", "check_headers", "check_wsl"]

WSL, GLIBC, HEADERS, FLASHINFER = "WSL", "C 库（glibc）", "Python 头文件", "nvcc 和 ninja"
PIN_MEMORY: Final = "VLLM_WSL2_ENABLE_PIN_MEMORY"
WSL_CUDA_KERNEL: Final = (4, 19, 121)  # the first WSL2 kernel that shows the card
OLDEST_GLIBC, CUDA_GLIBC = (2, 31), (2, 34)


def check_wsl(release: str, environ: Mapping[str, str], *, gpu: bool) -> Check:
    """Is this Linux inside Windows, and one in which vLLM starts? `release`: of the kernel, as `uname -r` prints it."""
    if "microsoft" not in release.lower():
        return ok(WSL, f"不是 WSL（内核 {release}）")
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:3])
    if version < (4, 19):  # WSL1 calls itself 4.4
        found, fix = (
            "WSL1，没有真正的 Linux 内核",
            "在 Windows 的 PowerShell 里：wsl -l -v，再 wsl --set-version 发行版 2",
        )
        return failed(WSL, f"{found}，看不到显卡", fix) if gpu else warned(WSL, f"{found}，本课程没有试过", fix)
    if not gpu:
        return ok(WSL, f"WSL2（内核 {release}）")
    if version < WSL_CUDA_KERNEL:
        found = f"WSL2 的内核 {release} 太旧：4.19.121 起才看得到显卡"
        return failed(WSL, found, "在 Windows 的 PowerShell 里：wsl --update，再 wsl --shutdown，然后重新打开")
    value = environ.get(PIN_MEMORY)
    if value == "1":
        return ok(WSL, f"WSL2（内核 {release}），{PIN_MEMORY}=1")
    if value:
        found = f"WSL2，可是 {PIN_MEMORY}={value}：启动会停在 UVA is not available"
        return failed(WSL, found, f"export {PIN_MEMORY}=1")
    found = f"WSL2（内核 {release}）：本课程会设 {PIN_MEMORY}=1；不设，启动会停在 UVA is not available"
    return warned(WSL, found, f"自己运行 vllm serve 之前：export {PIN_MEMORY}=1")


def check_glibc(library: tuple[str, str], *, gpu: bool) -> Check:
    """Is the C library new enough for vLLM's wheels? `library`: as `platform.libc_ver` gives it."""
    name, number = library
    version = tuple(int(part) for part in re.findall(r"\d+", number)[:2])
    newer = "换 Ubuntu 22.04 以上的镜像或机器"
    if name == "musl":
        return failed(GLIBC, "这里用的是 musl（Alpine）：vLLM 的安装包要 glibc", newer)
    if name != "glibc" or len(version) < 2:
        return warned(GLIBC, "看不出这里的 C 库是哪一版", "ldd --version（第一行要 2.31 以上，显卡版要 2.34 以上）")
    if version < OLDEST_GLIBC:
        return failed(GLIBC, f"{number} 太旧：vLLM 的安装包要 2.31 以上", newer)
    if gpu and version < CUDA_GLIBC:
        return warned(GLIBC, f"{number}：显卡版的有些库要 2.34，会报 version `GLIBC_2.34' not found", newer)
    return ok(GLIBC, number)


def check_headers(folder: Path, *, version: tuple[int, int], gpu: bool) -> Check:
    """Triton compiles a small C program against `Python.h` at the first start. `folder`: where it should lie."""
    if (folder / "Python.h").is_file():
        return ok(HEADERS, f"{folder}")
    found = f"{folder} 里没有 Python.h"
    if not gpu:
        return ok(HEADERS, f"{found}；这里用不到：在 CPU 上启动时不编译")
    package = f"python{version[0]}.{version[1]}-dev"
    fix = f"apt-get update && apt-get install -y {package}（不是 root：前面加 sudo；conda 的 Python 自带头文件）"
    return failed(HEADERS, f"{found}：第一次启动要编译，会报 Python.h: No such file or directory", fix)


def check_flashinfer(lacks: Sequence[str], *, gpu: bool, switched_on: bool) -> Check:
    """FlashInfer's sampler is compiled at the first start. `lacks`: which of `ninja` and `nvcc` are not there."""
    if not gpu:
        return ok(FLASHINFER, "这里用不到：模型在 CPU 上运行")
    if not lacks:
        return ok(FLASHINFER, "都有")
    missing = "、".join(lacks)
    if not switched_on:
        return ok(FLASHINFER, f"没有 {missing}；不要紧：VLLM_USE_FLASHINFER_SAMPLER=0 时用不到它们")
    found = f"VLLM_USE_FLASHINFER_SAMPLER 开着，第一次启动要编译，可是找不到 {missing}；关掉它，速度一样"
    return failed(FLASHINFER, found, "export VLLM_USE_FLASHINFER_SAMPLER=0")
