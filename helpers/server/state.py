"""What belongs to a server: its processes and its users, in a small JSON file; and how all of it is ended.

A process counts only with the start time recorded there: pids are given out again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from helpers.config import REPO_ROOT
from helpers.errors import ServerError

__all__ = [
    "Ident", "State", "StateFile", "end", "ident", "living", "members", "start_keeper", "state_files", "wait_ended",
]  # fmt: skip

STATE_DIR = REPO_ROOT / "build" / "servers"  # one file a port
STOP_TIMEOUT_S = 20.0  # more than --shutdown-timeout, or requests could not finish within it
POLL_S = 0.5
KILL_WAIT_S = 10.0
QUIET_S = 1.0  # a longer wait is explained
ORPHAN_WAIT_S = 3.0  # for what belongs to a server that has ended, or that nobody uses

Ident = tuple[int, float]  # pid, start time in seconds since the epoch


@dataclass(frozen=True)
class State:
    """What is known of one server, as it stands in its JSON file.

    Attributes:
        model: path of the model folder.
        pid, create_time: the server process itself; 0 before it is launched.
        processes: every process known to belong to it, the keeper (leader of the session) first.
        users: the kernels that use it; the keeper ends the server once none of them lives.
        exit_code: set when the server ended without being asked to; negative: the signal.
        keyed: it asks for a key.
    """

    port: int
    model: str
    command: list[str]
    log: str
    users: list[Ident]
    pid: int = 0
    create_time: float = 0.0
    processes: list[Ident] = field(default_factory=list)
    exit_code: int | None = None
    keyed: bool = False

    def others(self) -> list[Ident]:
        """The living users besides this process."""
        return [user for user in self.users if user != ident() and living(user)]

    def ending(self) -> str:
        """Tell of an end that nobody asked for."""
        code = self.exit_code
        how = "" if code is None else f"（被信号 {-code} 杀死）" if code < 0 else f"（退出码 {code}）"
        return f"端口 {self.port} 上原来的服务器意外结束了{how}，日志在 {self.log}。残留的进程会一并清理。"


class StateFile:
    """The JSON file of one server, and the lock beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> State | None:
        """What the file holds; None where it is missing or not one of ours."""
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            pairs = {name: [(int(pid), float(born)) for pid, born in data[name]] for name in ("users", "processes")}
            return State(**(data | pairs))
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def write(self, state: State) -> None:
        """Replace the file in one step, so that no reader meets half of it."""
        draft = self.path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        draft.replace(self.path)

    def living(self) -> State | None:
        """What the file holds, if the server process itself lives."""
        state = self.read()
        return state if state and living((state.pid, state.create_time)) else None

    def locked(self, *, timeout_s: float = -1) -> FileLock:
        """The lock, for a `with` block. Raises filelock.Timeout after `timeout_s` seconds; -1: never."""
        return FileLock(self.path.with_suffix(".lock"), timeout=timeout_s)

    @contextmanager
    def locked_patiently(self, *, timeout_s: float) -> Iterator[None]:
        """Like `locked`, and say what a longer wait is for: another notebook starts or stops the server."""
        lock = self.locked(timeout_s=QUIET_S)
        try:
            lock.acquire()
        except Timeout:
            print("这个服务器正在启动或停止（别的笔记本，或者重启之前的内核），等它做完。")
            lock.acquire(timeout=timeout_s)
        try:
            yield
        finally:
            lock.release()

    def cleared(self, *, listening: bool) -> State | None:
        """What runs here; a server that is dead, that does not listen or that nobody uses is cleared away."""
        state, alive = self.read(), self.living()
        if state and alive and listening and any(map(living, state.users)):
            return state
        if state:
            print(f"端口 {state.port} 上的服务器没有人用了，先停掉它。" if alive else state.ending())
            self.end(timeout_s=0)
        return None

    def end(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the server, whoever uses it, and forget it.

        Raises:
            ServerError: a process cannot be ended; the message names its pid.
        """
        state = self.read()
        left = end(state, timeout_s=timeout_s) if state else []
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            raise ServerError(
                f"这些进程停不掉，kill -9 也没有用：pid {pids}，多半卡在显卡驱动里。"
                "请重启机器；租来的机器，在控制台关机再开机。"
            )
        self.path.unlink(missing_ok=True)


def state_files() -> list[StateFile]:
    """The files of all servers that this course started, by port."""
    return [StateFile(path) for path in sorted(STATE_DIR.glob("*.json"))]


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

    The keeper goes last: as long as it lives, the session can be listed.

    Returns:
        The processes that are still there after all, normally none.
    """
    keeper = state.processes[0][0] if state.processes else 0
    server = living((state.pid, state.create_time))
    for process in [server] if server else _others(state):
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _kill(wait_ended([p for p in _others(state) if p.pid != keeper], timeout_s=timeout_s))
    _kill(wait_ended(_others(state), timeout_s=2 * POLL_S + 1))  # a moment after the server, it leaves by itself
    with suppress(psutil.Error, ChildProcessError):  # a zombie keeper is no longer "living": reap it if it is our child
        if keeper != os.getpid() and psutil.Process(keeper).ppid() == os.getpid():
            psutil.Process(keeper).wait(timeout=0)
    return _others(state)


def _others(state: State) -> list[psutil.Process]:
    return [process for process in members(state) if process.pid != os.getpid()]


def _kill(processes: Iterable[psutil.Process]) -> None:
    killed = list(processes)
    for process in killed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_ended(killed, timeout_s=KILL_WAIT_S)


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
