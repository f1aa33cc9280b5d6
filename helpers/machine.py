"""What this machine has: cards, versions, ports, addresses. Everything that asks the machine asks here."""

from __future__ import annotations

import datetime
import os
import platform
import re
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from helpers.errors import ServerError

__all__ = [
    "SmiAnswer", "ask_smi", "cuda_gpus", "cuda_memory_gib", "cuda_total_gib", "describe", "free_port",
    "installed_version", "lan_address", "port_is_free", "port_owner",
]  # fmt: skip

PACKAGES = ("vllm", "torch", "transformers", "openai", "modelscope", "jupyterlab")
SMI_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class SmiAnswer:
    """What one call of `nvidia-smi` gave: `status` is None when it is not installed, 124 when it hung."""

    status: int | None
    output: str


def ask_smi(*arguments: str, timeout_s: float = SMI_TIMEOUT_S) -> SmiAnswer:
    """Run `nvidia-smi` and return what it said, also when it failed, hung or is not there.

    Args:
        arguments: for example `-L`, or a query such as `--query-gpu=name`, to which the format without units is added.
    """
    format_ = ["--format=csv,noheader,nounits"] if any(word.startswith("--query") for word in arguments) else []
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments, *format_], capture_output=True, text=True, errors="replace", timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return SmiAnswer(124, "")
    except OSError:
        return SmiAnswer(None, "")
    return SmiAnswer(done.returncode, done.stdout + done.stderr)


def cuda_gpus() -> list[str]:
    """Name the CUDA devices that this process may use, as `nvidia-smi` lists them, without loading CUDA.

    Returns:
        One line per device, for example `GPU 0: NVIDIA GeForce RTX 4090 (UUID: …)`; empty when there is none.
    """
    listed = ask_smi("-L").output  # a failing status with cards in the list: one of several is lost
    found = [block for block in re.split(r"^(?=GPU \d)", listed, flags=re.MULTILINE) if re.match(r"GPU \d", block)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [block.splitlines()[0] for block in found]
    chosen: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        uuid = f"(UUID: {entry}" if entry.startswith(("GPU-", "MIG-")) else "\0"
        match = [block for block in found if block.startswith(f"GPU {entry}:") or uuid in block]
        if not match:  # CUDA stops at the first entry that names no card
            break
        chosen.append(match[0].splitlines()[0])
    return chosen


def cuda_total_gib(total_mib: float, reserved_mib: float | None) -> float:
    """GiB of a card as CUDA counts them, and vLLM with it: nvidia-smi's total less what the driver keeps for itself.

    Seen on an H100, to the MiB: 81559 - 480 = 81079, which is what CUDA says.

    Args:
        total_mib, reserved_mib: `memory.total` and `memory.reserved` of nvidia-smi; None: it does not tell, then 1.5 %
            (what a 24 GB card of the RTX series loses).
    """
    return (total_mib * 0.985 if reserved_mib is None else total_mib - reserved_mib) / 1024


def cuda_memory_gib() -> float | None:
    """GiB, as CUDA counts them, of the smallest card that this process may use; without loading CUDA.

    Returns:
        None where nvidia-smi does not tell: no card, unified memory, or only a slice of a card (MIG).
    """
    cards = "\n".join(cuda_gpus())
    found = []
    for row in ask_smi("--query-gpu=uuid,mig.mode.current,memory.total,memory.reserved").output.splitlines():
        uuid, mig, total, reserved = (row.split(", ") + [""] * 4)[:4]
        if uuid.startswith("GPU-") and f"(UUID: {uuid})" in cards:
            if mig == "Enabled" or not total.isdigit():
                return None
            found.append(cuda_total_gib(int(total), int(reserved) if reserved.isdigit() else None))
    return min(found, default=None)


def installed_version(distribution: str) -> str | None:
    """Version from the metadata of an installed distribution, None without it; the package is not imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def port_is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `host`:`port` now, and none is about to.

    vLLM takes its port at once but listens only when it is ready. Until then only a strict bind fails; one also fails
    for a minute after a server has stopped, but then the kernel lists the connections that are closing.
    """
    return _can_bind(host, port, reuse=True) and (_can_bind(host, port, reuse=False) or _has_connections(port))


def _can_bind(host: str, port: int, *, reuse: bool) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def _has_connections(port: int) -> bool:
    try:
        return any(connection.laddr and connection.laddr.port == port for connection in psutil.net_connections("tcp"))
    except psutil.Error:  # the system does not tell
        return True


def free_port(preferred: int) -> int:
    """Return `preferred` if nobody listens on it, else the next free port on 127.0.0.1.

    Raises:
        ServerError: `preferred` is no port number (1–65535), or no port above it is free.
    """
    if isinstance(preferred, bool) or not isinstance(preferred, int) or not 1 <= preferred <= 65535:
        raise ServerError(f"端口要是 1 到 65535 之间的整数，现在是 {preferred!r}。")
    for port in range(preferred, 65536):
        if port_is_free(port):
            return port
    raise ServerError(f"从 {preferred} 到 65535 没有空闲的端口。请换一个小一些的端口号。")


def port_owner(port: int) -> psutil.Process | None:
    """The process that listens on `port`, if the system tells (it hides other users' processes)."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return psutil.Process(connection.pid) if connection.pid else None
    return None


def lan_address() -> str:
    """The address by which other machines of the network reach this one; without a network, its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # UDP: connecting sends nothing
        try:
            probe.connect(("10.255.255.255", 1))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def describe() -> dict[str, Any]:
    """Name the machine, the versions and the date, for the head of a report. Introduced in notebook 07."""
    cpuinfo = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    gpus = cuda_gpus()
    answer = ask_smi("--query-gpu=memory.total,driver_version").output if gpus else ""
    rows = [row.split(", ") for row in answer.splitlines() if row.count(", ") == 1]
    memory_mib, driver = rows[0] if rows else (None, None)
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": [re.sub(r"^GPU \d+: | \(UUID.*", "", gpu) for gpu in gpus],
        "gpu_memory_gib": round(int(memory_mib) / 1024, 1) if memory_mib and memory_mib.isdigit() else None,
        "driver": driver,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := installed_version(name))},
    }
