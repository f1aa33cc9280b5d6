"""`python -m helpers.doctor [--json | --report]`: the table of checks; exit status 1 if one fails.

`--report` prints what to paste when asking for help instead, and always exits with 0.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict

from helpers.config import get_profile
from helpers.doctor import render, run_checks, where
from helpers.doctor.check import failed
from helpers.doctor.install import PROFILE
from helpers.doctor.report import report
from helpers.errors import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Print the checks of this machine; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.doctor", description="检查这台机器能不能运行本课程")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="输出 JSON，给脚本用")
    form.add_argument("--report", action="store_true", help="输出一屏报告，求助时贴出来；里面没有用户名、主机名和密钥")
    options = parser.parse_args(arguments)
    try:
        profile = get_profile()
        checks = run_checks(profile)
    except ConfigError as error:
        profile = None
        checks = [failed(PROFILE, str(error), "unset " + " ".join(re.findall(r"TUTORIAL_\w+", str(error))[:1]))]
        checks = [where.for_notebook(check) for check in checks] if where.in_kernel() else checks
    if options.report:
        print(report(profile, checks))
        return 0
    sound = all(check.status != "FAIL" for check in checks)
    if options.json:
        print(json.dumps({"ok": sound, "checks": [asdict(check) for check in checks]}, ensure_ascii=False, indent=2))
    else:
        print(render(checks, advice=where.advice(checks)))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
