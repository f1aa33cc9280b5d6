"""`python -m helpers.authoring.report cpu | gpu | notebooks`: measure, and save under `build/report`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers import get_profile
from helpers.authoring.report import cpu, gpu, notebooks
from helpers.bench import measured
from helpers.config import REPO_ROOT
from helpers.errors import BenchmarkError, TutorialError

FOLDER = REPO_ROOT / "build" / "report"
SHIPPED = REPO_ROOT / "helpers" / "bench"


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parse(arguments)
    name = "gpu_notebooks" if parsed.kind == "notebooks" else parsed.kind
    path = FOLDER / ("quick" if getattr(parsed, "quick", False) else "") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _measure(parsed, path)
        print(f"{name}: {path.relative_to(REPO_ROOT)}")
        if parsed.keep:
            _keep(path)
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.authoring.report", description="Measure and save a report."
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    cpu_kind = kinds.add_parser("cpu", help="pairs on a machine without a GPU")
    gpu_kind = kinds.add_parser("gpu", help="one NVIDIA GPU")
    notebooks_kind = kinds.add_parser("notebooks", help="seconds of each notebook on a card")
    for kind in (cpu_kind, gpu_kind):
        kind.add_argument("--repeats", type=int, default=5, help="measurements of each size (default 5)")
        kind.add_argument("--quick", action="store_true", help="small sizes, to try the command itself")
    for kind in (gpu_kind, notebooks_kind):
        kind.add_argument("--weights", default="DeepSeek-R1-Distill-Qwen-7B", help="what the checkpoint holds")
    for kind in (cpu_kind, gpu_kind, notebooks_kind):
        kind.add_argument("--keep", action="store_true", help="ship it: copy the complete report to helpers/bench")
    gpu_kind.add_argument(
        "--parts", type=_parts, default=[*gpu.PARTS], help=f"measure only these, keep the rest: {','.join(gpu.PARTS)}"
    )
    notebooks_kind.add_argument("--numbers", nargs="+", default=[], help="for example 07 08 (default: all)")
    parsed = parser.parse_args(arguments)
    if parsed.keep and getattr(parsed, "quick", False):
        parser.error("--quick 的数字只用来试这个命令，不能用 --keep 留下")
    return parsed


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    unknown = [part for part in parts if part not in gpu.PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"没有 {'、'.join(unknown)}，可选的是 {','.join(gpu.PARTS)}")
    return parts


def _measure(parsed: argparse.Namespace, path: Path) -> None:
    def save(report: dict[str, Any]) -> None:
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if parsed.kind == "notebooks":
        reports = [*([before] if before else []), measured("gpu_notebooks")]
        notebooks.measure(parsed.numbers, weights=parsed.weights, earlier=reports, save=save)
        return
    common: dict[str, Any] = {"folder": path.with_suffix(""), "repeats": parsed.repeats, "quick": parsed.quick}
    if parsed.kind == "cpu":
        save(cpu.measure(get_profile(), **common))
    else:
        earlier = None if {*parsed.parts} == {*gpu.PARTS} else before
        gpu.measure(get_profile(), weights=parsed.weights, parts=parsed.parts, earlier=earlier, save=save, **common)


def _keep(path: Path) -> None:
    lacks = gpu.missing(json.loads(path.read_text(encoding="utf-8"))) if path.stem == "gpu" else []
    if lacks:
        raise BenchmarkError(f"报告还缺 {'、'.join(lacks)}，没有复制到 helpers/bench。用 --parts 补测以后再留下。")
    shutil.copyfile(path, SHIPPED / path.name)
    print(f"{path.stem}: {(SHIPPED / path.name).relative_to(REPO_ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
