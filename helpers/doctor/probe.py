"""What this machine shows: the only part of the doctor that reads the system. Nothing here judges."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import psutil

from helpers.doctor.gpu import GpuApp
from helpers.doctor.host import Listener, VllmProcess, cgroup_free, looks_like_vllm
from helpers.machine import port_is_free, port_owner
from helpers.server.state import members, state_files

__all__ = [
    "available_memory", "compiler", "course_pids", "cpu_flags", "listener_on", "missing_tools", "requirements_of",
        "shm_bytes", "vllm_processes", "with_owners",
]  # fmt: skip


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


def missing_tools(path: str) -> list[str]:
    """What FlashInfer compiles with and `path` lacks; nvcc is also looked for where CUDA puts it."""
    cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    return [tool for tool in ("ninja", "nvcc") if not shutil.which(tool, path=f"{path}{os.pathsep}{cuda}")]


def listener_on(port: int) -> Listener | None:
    """Who listens on a TCP port, None when nobody does."""
    if owner := port_owner(port):
        return Listener(owner.pid, owner.name())
    return None if port_is_free(port) else Listener(None, "")


def course_pids() -> set[int]:
    """Processes of this course's living servers."""
    states = [state for file in state_files() if (state := file.living())]
    return {process.pid for state in states for process in members(state)}


def vllm_processes(course: set[int]) -> list[VllmProcess]:
    """Every process that looks like vLLM, and what looks after it."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "terminal", "status", "uids", "cwd", "create_time"]):
        name, command = process.info["name"] or "", process.info["cmdline"] or []
        if not looks_like_vllm(name, command) or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if process.info["uids"].real != os.getuid():
            continue
        try:
            ancestors = [word for parent in process.parents() for word in parent.cmdline()]
        except psutil.Error:
            continue
        owner = "terminal" if process.info["terminal"] else "unknown"
        owner = "keeper" if "helpers.server.keeper" in ancestors else owner  # of another copy of the course
        owner = "notebook" if any("ipykernel" in word for word in ancestors) else owner
        words = [word.split("=")[-1] for word in " ".join(command).replace("--port ", "--port=").split()
                 if word.startswith("--port=")]  # fmt: skip
        about = [*(f"端口 {word}" for word in words), f"文件夹 {process.info['cwd'] or '看不到'}", _age(process)]
        owner = "course" if process.pid in course else owner
        found.append(VllmProcess(process.pid, name, owner, "，".join(about)))
    return found


def with_owners(apps: Iterable[GpuApp]) -> list[GpuApp]:
    """The processes on a card, with user, folder and age where this system knows them under that number."""
    return [_with_owner(app) for app in apps]


def _with_owner(app: GpuApp) -> GpuApp:
    try:
        process = psutil.Process(app.pid)
        names = {process.name(), *(Path(word).name for word in process.cmdline()[:1])}
        if Path(app.name).name not in names:  # in a container the number may belong to something else
            return app
        user, mine, age = process.username(), process.uids().real == os.getuid(), _age(process)
    except psutil.Error:
        return app
    try:
        folder = process.cwd()
    except psutil.Error:  # another user's
        folder = "看不到"
    return replace(app, mine=mine, about=f"用户 {user}，文件夹 {folder}，{age}")


def _age(process: psutil.Process) -> str:
    minutes = (time.time() - process.create_time()) / 60
    return f"运行了 {minutes:.0f} 分钟" if minutes < 60 else f"运行了 {minutes / 60:.1f} 小时"
