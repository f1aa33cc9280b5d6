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

from helpers.doctor import limits
from helpers.doctor.host import Listener, VllmProcess, looks_like_vllm
from helpers.doctor.smi import GpuApp
from helpers.machine import port_is_free, port_owner
from helpers.server.state import members, state_files

__all__ = [
    "available_memory", "card_users", "compiler", "course_pids", "cpu_flags", "listener_on", "missing_tools",
    "requirements_of", "shm_bytes", "trash", "vllm_processes", "with_owners",
]  # fmt: skip

CARD_FILES = "/dev/nvidia-uvm", "/dev/dxg"  # what a process that computes on a card has open; dxg: on WSL
OURS = "python", "vllm", "VLLM::"  # names of processes


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
    """Bytes of RAM, and bytes of it that this process may still take; in a container its own limit counts."""
    memory, limit = psutil.virtual_memory(), limits.memory_limit()
    if limit is None:
        return memory.total, memory.available
    return min(limit.total, memory.total), min(limit.free, memory.available)


def shm_bytes() -> int | None:
    """Size of /dev/shm, None where there is none."""
    return shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None


def trash(folder: Path) -> dict[Path, int]:
    """What was deleted in JupyterLab or on the desktop and still lies on the disk of `folder`: trash → bytes."""
    disk = folder.resolve()
    while not disk.exists() or not disk.is_mount():
        disk = disk.parent
    places = disk / f".Trash-{os.getuid()}", Path.home() / ".local" / "share" / "Trash"
    sizes = {place: _size(place) for place in places if place.is_dir() and _disk(place) == _disk(disk)}
    return {place: size for place, size in sizes.items() if size >= 2**20}


def _disk(folder: Path) -> int:
    return folder.stat().st_dev


def _size(folder: Path) -> int:
    files = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(file).st_size for file in files)


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


def card_users(gpu_uuid: str) -> list[GpuApp]:
    """This user's Python processes that have a card open. For a container, where `nvidia-smi` lists none of them."""
    found = [_with_owner(GpuApp(process.pid, process.name(), None, gpu_uuid)) for process in psutil.process_iter()
             if _has_card_open(process.pid)]  # fmt: skip
    return [app for app in found if app.mine]


def _with_owner(app: GpuApp) -> GpuApp:
    """Only a process of Python or vLLM is named: in a container the number may belong to something else."""
    try:
        process = psutil.Process(app.pid)
        names = {process.name(), *(Path(word).name for word in process.cmdline()[:1])}
        mine = process.uids().real == os.getuid()
        known = Path(app.name).name in names and any(name.startswith(OURS) for name in names)
        if not known or (mine and not _has_card_open(app.pid)):
            return app
        user, age = process.username(), _age(process)
    except psutil.Error:
        return app
    try:
        folder = process.cwd()
    except psutil.Error:  # another user's
        folder = "看不到"
    return replace(app, mine=mine, about=f"用户 {user}，文件夹 {folder}，{age}")


def _has_card_open(pid: int) -> bool:
    try:
        return any(os.readlink(file.path).startswith(CARD_FILES) for file in os.scandir(f"/proc/{pid}/fd"))
    except OSError:  # gone, or another user's
        return False


def _age(process: psutil.Process) -> str:
    minutes = (time.time() - process.create_time()) / 60
    return f"运行了 {minutes:.0f} 分钟" if minutes < 60 else f"运行了 {minutes / 60:.1f} 小时"
