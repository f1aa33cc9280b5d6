"""`python -m helpers.doctor [--json]`: the table of checks; exit status 1 if one fails."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict

from helpers.config import get_profile
from helpers.doctor import render, run_checks
from helpers.doctor.check import failed
from helpers.doctor.install import PROFILE
from helpers.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Print the checks of this machine; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.doctor", description="检查这台机器能不能运行本课程")
    parser.add_argument("--json", action="store_true", help="输出 JSON，给脚本用")
    as_json = parser.parse_args(arguments).json
    try:
        checks = run_checks(get_profile())
    except ConfigError as error:
        checks = [failed(PROFILE, str(error), "unset " + " ".join(re.findall(r"TUTORIAL_\w+", str(error))[:1]))]
    sound = all(check.status != "FAIL" for check in checks)
    if as_json:
        print(json.dumps({"ok": sound, "checks": [asdict(check) for check in checks]}, ensure_ascii=False, indent=2))
    else:
        print(render(checks))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
