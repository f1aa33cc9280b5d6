"""How many CPU cores a server and its client keep busy, sampled by psutil."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

__all__ = ["CoresWatch", "typical"]

KINDS = ("api_server", "engine", "client")
ENGINE_TITLES = ("VLLM::EngineCore", "VLLM::Worker")  # by `setproctitle`; with several API servers `VLLM::APIServer_0`


def typical(samples: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The median of each kind over the samples in which the engine worked: a tenth of its busiest sample or more.

    The median and not the total over the run: before the first request and after the last the client loads, makes
    prompts and works out its results, and a sample that lies half outside does not move a median.
    """
    samples = [*samples]
    least = max(sample["engine"] for sample in samples) / 10
    at_work = [sample for sample in samples if sample["engine"] >= least]
    return {kind: statistics.median(sample[kind] for sample in at_work) for kind in KINDS}


class CoresWatch:
    """Sample CPU cores in the background, for as long as the `with` block runs.

    A sample is the CPU seconds that a kind of process used between two looks, divided by the seconds between them.
    `engine` are the processes below the server that vLLM titles so, `api_server` is all the rest of the server, and
    `client` is what else descends from this process.

    Args:
        server_pid: process id of `vllm serve`.
        every_s: seconds between two looks.

    Attributes:
        samples: cores of each kind, one dict for each stretch between two looks.
    """

    def __init__(self, server_pid: int, *, every_s: float = 0.5) -> None:
        self.samples: list[dict[str, float]] = []
        self._server, self._every_s = psutil.Process(server_pid), every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        then, before = time.monotonic(), self._used_s()
        while not self._done.wait(self._every_s):
            now, used = time.monotonic(), self._used_s()
            sample = dict.fromkeys(KINDS, 0.0)
            for (process, kind), seconds in used.items():
                sample[kind] += (seconds - before.get((process, kind), 0.0)) / (now - then)
            self.samples.append(sample)
            then, before = now, used

    def _used_s(self) -> dict[tuple[psutil.Process, str], float]:
        """CPU seconds of each process so far."""
        used: dict[tuple[psutil.Process, str], float] = {}
        with suppress(psutil.NoSuchProcess):  # the server died: the client will say so
            server = [self._server, *self._server.children(recursive=True)]
            keeper = self._server.ppid()
            ours = [p for p in psutil.Process().children(recursive=True) if p not in server and p.pid != keeper]
            for process in (*server, *ours):
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied, IndexError):
                    title = (process.cmdline() or [""])[0]
                    engine = "engine" if title.startswith(ENGINE_TITLES) else "api_server"
                    times = process.cpu_times()
                    used[process, "client" if process in ours else engine] = times.user + times.system
        return used
