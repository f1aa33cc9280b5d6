"""What belongs to a server: its processes and its users, in a small JSON file; and how all of it is ended.

A process counts only with the start time recorded there: pids are given out again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

__all__ = ["Ident", "State", "end", "ident", "living", "members", "start_keeper", "wait_ended"]

POLL_S = 0.5
KILL_WAIT_S = 10.0

Ident = tuple[int, float]  # pid, start time in seconds since the epoch


@dataclass(frozen=True)
class State:
    """What is known of one server, as it stands in its JSON file.

    Attributes:
        pid, create_time: the server process itself; 0 before it is launched.
        processes: every process known to belong to it, the keeper (leader of the session) first.
        users: the kernels that use it; the keeper ends the server once none of them lives.
        exit_code: set when the server ended without being asked to; negative: the signal.
    """

    port: int
    model: str
    served_model_name: str
    command: list[str]
    log: str
    users: list[Ident]
    pid: int = 0
    create_time: float = 0.0
    processes: list[Ident] = field(default_factory=list)
    exit_code: int | None = None

    @classmethod
    def read(cls, file: Path) -> State | None:
        """Read the file; None where it is missing or not one of ours."""
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            pairs = {name: [(int(pid), float(born)) for pid, born in data[name]] for name in ("users", "processes")}
            return cls(**(data | pairs))
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def write(self, file: Path) -> None:
        """Replace the file in one step, so that no reader meets half of it."""
        draft = file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        draft.replace(file)


def ident(pid: int | None = None) -> Ident:
    """The identity of a process (default: this one) that no later process shares: pid and start time."""
    process = psutil.Process(pid)
    return process.pid, process.create_time()


def living(who: Ident) -> psutil.Process | None:
    """The process, unless it has ended, is a zombie, or its pid belongs to another one by now."""
    with suppress(psutil.Error):
        process = psutil.Process(who[0])
        if abs(process.create_time() - who[1]) < 0.1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def members(state: State) -> list[psutil.Process]:
    """The living processes of a server: its session, or, once the leader is gone, those recorded and their children."""
    known = [process for who in state.processes if (process := living(who))]
    session = state.processes[0][0] if state.processes else 0
    if any(process.pid == session for process in known):
        known += [process for process in psutil.process_iter() if _session(process.pid) == session]
    else:  # without its leader a session number proves nothing: it may have been given out again
        for process in list(known):
            with suppress(psutil.Error):
                known += process.children(recursive=True)
    return [process for process in dict.fromkeys(known) if living((process.pid, process.create_time()))]


def wait_ended(group: Sequence[psutil.Process], *, timeout_s: float) -> list[psutil.Process]:
    """Wait for processes to end; return those that have not. A zombie has: in a container, nobody may ever reap it."""
    deadline = time.monotonic() + timeout_s
    while left := [p for p in group if living((p.pid, p.create_time()))]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


def end(state: State, *, timeout_s: float) -> list[psutil.Process]:
    """End a server: TERM to it, up to `timeout_s` seconds for everything to leave, then KILL; never this process.

    Returns:
        The processes that are still there after all, normally none.
    """
    keeper = state.processes[0][0] if state.processes else 0
    server = living((state.pid, state.create_time))
    for process in [server] if server else members(state):
        with suppress(psutil.NoSuchProcess):
            if process.pid != os.getpid():
                process.terminate()
    wait_ended([p for p in members(state) if p.pid not in (keeper, os.getpid())], timeout_s=timeout_s)
    for last in (False, True):  # the keeper goes last: as long as it lives, the session can be listed
        rest = [p for p in members(state) if p.pid != os.getpid() and (last or p.pid != keeper)]
        if last:
            rest = wait_ended(rest, timeout_s=2 * POLL_S + 1)  # it leaves by itself, a moment after the server
        for process in rest:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_ended(rest, timeout_s=KILL_WAIT_S)
    with suppress(psutil.Error, ChildProcessError):  # a zombie keeper is no longer "living": reap it if it is our child
        if keeper != os.getpid() and psutil.Process(keeper).ppid() == os.getpid():
            psutil.Process(keeper).wait(timeout=0)
    return [process for process in members(state) if process.pid != os.getpid()]


def start_keeper(state_file: Path, *, env: dict[str, str], log: int) -> subprocess.Popen[bytes]:
    """Start the keeper of the server that `state_file` describes, in a session of its own; output goes to `log`."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "helpers.server.keeper", str(state_file)],
        env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def _session(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return -1
