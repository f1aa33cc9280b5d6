"""`python -m helpers.report cpu` and `python -m helpers.report gpu`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers import get_profile
from helpers.config import REPO_ROOT
from helpers.errors import TutorialError
from helpers.report import cpu, gpu

FOLDER = REPO_ROOT / "build" / "report"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.report", description="Measure and save a report.")
    parser.add_argument("kind", choices=("cpu", "gpu"))
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each size (default 5)")
    parser.add_argument("--weights", default="DeepSeek-R1-Distill-Qwen-7B", help="gpu: what the checkpoint holds")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the command itself")
    parsed = parser.parse_args(arguments)
    folder = FOLDER / parsed.kind
    try:
        if parsed.kind == "cpu":
            report = cpu.measure(get_profile(), folder=folder, repeats=parsed.repeats, quick=parsed.quick)
        else:
            report = gpu.measure(
                get_profile(), folder=folder, weights=parsed.weights, repeats=parsed.repeats, quick=parsed.quick
            )
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    path = Path(f"{folder}.json")
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{parsed.kind}: {path.relative_to(REPO_ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
