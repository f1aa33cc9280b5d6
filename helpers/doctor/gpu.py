"""Checks of the NVIDIA driver and card. They read what `nvidia-smi` printed; CUDA is never loaded here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from helpers.config import in_wsl
from helpers.doctor.check import PYTHON_HERE, Check, failed, ok, warned
from helpers.machine import SmiAnswer
from helpers.models.size import GIB, RUNTIME_GIB

__all__ = [
    "APP_QUERY", "GPU_QUERY", "Gpu", "GpuApp", "check_capability", "check_driver",
    "check_gpu_fit", "check_gpu_free", "parse_apps", "parse_gpus"
]  # fmt: skip

# The name stands last: it alone may hold a comma.
GPU_QUERY: Final = "index,uuid,driver_version,memory.total,memory.free,compute_cap,mig.mode.current,name"
APP_QUERY: Final = "pid,used_memory,gpu_uuid,process_name"
DRIVER, CARD, FIT, FREE = "显卡驱动", "显卡型号", "显存够不够", "空闲显存"
USE_CPU: Final = "没有显卡也能学：export TUTORIAL_PROFILE=classroom"
CU129: Final = (
    '{python} -m pip install "vllm=={version}+cu129" --extra-index-url https://wheels.vllm.ai/{version}/cu129'
    " --extra-index-url https://download.pytorch.org/whl/cu129"
)
RESTART: Final = "重启机器；AutoDL：在控制台重启实例，还不行就换一台"
LOST: Final = (
    "GPU is lost", "Unable to determine the device handle", "requires reset", "fallen off", "Unknown Error", "ERR!",
)  # fmt: skip
WSL_DRIVER = (
    "不要在 WSL 里装 Linux 的 NVIDIA 驱动（装过：sudo apt purge 'nvidia-*' 'libnvidia-*'）；在 Windows 里更新驱动，"
    "再在 PowerShell 里运行 wsl --update 和 wsl --shutdown，然后重新打开"
)
# What nvidia-smi says when it cannot answer → what that means, and the next step.
SMI_ERRORS: Final = (
    ("couldn't communicate with the NVIDIA driver", "装了 nvidia-smi，但驱动没有运行",
     "重启机器；AutoDL：关机，再以有卡模式开机"),
    ("blocked by the operating system", "WSL2 看不到显卡：Windows 的驱动或 WSL 太旧",
     WSL_DRIVER),
    ("Driver Not Loaded", "装了 nvidia-smi，但驱动没有加载", "重启机器；AutoDL：关机，再以有卡模式开机"),
    ("libnvidia-ml", "容器里没有驱动的库", "docker run --gpus all（主机要装 nvidia-container-toolkit）"),
    ("Library Not Found", "容器里没有驱动的库", "docker run --gpus all（主机要装 nvidia-container-toolkit）"),
    ("Function Not Found", "nvidia-smi 和驱动的版本不一样", "重启机器（或容器）"),
    ("is not a valid field", "驱动太旧，nvidia-smi 还不会回答这些问题", "换新的镜像或机器，驱动 ≥ 580"),
    ("GPU is lost", "显卡掉线了", RESTART),
    ("Unable to determine the device handle", "显卡掉线了，或容器拿不到它", f"主机上正常，就重建容器；{RESTART}"),
    ("requires reset", "显卡出错，要复位", RESTART),
    ("version mismatch", "驱动更新后还没有重启：内核里的版本和库的版本不一样", "重启机器（或容器）"),
    ("No devices", "驱动在，但没有分到显卡", f"AutoDL：关机，再以有卡模式开机；{USE_CPU}"),
    ("Unknown Error", "容器和显卡失去了联系", "重启容器；AutoDL：在控制台重启实例"),
    ("Insufficient Permissions", "没有权限读取显卡信息", "用启动实例的用户运行，或向管理员要权限"),
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """One card. A field is None where `nvidia-smi` gave no number (`[N/A]`, `[Not Supported]`, …)."""

    index: int
    uuid: str
    name: str
    driver: str
    total_gib: float | None
    free_gib: float | None
    capability: tuple[int, int] | None
    mig: bool = False
    lost: bool = False  # an error stands where numbers should be

    @property
    def unified(self) -> bool:  # no memory of its own, but the machine's
        return re.search("GB10|Jetson|Orin|Thor|Spark|Tegra", self.name) is not None


@dataclass(frozen=True)
class GpuApp:
    """A process that holds memory of the card `gpu_uuid`.

    `mine`: this user's, and surely the one that the driver means (a container counts its processes anew).
    `about` tells it from others: user, folder, age.
    """

    pid: int
    name: str
    used_gib: float | None
    gpu_uuid: str
    mine: bool = False
    about: str = ""


def parse_gpus(text: str) -> list[Gpu]:
    """Read `nvidia-smi --query-gpu=GPU_QUERY --format=csv,noheader,nounits`; lines of other shapes are passed over."""
    gpus = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",", 7)]
        if len(fields) == 8 and fields[0].isdigit():
            index, uuid, driver, total, free, capability, mig, name = fields
            gpus.append(
                Gpu(
                    int(index),
                    uuid,
                    name,
                    driver,
                    _gib(total),
                    _gib(free),
                    _capability(capability),
                    mig == "Enabled",
                    any(text in line for text in LOST),
                )
            )
    return gpus


def parse_apps(text: str) -> list[GpuApp]:
    """Read `nvidia-smi --query-compute-apps=APP_QUERY --format=csv,noheader,nounits`."""
    rows = [[field.strip() for field in line.split(",", 3)] for line in text.splitlines()]
    return [GpuApp(int(row[0]), row[3], _gib(row[1]), row[2]) for row in rows if len(row) == 4 and row[0].isdigit()]


def check_driver(answer: SmiAnswer, gpus: Sequence[Gpu], *, vllm_version: str | None, pinned: str) -> Check:
    """Does the driver answer for all `gpus`, and does the installed vLLM wheel match it?"""
    if answer.status is None:
        return failed(DRIVER, "没有 nvidia-smi：没装 NVIDIA 驱动，或者这台机器没有显卡", USE_CPU)
    if answer.status == 124:
        return failed(DRIVER, "nvidia-smi 一直不回答，驱动可能卡住了", "重启机器；AutoDL：在控制台重启实例")
    if not gpus and in_wsl() and re.search("communicate with|Driver Not Loaded", answer.output, re.IGNORECASE):
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
    if major >= 580:
        return ok(DRIVER, f"{driver}，可以用 CUDA 13 的安装包（PyPI 上的 vllm {pinned}）")
    if 525 <= major < 575 and local == "cu129":
        found = f"{driver} 低于 575：能用 CUDA 12.9 的包，但驱动不会编译它的 PTX"
        fix = "遇到 the provided PTX was compiled with an unsupported toolchain 时：换驱动 ≥ 575 的镜像或机器"
        return warned(DRIVER, found, fix)
    if major >= 575 and local == "cu129":
        return ok(DRIVER, f"{driver}，装的是配套的 vllm {vllm_version}（CUDA 12.9）")
    if major >= 525:
        found = f"{driver} 低于 580，带不动 PyPI 上的 CUDA 13 安装包，要 CUDA 12.9 的"
        return failed(DRIVER, found, CU129.format(python=PYTHON_HERE, version=pinned))
    return failed(
        DRIVER,
        f"{driver} 太旧：vllm {pinned} 至少要 525（CUDA 12.9），最好 580（CUDA 13）",
        "换新的镜像或机器，驱动 ≥ 580",
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
        return failed(CARD, f"{gpu.name}，计算能力 {number}：没有 bfloat16", "export TUTORIAL_DTYPE=float16")
    return ok(CARD, f"{gpu.name}，计算能力 {number}，用 {dtype}")


def check_gpu_fit(
    gpu: Gpu, *, weights_gib: float, kv_bytes_per_token: float, max_model_len: int, utilization: float
) -> Check:
    """Do the weights and the KV cache of one request of full length fit into vLLM's share of the card?"""
    if gpu.mig or gpu.total_gib is None:
        if gpu.mig:
            found, fix = "显卡开着 MIG，只分到其中一片", "nvidia-smi -L（看自己这一片有多大，要 20 GB 以上）"
        else:
            found, fix = (
                ("驱动没有给出显存大小（统一内存就是如此）", "free -h（显存就是内存，空闲要 20 GB 以上）")
                if gpu.unified
                else (
                    "驱动没有给出显存大小（vGPU、容器里常见）",
                    "nvidia-smi 和租机器的网页（看这块卡分到多少，要 20 GB 以上）",
                )
            )
        return warned(FIT, f"{found}；权重要 {weights_gib:.1f} GiB", fix)
    budget = gpu.total_gib * utilization
    room = budget - weights_gib - RUNTIME_GIB
    kv_gib = max_model_len * kv_bytes_per_token / GIB
    share = f"{gpu.total_gib:.1f} GiB × {utilization:g} = {budget:.1f} GiB"
    parts = f"权重 {weights_gib:.1f} + 运行约 {RUNTIME_GIB} + {max_model_len} token 的 KV {kv_gib:.2f}"
    if room >= kv_gib:
        total = int(room * GIB / kv_bytes_per_token)
        many = f"{total / 10000:.0f} 万" if total >= 10000 else f"{total}"
        return ok(FIT, f"{share}，放得下{parts}；最多约 {many} token 的 KV")
    length = int(max(room, 0) * GIB / kv_bytes_per_token) // 256 * 256
    fix = f"export TUTORIAL_MAX_MODEL_LEN={length}" if length >= 512 else "换一张 24 GB 以上的显卡"
    return failed(FIT, f"{share}，放不下{parts}", fix)


