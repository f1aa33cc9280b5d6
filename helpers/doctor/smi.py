"""What `nvidia-smi` says of the cards and of the processes on them. Nothing here judges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from helpers.machine import cuda_total_gib

__all__ = ["APP_QUERY", "GPU_QUERY", "LOST", "Gpu", "GpuApp", "parse_apps", "parse_gpus"]

# The name stands last: it alone may hold a comma.
GPU_QUERY: Final = (
    "index,uuid,driver_version,memory.total,memory.reserved,memory.free,compute_cap,mig.mode.current,name"
)
APP_QUERY: Final = "pid,used_memory,gpu_uuid,process_name"
LOST: Final = (
    "GPU is lost", "Unable to determine the device handle", "requires reset", "fallen off", "Unknown Error", "ERR!",
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """One card. A field is None where `nvidia-smi` gave no number (`[N/A]`, `[Not Supported]`, …).

    `total_gib` is what CUDA has of it, and vLLM with it: a little less than `nvidia-smi` shows.
    """

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

    `about`: user, folder and age, where this system knows the process under that number; empty where it does not
    (in a container `nvidia-smi` gives the host's numbers). `mine`: it is this user's.
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
        fields = [field.strip() for field in line.split(",", 8)]
        if len(fields) == 9 and fields[0].isdigit():
            index, uuid, driver, total, reserved, free, capability, mig, name = fields
            mib = _number(total)
            total_gib = None if mib is None else cuda_total_gib(mib, _number(reserved))
            free_gib = _gib(free)
            lost = any(text in line for text in LOST)
            gpus.append(
                Gpu(
                    int(index), uuid, name, driver, total_gib, free_gib, _capability(capability), mig == "Enabled", lost
                )
            )
    return gpus


def parse_apps(text: str) -> list[GpuApp]:
    """Read `nvidia-smi --query-compute-apps=APP_QUERY --format=csv,noheader,nounits`."""
    rows = [[field.strip() for field in line.split(",", 3)] for line in text.splitlines()]
    return [GpuApp(int(row[0]), row[3], _gib(row[1]), row[2]) for row in rows if len(row) == 4 and row[0].isdigit()]


def _number(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _gib(text: str) -> float | None:
    mib = _number(text)  # nvidia-smi counts in MiB
    return None if mib is None else mib / 1024


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None
