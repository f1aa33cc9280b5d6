"""Which of several cards vLLM would take, and which one it should take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from helpers.doctor.check import Check, failed, ok, warned
from helpers.doctor.smi import Gpu

__all__ = ["best", "check_use", "named", "visible_gpus"]

USE = "用哪张卡"
VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


def visible_gpus(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """The cards that CUDA will show, in its order; like CUDA, stop at the first entry that names no card.

    Only with `CUDA_DEVICE_ORDER=PCI_BUS_ID` does CUDA count as `nvidia-smi` does; else the fastest card comes first.
    Which one that is, CUDA alone knows: here the newest and largest.
    """
    numbered = list(gpus)
    if _in_own_order(gpus, environ):
        numbered.sort(key=lambda gpu: (gpu.capability or (0, 0), gpu.total_gib or 0), reverse=True)
    if environ.get(VISIBLE) is None:
        return numbered
    chosen: list[Gpu] = []
    for entry in _entries(environ):
        match = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        if entry.isdecimal():
            match = numbered[int(entry) : int(entry) + 1]
        if entry.startswith("MIG-"):
            match = [gpu for gpu in gpus if gpu.mig]
        if not match:
            break
        chosen.append(match[0])
    return chosen


def best(judged: Sequence[Sequence[Check]]) -> int:
    """Position of the card with the fewest FAIL, then the fewest WARN; the first of equals."""
    counts = [[sum(check.status == status for check in checks) for status in ("FAIL", "WARN")] for checks in judged]
    return counts.index(min(counts))


def named(gpu: Gpu, checks: Sequence[Check]) -> list[Check]:
    """The checks of one card among several, with its number."""
    return [replace(check, found=f"显卡 {gpu.index}：{check.found}") for check in checks]


def check_use(
    every: Sequence[Gpu], visible: Sequence[Gpu], judged: Sequence[Sequence[Check]], environ: Mapping[str, str]
) -> Check:
    """Will vLLM, which takes the first card that CUDA shows, take the best one?

    Args:
        every: the cards of this machine.
        visible: those that CUDA shows, in its order.
        judged: the checks of each visible card.
    """
    value = environ.get(VISIBLE, "")
    if not visible:
        return failed(USE, f"有显卡，可是 {_hides(value, every)}", f"unset {VISIBLE}")
    first, choice = visible[0], visible[best(judged)]
    fix = f"export {ORDER}=PCI_BUS_ID {VISIBLE}={choice.index}"
    if choice is not first:
        bad = min(judged[0], key=lambda check: ("FAIL", "WARN", "OK").index(check.status))
        found = f"会用{_name(first)}，可是它的“{bad.name}”不行（{bad.found}）；{_name(choice)}更合适"
        usable = all(check.status != "FAIL" for check in judged[best(judged)])
        return (failed if usable and bad.status == "FAIL" else warned)(USE, found, fix)
    entries = _entries(environ)
    if len(visible) < len(entries):
        found = f"{VISIBLE}={value}：这里没有 {entries[len(visible)]} 这张卡，CUDA 从它起都不看；会用{_name(first)}"
        return warned(USE, found, fix)
    if entries and entries[0].startswith("GPU-") and entries[0] != first.uuid:
        return warned(USE, f"{VISIBLE}={value}：CUDA 认得缩短的 UUID，vLLM 只认完整的", fix)
    if _in_own_order(every, environ) and not (entries and entries[0].startswith("GPU-")):
        names = "、".join(_name(gpu) for gpu in every)
        return warned(USE, f"{names}：型号不同，CUDA 自己把最快的排在最前，编号和 nvidia-smi 的不一样", fix)
    return ok(USE, f"会用{_name(first)}" + (f"，CUDA 看得到 {len(visible)} 块" if len(visible) > 1 else ""))


def _in_own_order(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> bool:
    """Whether CUDA may count the cards in another order than `nvidia-smi`."""
    return environ.get(ORDER) != "PCI_BUS_ID" and len({gpu.name for gpu in gpus}) > 1


def _entries(environ: Mapping[str, str]) -> list[str]:
    return [entry.strip() for entry in environ[VISIBLE].split(",")] if VISIBLE in environ else []


def _hides(value: str, every: Sequence[Gpu]) -> str:
    if not value.strip():
        return f"{VISIBLE} 是空的：CUDA 一张也看不到"
    if value.strip() == "-1":
        return f"{VISIBLE}=-1 的意思是一张也不用"
    return f"{VISIBLE}={value} 里没有这里的卡（编号有 {'、'.join(str(gpu.index) for gpu in every)}）"


def _name(gpu: Gpu) -> str:
    return f"显卡 {gpu.index}（{gpu.name}）"
