"""What this machine shows: the only part of the doctor that reads the system. Nothing here judges."""

from __future__ import annotations

import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

from helpers.config import REPO_ROOT
from helpers.doctor.host import Listener, VllmProcess, cgroup_free, looks_like_vllm
from helpers.machine import port_is_free, port_owner

__all__ = [
    "STATE_DIR", "available_memory", "compiler", "course_pids", "cpu_flags", "listener_on", "requirements_of",
    "shm_bytes", "vllm_processes",
]  # fmt: skip

STATE_DIR: Final = REPO_ROOT / "build" / "servers"  # written by helpers.server, one file per port


def requirements_of(distribution: str) -> list[str]:
    """What an installed distribution asks for; empty when it is not installed."""
    try:
        return metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []


def cpu_flags() -> list[str]:
    """Instruction set flags of the first processor; empty where /proc/cpuinfo has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


def available_memory() -> tuple[int, int]:
    """Bytes of RAM of this machine, and bytes of it that this process may still take (a container's limit counts)."""
    memory, limit = psutil.virtual_memory(), cgroup_free(Path("/sys/fs/cgroup"))
    return memory.total, memory.available if limit is None else min(limit, memory.available)


def shm_bytes() -> int | None:
    """Size of /dev/shm, None where there is none."""
    return shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None


def compiler() -> str | None:
    """The C compiler that Triton would take: $CC, gcc, cc or clang."""
    names = (os.environ.get("CC"), "gcc", "cc", "clang")
    return next((path for path in (shutil.which(name) for name in names if name) if path), None)


def listener_on(port: int) -> Listener | None:
    """Who listens on a TCP port, None when nobody does."""
    if owner := port_owner(port):
        return Listener(owner.pid, owner.name())
    return None if port_is_free(port) else Listener(None, "")


def course_pids(state_dir: Path = STATE_DIR) -> set[int]:
    """Living servers of this course and their children; a pid counts only with the start time that was recorded."""
    pids: set[int] = set()
    for file in state_dir.glob("*.json") if state_dir.is_dir() else ():
        try:
            state = json.loads(file.read_text())
            process = psutil.Process(int(state["pid"]))
            if abs(process.create_time() - float(state["create_time"])) < 1:
                pids |= {process.pid, *(child.pid for child in process.children(recursive=True))}
        except (OSError, ValueError, TypeError, LookupError, psutil.Error):
            continue
    return pids


def vllm_processes(course: set[int]) -> list[VllmProcess]:
    """Every process that looks like vLLM, and what looks after it."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "terminal"]):
        name, command = process.info["name"] or "", process.info["cmdline"] or []
        if not looks_like_vllm(name, command):
            continue
        try:
            ancestors = [word for parent in process.parents() for word in parent.cmdline()]
        except psutil.Error:
            continue
        owner = "terminal" if process.info["terminal"] else "unknown"
        owner = "notebook" if any("ipykernel" in word for word in ancestors) else owner
        found.append(VllmProcess(process.pid, name, "course" if process.pid in course else owner))
    return found
