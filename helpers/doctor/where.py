"""Where the doctor runs, and fixes that work there: in a notebook `export` reaches nothing, in a container `mount`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from helpers.config import AUTODL_DATA_DISK, REPO_ROOT
from helpers.doctor.check import Check

__all__ = ["advice", "for_notebook", "in_conda", "in_container", "in_kernel", "made_by_make", "on_autodl"]

ASSIGNMENT = r"[A-Za-z_]\w*=(?:'[^']*'|[^\s；，。（）']*)"
EXPORT = re.compile(rf"export ({ASSIGNMENT}(?: {ASSIGNMENT})*)")
UNSET = re.compile(r"unset ([A-Za-z_]\w*(?: [A-Za-z_]\w*)*)")
IN_NOTEBOOK = (
    "%env 和 os.environ 这样的行：写在笔记本第一格代码之前另加的一格里，再重启内核，从头运行。别的笔记本也要，"
    "就在注册内核时用 --env 写进去（见 README“可以改的设置”）。"
)
IN_TERMINAL = "export 只管这个终端。笔记本里要的话，在第一格代码之前加一格，把 export X=… 写成 %env X=…，再重启内核。"


def in_kernel() -> bool:
    """Whether a notebook asks: in its kernel, or in a process that the kernel started."""
    if "ipykernel" in sys.modules:
        return True
    try:
        return any("ipykernel" in word for parent in psutil.Process().parents() for word in parent.cmdline())
    except psutil.Error:
        return False


def made_by_make() -> bool:
    """Whether this Python is that of a set which `make` keeps in order; else pip must do it."""
    folder = Path(sys.prefix).resolve()
    return folder.parent == REPO_ROOT and folder.name.startswith(".venv")


def in_conda() -> bool:
    """Whether this Python is that of a conda environment: conda keeps its records there, activated or not."""
    return Path(sys.prefix, "conda-meta").is_dir()


def in_container(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a container, such as Docker's, Kubernetes's or AutoDL's: nothing can be mounted there."""
    marks = Path("/.dockerenv"), Path("/run/.containerenv")
    return on_autodl(environ) or "KUBERNETES_SERVICE_HOST" in environ or any(mark.exists() for mark in marks)


def on_autodl(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this machine is rented from AutoDL."""
    return "AutoDLService6006URL" in environ or AUTODL_DATA_DISK.is_dir()


def for_notebook(check: Check) -> Check:
    """The check with a fix that works in a cell: `%env X=1` instead of `export X=1`."""
    fix = EXPORT.sub(lambda found: "\n".join(_magic(word) for word in re.findall(ASSIGNMENT, found[1])), check.fix)
    fix = UNSET.sub(lambda found: "import os; " + "; ".join(map(_removal, found[1].split())), fix)
    return replace(check, fix=fix)


def advice(checks: Sequence[Check]) -> str:
    """One line for the end of the table: how to use the fixes that set a variable; empty where none does."""
    fixes = " ".join(check.fix for check in checks)
    if "%env" in fixes or "os.environ" in fixes:
        return IN_NOTEBOOK
    return IN_TERMINAL if EXPORT.search(fixes) else ""


def _magic(assignment: str) -> str:
    name, _, value = assignment.partition("=")
    return f"%env {name}={value.strip(chr(39))}"


def _removal(name: str) -> str:
    return f'os.environ.pop("{name}", None)'
