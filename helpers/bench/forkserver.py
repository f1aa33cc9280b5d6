"""Run `vllm …` commands one after another without importing vLLM anew each time.

A forkserver imports vLLM once (about ten seconds) and every command runs in a fork of it: the same code as the `vllm`
command in a terminal, in a process of its own. The forkserver ends with the process that started it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from helpers.server.state import wait_ended

__all__ = ["end", "start"]

PRELOAD = [  # what `vllm bench` needs in the end; importing it opens no CUDA device and starts no thread pool
    "vllm.entrypoints.cli.main",
    "vllm.benchmarks.throughput",
    "vllm.benchmarks.serve",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.model_executor.models.qwen2",
]
TERMINATE_S = 5.0


def start(argv: Sequence[str], *, log_file: Path, env: Mapping[str, str]) -> BaseProcess:
    """Start `vllm …` in the background; `log_file` receives all that it prints.

    Args:
        argv: the words of the command, `vllm` first.
        env: variables added to this process's environment. Those that a library reads when it is loaded, such as
            `OMP_NUM_THREADS`, must already stand in `os.environ` at the first call.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_run, args=(list(argv), str(log_file), dict(os.environ) | dict(env)))
    process.start()
    return process


def end(process: BaseProcess) -> None:
    """End the command and everything that it started."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        member.terminate()
    for survivor in wait_ended(family, timeout_s=TERMINATE_S):
        survivor.kill()
    process.join()


def _run(argv: list[str], log_file: str, env: dict[str, str]) -> None:
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    status = 1
    try:
        from vllm.entrypoints.cli.main import main

        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:  # multiprocessing would first wait for the engine process, which vLLM ends in its exit handlers
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(status)
