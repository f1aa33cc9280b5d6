"""How long the notebooks take on this machine's card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from helpers.authoring import series
from helpers.errors import TutorialError
from helpers.machine import describe

__all__ = ["measure"]


def measure(
    numbers: Sequence[str], *, weights: str, earlier: Iterable[dict[str, Any]], save: Callable[[dict[str, Any]], object]
) -> None:
    """Run notebooks; their executed copies stand under `build/notebooks` afterwards.

    Args:
        numbers: for example `["07", "08"]`; empty: all.
        weights: what the checkpoint is.
        earlier: reports; the first one of the same card and vLLM version is carried on.
        save: gets the report after each notebook.

    Raises:
        TutorialError: there is no such notebook, or a cell failed.
    """
    paths = {path.name[:2]: path for path in series.notebook_paths()}
    unknown = [number for number in numbers if number not in paths]
    if unknown:
        raise TutorialError(f"没有编号为 {'、'.join(unknown)} 的笔记本，写成 03 05 这样的两位数")
    machine = describe()
    seconds: dict[str, float] = next((r["seconds"] for r in earlier if _card(r["machine"]) == _card(machine)), {})
    for number in numbers or paths:
        notebook, took = series.execute(paths[number])
        _write(notebook, paths[number])
        print(f"{paths[number].stem:34} {took:6.1f} s", flush=True)
        seconds = dict(sorted({**seconds, number: round(took, 1)}.items()))
        save({"machine": machine, "weights": weights, "seconds": seconds})


def _write(notebook: Any, path: Path) -> None:
    series.EXECUTED_DIR.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, series.EXECUTED_DIR / path.name)


def _card(machine: dict[str, Any]) -> tuple[Any, Any]:
    return machine["gpu"], machine["versions"].get("vllm")
