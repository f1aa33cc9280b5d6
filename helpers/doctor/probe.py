"""What this machine shows: the only part of the doctor that reads the system. Nothing here judges."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

from helpers.config import REPO_ROOT
from helpers.doctor.gpu import SmiAnswer
from helpers.doctor.machine import Listener, VllmProcess, cgroup_free, looks_like_vllm

__all__ = [
    "STATE_DIR", "ask_smi", "available_memory", "can_listen", "compiler", "course_pids", "cpu_flags", "free_port",
    "installed_version", "listener_on", "requirements_of", "shm_bytes", "vllm_processes",
]  # fmt: skip

STATE_DIR: Final = REPO_ROOT / "build" / "servers"  # written by helpers.server, one file per port
SMI_TIMEOUT_S: Final = 3.0


def ask_smi(query: str, *, timeout_s: float = SMI_TIMEOUT_S) -> SmiAnswer:
    """Run `nvidia-smi query` and return what it said, also when it failed, hung or is not there."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="replace", timeout=timeout_s
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return SmiAnswer(124, "")
    except OSError:
        return SmiAnswer(None, "")
    return SmiAnswer(done.returncode, done.stdout + done.stderr)


def installed_version(distribution: str) -> str | None:
    """Version from the metadata of an installed distribution; the package itself is not imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


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
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            name = psutil.Process(connection.pid).name() if connection.pid else ""
            return Listener(connection.pid, name)
    return None if can_listen(port) else Listener(None, "")


def can_listen(port: int) -> bool:
    """Could a server bind 127.0.0.1:port now?"""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(after: int) -> int:
    """The next port above `after` that a server could bind."""
    return next((port for port in range(after + 1, 65536) if can_listen(port)), after)


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
