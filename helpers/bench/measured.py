"""The course's own measured figures, from the machines that they name; the notebooks and the pictures read them.

`python -m helpers.authoring.report cpu | gpu | notebooks --keep` writes `cpu.json`, `gpu.json` and `gpu_notebooks.json`
(`seconds` of each notebook on a card) beside this file, `python -m helpers.authoring.report.family --keep`
`gpu_family.json` (what each shape of the family takes and gives).
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
        name: `cpu`, `gpu`, `gpu_notebooks` or `gpu_family`.

    Raises:
        BenchmarkError: there is no such report.
    """
    path = Path(__file__).with_name(f"{name}.json")
    if not path.is_file():
        raise BenchmarkError(f"没有 {path}：可选的报告是 cpu、gpu、gpu_notebooks 和 gpu_family")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report
