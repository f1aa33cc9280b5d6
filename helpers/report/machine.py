"""On what a report was measured."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from helpers.config import cuda_gpus

__all__ = ["describe"]

PACKAGES = ("vllm", "torch", "transformers", "openai", "modelscope", "jupyterlab")


def describe() -> dict[str, Any]:
    """Name the machine, the versions and the date, for the head of a report."""
    cpuinfo = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": [re.sub(r"^GPU \d+: | \(UUID.*", "", gpu) for gpu in cuda_gpus()],
        "gpu_memory_gib": round(int(found) / 1024, 1) if (found := _nvidia_smi("memory.total")) else None,
        "driver": _nvidia_smi("driver_version"),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _nvidia_smi(field: str) -> str | None:
    """One field of the first card; MiB, where it is memory."""
    if not cuda_gpus():
        return None
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
