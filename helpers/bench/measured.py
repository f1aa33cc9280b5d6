"""The course's own measured figures, made by `make bench` and `make gpu-report`.

`cpu.json` and `gpu.json` beside this file are such reports, from the machines that they name; the notebooks and the
pictures read them. `gpu_notebooks.json` is copied from the logs of notebooks that ran on a GPU: `seconds` of each
(03 to 06 in an earlier session, on a card of the same kind), `pairs` (output tok/s of the rounds of notebook 07,
section 2), `serve` (its section 3) and, from a script that ran after it, `processes`: the CPU cores that each process
kept busy during `vllm bench serve`, by psutil, the median of 0.5 s samples.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.errors import BenchmarkError

__all__ = ["measured"]


def measured(name: str) -> dict[str, Any]:
    """Read figures that ship with the course.

    Args:
        name: `cpu`, `gpu` or `gpu_notebooks`.

    Raises:
        BenchmarkError: there is no such report.
    """
    path = Path(__file__).with_name(f"{name}.json")
    if not path.is_file():
        raise BenchmarkError(f"没有 {path}：可选的报告是 cpu、gpu 和 gpu_notebooks")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report
