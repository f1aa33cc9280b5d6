"""The sanitize rules of nbval, each with a sample that it must change and one that it must not; and conftest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers.config import REPO_ROOT

CFG = (REPO_ROOT / "tests" / "nbval_sanitize.cfg").read_text(encoding="utf-8")
# nbval reads adjacent `regex:` and `replace:` lines and silently ignores every other form
RULES = dict(re.findall(r"^regex: (.*)\nreplace: (.*)$", CFG, re.MULTILINE))

SAMPLES = {r"\d+(\.\d+)? s\b": ("ready in 12.5 s, then 3 s", "ready in N s, then N s", "24 steps, 3 slots")}


def test_every_rule_is_read_and_has_a_sample() -> None:
    assert CFG.count("regex:") == len(RULES)
    assert set(RULES) == set(SAMPLES)


@pytest.mark.parametrize("rule", SAMPLES)
def test_rule(rule: str) -> None:
    before, after, untouched = SAMPLES[rule]
    assert re.sub(rule, RULES[rule], before) == after
    assert re.sub(rule, RULES[rule], untouched) == untouched


def run_nbval(folder: Path, *cells: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Run cells (source, stored stdout) under this repository's pytest settings."""
    code = []
    for source, stored in cells:
        outputs = [nbformat.v4.new_output("stream", name="stdout", text=stored)]
        tags = {"tags": ["nbval-check-output"]}
        code.append(nbformat.v4.new_code_cell(source, outputs=outputs, metadata=tags, execution_count=len(code) + 1))
    nbformat.write(nbformat.v4.new_notebook(cells=code), folder / "sample.ipynb")
    for name in ("conftest.py", "pyproject.toml"):
        (folder / name).write_text((REPO_ROOT / name).read_text())
    (folder / "tests").mkdir()
    (folder / "tests" / "nbval_sanitize.cfg").write_text(CFG)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "sample.ipynb"],
        cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_changed_output_fails_and_later_cells_are_skipped(tmp_path: Path) -> None:
    done = run_nbval(tmp_path, ("print(1)", "1\n"), ("print(2)", "3\n"), ("print(4)", "4\n"))
    assert "1 failed, 1 passed, 1 skipped" in done.stdout
    assert "later cells build on it" in done.stdout


def test_output_of_child_processes_is_seen(tmp_path: Path) -> None:
    child = "import subprocess, sys\n_ = subprocess.run([sys.executable, '-c', 'print(6 * 7)'], check=True)"
    real = "import os, sys\nprint(sys.stdout.fileno() > 0, 'PYTEST_CURRENT_TEST' in os.environ)"
    done = run_nbval(tmp_path, (child, "42\n"), (real, "True False\n"))
    assert "2 passed" in done.stdout, done.stdout


def test_progress_bars_are_not_compared(tmp_path: Path) -> None:
    source = "import sys, time\nprint(time.time(), file=sys.stderr)\nprint('same')"
    assert "1 passed" in run_nbval(tmp_path, (source, "same\n")).stdout
