"""Checks of the NVIDIA driver and card. They read what `nvidia-smi` printed; CUDA is never loaded here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from helpers.config import REPO_ROOT, in_wsl
from helpers.doctor import where
from helpers.doctor.check import PYTHON_HERE, Check, failed, ok, warned
from helpers.doctor.smi import LOST, Gpu
from helpers.machine import SmiAnswer

__all__ = ["check_capability", "check_driver"]

DRIVER, CARD = "显卡驱动", "显卡型号"
USE_CPU: Final = "没有显卡也能学：export TUTORIAL_PROFILE=classroom"
CU129: Final = (
    '{python} -m pip install "vllm=={version}+cu129" --extra-index-url https://wheels.vllm.ai/{version}/cu129'
    " --extra-index-url https://download.pytorch.org/whl/cu129"
)
MAKE: Final = (
    f"cd {shlex.quote(str(REPO_ROOT))} && make setup PROFILE=gpu（它会装 CUDA 12.9 的那一套），"
    "再 source .venv/bin/activate"
)
NEWER: Final = "换一台驱动 580 以上的机器（驱动是主机的，换镜像没有用；AutoDL：租的时候看“GPU 驱动”那一栏）"
FLOAT16: Final = "export TUTORIAL_DTYPE=float16\n设了以后，答案全是感叹号，就是 float16 溢出，只能换卡"
RESTART: Final = "重启机器；AutoDL：在控制台重启实例，还不行就换一台"
NEWER_IN_WINDOWS: Final = "在 Windows 里更新 NVIDIA 驱动（580 以上），再在 PowerShell 里运行 wsl --shutdown"
DOCKER: Final = "docker run --gpus all（主机要装 nvidia-container-toolkit）"
WSL_DRIVER = (
    "不要在 WSL 里装 Linux 的 NVIDIA 驱动（装过：sudo apt purge 'nvidia-*' 'libnvidia-*'）；在 Windows 里更新驱动，"
    "再在 PowerShell 里运行 wsl --update 和 wsl --shutdown，然后重新打开"
)
# The others that begin with "Failed to initialize NVML" have a line of their own below.
NO_WSL_DRIVER: Final = (
    "communicate with|Driver Not Loaded|"
    "Failed to initialize NVML(?!: (?:Unknown Error|Insufficient Permissions|GPU access blocked))"
)
# What nvidia-smi says when it cannot answer → what that means, and the next step.
SMI_ERRORS: Final = (
    ("couldn't communicate with the NVIDIA driver", "装了 nvidia-smi，但驱动没有运行",
     "重启机器；AutoDL：关机，再以有卡模式开机"),
    ("blocked by the operating system", "WSL2 看不到显卡：Windows 的驱动或 WSL 太旧",
     WSL_DRIVER),
    ("Driver Not Loaded", "装了 nvidia-smi，但驱动没有加载", "重启机器；AutoDL：关机，再以有卡模式开机"),
    ("libnvidia-ml", "容器里没有驱动的库", DOCKER),
    ("Library Not Found", "容器里没有驱动的库", DOCKER),
    ("Function Not Found", "nvidia-smi 和驱动的版本不一样", "重启机器（或容器）"),
    ("is not a valid field", "驱动太旧，nvidia-smi 还不会回答这些问题", NEWER),
    ("GPU is lost", "显卡掉线了", RESTART),
    ("Unable to determine the device handle", "显卡掉线了，或容器拿不到它", f"主机上正常，就重建容器；{RESTART}"),
    ("requires reset", "显卡出错，要复位", RESTART),
    ("version mismatch", "驱动更新后还没有重启：内核里的版本和库的版本不一样", "重启机器（或容器）"),
    ("No devices", "驱动在，但没有分到显卡", f"AutoDL：关机，再以有卡模式开机；{USE_CPU}"),
    ("Unknown Error", "容器和显卡失去了联系", "重启容器；AutoDL：在控制台重启实例"),
    ("Insufficient Permissions", "没有权限读取显卡信息", "用启动实例的用户运行，或向管理员要权限"),
)  # fmt: skip


def check_driver(answer: SmiAnswer, gpus: Sequence[Gpu], *, vllm_version: str | None, pinned: str) -> Check:
    """Does the driver answer for all `gpus`, and does the installed vLLM wheel match it?"""
    if answer.status is None:
        there = WSL_DRIVER if in_wsl() else f"容器：{DOCKER}；AutoDL：关机，再以有卡模式开机"
        return failed(DRIVER, "没有 nvidia-smi：没装 NVIDIA 驱动，或者这台机器没有显卡", f"{there}\n{USE_CPU}")
    if answer.status == 124:
        return failed(DRIVER, "nvidia-smi 一直不回答，驱动可能卡住了", "重启机器；AutoDL：在控制台重启实例")
    if not gpus and in_wsl() and re.search(NO_WSL_DRIVER, answer.output, re.IGNORECASE):
        return failed(DRIVER, "WSL2 里的 nvidia-smi 找不到 Windows 的驱动", WSL_DRIVER)
    for message, found, fix in SMI_ERRORS:
        if message.lower() in answer.output.lower() and not gpus:
            return failed(DRIVER, found, fix)
    if not gpus:
        said = f"：{answer.output.strip()[:120]!r}" if answer.output.strip() else "，它什么也没有说"
        fix = "运行 nvidia-smi：它也报错，就重启机器（AutoDL：在控制台重启实例）；它正常，就把这一行发到本课程的 issue"
        return failed(DRIVER, f"看不懂 nvidia-smi 的回答（退出码 {answer.status}）{said}", fix)
    driver = next((gpu.driver for gpu in gpus if gpu.driver[:1].isdigit()), "")
    if not driver:
        return warned(DRIVER, "nvidia-smi 没有说驱动是哪一版",
                      "cat /proc/driver/nvidia/version（要 580 以上；装的是 +cu129 的包：575 以上）")  # fmt: skip
    check = _judge_driver(driver, vllm_version=vllm_version, pinned=pinned)
    if check.status == "OK" and any(text.lower() in answer.output.lower() for text in LOST):
        found = (
            f"{driver}；有显卡掉线了，还在回答的有 {sum(not gpu.lost for gpu in gpus)} 块，CUDA 可能因此一块也用不了"
        )
        return warned(DRIVER, found, RESTART)
    return check


def _judge_driver(driver: str, *, vllm_version: str | None, pinned: str) -> Check:
    major = int(driver.split(".")[0])
    local = (vllm_version or "").partition("+")[2]
    newer = NEWER_IN_WINDOWS if in_wsl() else NEWER
    if major >= 580:
        return ok(DRIVER, f"{driver}，可以用 CUDA 13 的安装包（PyPI 上的 vllm {pinned}）")
    if 525 <= major < 575 and local == "cu129":
        found = f"{driver} 低于 575：能用 CUDA 12.9 的包，但驱动不会编译它的 PTX"
        fix = f"遇到 the provided PTX was compiled with an unsupported toolchain 时：{newer}"
        return warned(DRIVER, found, fix)
    if major >= 575 and local == "cu129":
        return ok(DRIVER, f"{driver}，装的是配套的 vllm {vllm_version}（CUDA 12.9）")
    if major >= 525:
        found = f"{driver} 低于 580，带不动 PyPI 上的 CUDA 13 安装包，要 CUDA 12.9 的"
        fix = f"{newer}\n就用这个驱动的话：{MAKE}"
        if not where.made_by_make():
            fix += f"\n留在现在的环境里：{CU129.format(python=PYTHON_HERE, version=pinned)}"
        return failed(DRIVER, found, fix)
    return failed(
        DRIVER,
        f"{driver} 太旧：vllm {pinned} 至少要 525（CUDA 12.9），最好 580（CUDA 13）",
        newer,
    )


def check_capability(gpu: Gpu, *, dtype: str) -> Check:
    """Is the card new enough for this vLLM, and for the dtype?"""
    if gpu.lost:
        return failed(CARD, f"{gpu.name}，nvidia-smi 读不到它的状态：掉线了或者出错了", RESTART)
    if gpu.capability is None:
        return warned(
            CARD, f"{gpu.name}，驱动没有给出计算能力", "到 https://developer.nvidia.com/cuda-gpus 查：要 7.5 以上"
        )
    number = f"{gpu.capability[0]}.{gpu.capability[1]}"
    if gpu.capability < (7, 5):
        return failed(
            CARD,
            f"{gpu.name}，计算能力 {number}：现在的 vLLM 不再支持",
            "换一张计算能力 7.5 以上的卡，例如 RTX 3090、4090、A10",
        )
    if gpu.capability < (8, 0) and dtype in ("bfloat16", "auto"):
        return failed(CARD, f"{gpu.name}，计算能力 {number}：没有 bfloat16", FLOAT16)
    return ok(CARD, f"{gpu.name}，计算能力 {number}，用 {dtype}")
