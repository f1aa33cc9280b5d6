"""Checks of the card's memory: does the model fit, and is vLLM's share of it free?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from helpers.config.model import ROOM
from helpers.doctor.check import Check, failed, ok, warned
from helpers.doctor.smi import Gpu, GpuApp
from helpers.models.fit import FAMILY
from helpers.models.size import GIB, RUNTIME_GIB, ModelSize, kv_budget_gib, model_size

__all__ = ["check_gpu_fit", "check_gpu_free"]

REST_GIB: Final = 1.5, 3.0  # what was seen beside weights and KV cache; RUNTIME_GIB lies between
FIT, FREE = "显存够不够", "空闲显存"
WANTED: Final = "7B 要 20 GB 以上，1.5B 要 8 GB 以上"


def check_gpu_fit(gpu: Gpu, size: ModelSize, *, max_model_len: int, utilization: float) -> Check:
    """Do the weights and the KV cache of one request of full length fit into vLLM's share of the card?"""
    if gpu.mig or gpu.total_gib is None:
        if gpu.mig:
            found, fix = "显卡开着 MIG，只分到其中一片", f"nvidia-smi -L（看自己这一片有多大，{WANTED}）"
        else:
            found, fix = (
                ("驱动没有给出显存大小（统一内存就是如此）", f"free -h（显存就是内存，空闲的{WANTED}）")
                if gpu.unified
                else (
                    "驱动没有给出显存大小（vGPU、容器里常见）",
                    f"nvidia-smi 和租机器的网页（看这块卡分到多少，{WANTED}）",
                )
            )
        return warned(FIT, f"{found}；权重要 {size.weights_gib:.1f} GiB", fix)
    room = kv_budget_gib(gpu.total_gib, size.weights_gib, utilization=utilization)
    kv_gib = max_model_len * size.kv_bytes_per_token / GIB
    share = f"CUDA 看得到 {gpu.total_gib:.1f} GiB × {utilization:g} = {gpu.total_gib * utilization:.1f} GiB"
    rest = f"{REST_GIB[0]:g}–{REST_GIB[1]:g}"
    parts = f"权重 {size.weights_gib:.1f} + 其他约 {rest} + {max_model_len} token 的 KV {kv_gib:.2f}"
    if room >= kv_gib:
        least, most = (
            _many((room + RUNTIME_GIB - rest) * GIB / size.kv_bytes_per_token) for rest in reversed(REST_GIB)
        )
        found = (
            f"{share}，放得下{parts}；KV 缓存估计一共 {least}–{most} token，启动日志里 Available KV cache memory 说了算"
        )
        return ok(FIT, found)
    length = int(max(room, 0) * GIB / size.kv_bytes_per_token) // 256 * 256
    fix = f"export TUTORIAL_MAX_MODEL_LEN={length}" if length >= 512 else _what_fits(gpu.total_gib, size, utilization)
    return failed(FIT, f"{share}，估计放不下{parts}", fix)


def _what_fits(card_gib: float, size: ModelSize, utilization: float) -> str:
    """What to do with a card that is too small for `size`: the largest smaller model that fits, if one does."""
    bytes_per_weight = round(size.weights_gib * GIB / size.parameters)
    for name, config in reversed(FAMILY.items()):
        small = model_size(config, bytes_per_weight=bytes_per_weight)
        room = kv_budget_gib(card_gib, small.weights_gib, utilization=utilization)
        tokens = room * GIB / small.kv_bytes_per_token
        if small.parameters < size.parameters and tokens >= ROOM:
            return (
                f"export TUTORIAL_MODEL={name.lower()}\n这块卡放得下 {name}：权重 {small.weights_gib:.1f} GiB，"
                f"KV 缓存约 {_many(tokens)} token；要用原来的模型，就换显存更大的卡"
            )
    return "这块卡连 1.5B 也放不下：换一张 8 GB 以上的显卡（7B 要 20 GB 以上），或者 export TUTORIAL_PROFILE=classroom"


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
    here = [app for app in apps if app.gpu_uuid == gpu.uuid]
    known, unknown = [app for app in here if app.about], [app for app in here if not app.about]
    names = [f"PID {app.pid} {_with_size(app)}（{app.about}）" for app in known]
    names += [_with_size(app) for app in unknown if not app.name.startswith("[")]
    who = "占着的是 " + "、".join(names) if names else "看不到是谁占着（容器里常见）"
    mine = [str(app.pid) for app in known if app.mine]
    ways = [f"不再用它的话：kill {' '.join(mine)}"] if mine else []
    if gpu.free_gib >= needed_gib:
        smaller = math.floor(gpu.free_gib / gpu.total_gib * 100) / 100
        ways.insert(0, f"export TUTORIAL_GPU_MEMORY_UTILIZATION={smaller:g}")
    if unknown:
        ways.append("看不出是谁的：先关掉自己别的笔记本的内核，还占着就换一张卡、换一台机器")
    elif len(known) > len(mine):
        ways.append("别人的进程：请主人停下，或者换一张卡、换一台机器")
    if not ways:
        ways.append("关掉其他笔记本的内核再试；还不行就重启实例")
    return failed(FREE, f"{gpu.free_gib:.1f} GiB，vLLM 启动时要 {share:.1f} GiB；{who}", "\n".join(ways))


def _with_size(app: GpuApp) -> str:
    return f"{app.name} {app.used_gib:.1f} GiB" if app.used_gib else app.name


def _many(tokens: float) -> str:
    return f"{tokens / 10000:.1f} 万" if tokens >= 10000 else f"{max(tokens, 0):.0f}"
