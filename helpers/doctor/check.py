"""One result of the doctor, and the table that shows them all."""

from __future__ import annotations

import shlex
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["PYTHON_HERE", "Check", "Status", "display_width", "failed", "ok", "render", "warned"]

Status = Literal["OK", "WARN", "FAIL"]
PYTHON_HERE: Final = shlex.quote(sys.executable)  # commands with it work in a fresh terminal, without activation


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table. Introduced in notebook 01.

    Attributes:
        name: what was looked at.
        status: `OK`; `WARN`: the course works, with the limit that `found` tells; `FAIL`: mend it first.
        found: what is there on this machine.
        fix: command (or one step) that mends it, a line each; empty when the status is `OK`.
    """

    name: str
    status: Status
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """A line that needs nothing from the reader."""
    return Check(name, "OK", found)


def warned(name: str, found: str, fix: str) -> Check:
    """A line that the reader should know about."""
    return Check(name, "WARN", found, fix)


def failed(name: str, found: str, fix: str) -> Check:
    """A line that stops the course from working."""
    return Check(name, "FAIL", found, fix)


def display_width(text: str) -> int:
    """Columns that `text` takes in a terminal: a Chinese character takes two, a combining mark none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def render(checks: Sequence[Check], *, advice: str = "") -> str:
    """Lay the checks out as a table; the fix stands below its line, ready to be copied; `advice` ends it."""
    widest = max((display_width(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        padding = " " * (widest - display_width(check.name))
        lines.append(f"{check.status:<4}  {check.name}{padding}  {_one_line(check.found)}")
        lines += [f"{'':<4}  {'':<{widest}}  → {_one_line(fix)}" for fix in check.fix.splitlines() if fix.strip()]
    counts = {status: sum(check.status == status for check in checks) for status in ("OK", "WARN", "FAIL")}
    lines.append("")
    lines.append(f"共 {len(checks)} 项：" + "，".join(f"{count} {status}" for status, count in counts.items()))
    if advice:
        lines.append(advice)
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())
