"""`python -m helpers.authoring.report cpu` and `python -m helpers.authoring.report gpu`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from helpers import get_profile
from helpers.authoring.report import cpu, gpu
from helpers.config import REPO_ROOT
from helpers.errors import TutorialError

FOLDER = REPO_ROOT / "build" / "report"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.authoring.report", description="Measure and save a report."
    )
    parser.add_argument("kind", choices=("cpu", "gpu"))
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each size (default 5)")
    parser.add_argument("--weights", default="DeepSeek-R1-Distill-Qwen-7B", help="gpu: what the checkpoint holds")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the command itself")
    parsed = parser.parse_args(arguments)
    path = FOLDER / f"{parsed.kind}.json"

    def save(report: dict[str, Any]) -> None:
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    common: dict[str, Any] = {"folder": FOLDER / parsed.kind, "repeats": parsed.repeats, "quick": parsed.quick}
    try:
        if parsed.kind == "cpu":
            save(cpu.measure(get_profile(), **common))
        else:
            gpu.measure(get_profile(), weights=parsed.weights, save=save, **common)
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{parsed.kind}: {path.relative_to(REPO_ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
