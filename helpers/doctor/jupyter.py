"""Which Jupyter runs here, and what the course's kernel gets from it. For the report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from helpers.machine import installed_version

__all__ = ["describe"]


def describe() -> str:
    """JupyterLab here and the one that runs, where `PATH` begins, and what the registered kernels set."""
    here = installed_version("jupyterlab") or "没有"
    first = os.environ.get("PATH", "").partition(os.pathsep)[0] or "空"
    kernels = "；".join(_kernels()) or "没有注册"
    running = "、".join(_running()) or "没有"
    return f"这里的 {here}，正在运行的 {running}；PATH 第一项 {first}；用这个 Python 的内核：{kernels}"


def _running() -> list[str]:
    """Versions of the JupyterLab servers that run: on AutoDL the platform's, from another Python than the course's."""
    versions = set()
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if any(Path(word).name in ("jupyter-lab", "jupyterlab") for word in command[:4]):
            found = sorted(Path(command[0]).parent.parent.glob("lib/python3*/site-packages/jupyterlab-*.dist-info"))
            versions.add(found[0].name.split("-")[1].removesuffix(".dist") if found else "版本看不到")
    return sorted(versions)


def _kernels() -> Iterator[str]:
    """Each kernel that starts this Python, with the variables that it sets."""
    for base in dict.fromkeys([Path.home() / ".local", Path(sys.prefix), Path("/usr/local")]):
        for file in sorted(base.glob("share/jupyter/kernels/*/kernel.json")):
            try:
                spec = json.loads(file.read_text(encoding="utf-8"))
                program, settings = spec["argv"][0], spec.get("env") or {}
            except (OSError, ValueError, LookupError, TypeError):
                continue
            if program == sys.executable or program == "python":
                first = str(settings.get("PATH", "")).partition(os.pathsep)[0]
                names = "、".join(sorted(settings)) or "没有设变量"
                yield f"{file.parent.name}（{names}{f'，PATH 第一项 {first}' if first else ''}）"
