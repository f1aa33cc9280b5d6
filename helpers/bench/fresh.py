"""Call a function in a fresh Python: its imports are measured too and no engine is left over. Used in notebook 09."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helpers.errors import BenchmarkError

__all__ = ["run_fresh"]


def run_fresh(
    function: Callable[..., Any],
    *,
    folder: Path,
    name: str = "",
    env: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Any:
    """Call `function(**arguments)` in a new process and return its result.

    Args:
        function: a function of a module, not of a notebook; arguments and result must be fit for JSON.
        folder: keeps `<name>.json`, the result, and `<name>.log`, what the process printed.
        name: default: the function's own name.
        env: the whole environment of the process; default: this process's.

    Raises:
        BenchmarkError: the process failed; the message names the log.
    """
    name = name or function.__name__
    folder.mkdir(parents=True, exist_ok=True)
    result, log_file = folder / f"{name}.json", folder / f"{name}.log"
    words = [function.__module__, function.__name__, json.dumps(arguments), str(result)]
    with log_file.open("w") as log:
        done = subprocess.run([sys.executable, "-m", __spec__.name, *words], env=env, stdout=log, stderr=log)
    if done.returncode:
        raise BenchmarkError(f"{name} 以状态 {done.returncode} 结束，原因在日志里：{log_file}")
    return json.loads(result.read_text())


if __name__ == "__main__":
    module, called, given, target = sys.argv[1:]
    returned = getattr(importlib.import_module(module), called)(**json.loads(given))
    Path(target).write_text(json.dumps(returned, indent=1))