def check_gpu_free(
    gpu: Gpu, apps: Sequence[GpuApp], *, needed_gib: float, utilization: float, course_server: bool
) -> Check:
    """vLLM refuses to start unless its whole share is free. `needed_gib`: the least share that works."""
    if gpu.mig or gpu.total_gib is None or gpu.free_gib is None:
        fix = "free -h" if gpu.unified else "nvidia-smi"
        return warned(FREE, "驱动没有给出空闲显存（MIG、统一内存或容器里常见）", fix)
    share = gpu.total_gib * utilization
    if gpu.free_gib >= share:
        return ok(FREE, f"{gpu.free_gib:.1f} GiB，vLLM 启动时要 {share:.1f} GiB")
    if course_server:
        return ok(FREE, f"{gpu.free_gib:.1f} GiB，本课程的服务正在用这张卡")
    holders = [app for app in apps if app.gpu_uuid == gpu.uuid]
    names = [" ".join(filter(None, [f"PID {app.pid} {app.name}", f"{app.used_gib:.1f} GiB" if app.used_gib else ""]))
             + (f"（{app.about}）" if app.about else "") for app in holders]  # fmt: skip
    who = "占着的是 " + "、".join(names) if names else "看不到是谁占着（容器里常见）"
    mine = [str(app.pid) for app in holders if app.mine]
    ways = [f"不再用它的话：kill {' '.join(mine)}"] if mine else []
    if gpu.free_gib >= needed_gib:
        smaller = math.floor(gpu.free_gib / gpu.total_gib * 100) / 100
        ways.insert(0, f"export TUTORIAL_GPU_MEMORY_UTILIZATION={smaller:g}")
    theirs = [app for app in holders if not app.mine]
    if theirs:
        unknown = any(not app.about for app in theirs)
        first = "看不出是谁的：先关掉自己别的笔记本的内核，还占着就" if unknown else "别人的进程：请主人停下，或者"
        ways.append(f"{first}换一张卡、换一台机器")
    if not ways:
        ways.append("关掉其他笔记本的内核再试；还不行就重启实例")
    return failed(FREE, f"{gpu.free_gib:.1f} GiB，vLLM 启动时要 {share:.1f} GiB；{who}", "；".join(ways))


def _gib(text: str) -> float | None:
    return float(text) / 1024 if text.isdigit() else None  # nvidia-smi counts in MiB


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
