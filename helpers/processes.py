"""Start a command in its own session, under a keeper, and end all of it again.

A notebook kernel can die at any moment, without a word. So the server is not the kernel's child but the child of a
keeper (this file, run as a script), which ends the whole session once no user of the server lives any more.
What belongs to a server stands in a small JSON file; a process counts only with the start time recorded there.

This file imports nothing from `helpers`, so that the keeper runs by path, whatever the working folder is.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

__all__ = [
    "Ident", "State", "end", "ident", "keep", "lan_address", "living", "members", "port_is_free", "port_owner",
    "start_keeper", "wait_ended",
]  # fmt: skip

POLL_S = 0.5
KILL_WAIT_S = 10.0
ORPHAN_WAIT_S = 3.0
PR_SET_CHILD_SUBREAPER = 36

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
        [sys.executable, "-P", __file__, str(state_file)],
        env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def keep(state_file: Path) -> int:
    """Run the server until it ends or nobody uses it; leave nothing of its session. Returns its exit code."""
    state = State.read(state_file)
    if state is None:
        return 2
    with suppress(AttributeError):  # Linux only
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphaned workers become ours to reap
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    die_with_keeper = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    keeper = ident()
    state = replace(state, processes=[keeper])
    server: subprocess.Popen[bytes] | None = None
    try:
        server = subprocess.Popen([*die_with_keeper, *state.command])
        pid, born = ident(server.pid)
        state = replace(state, pid=pid, create_time=born, processes=[keeper, (pid, born)])
        state.write(state_file)
        while server.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=POLL_S)
            _end_if_unused(state_file)
    finally:
        end(state, timeout_s=ORPHAN_WAIT_S)
        code = server.wait() if server else 1
        with suppress(ChildProcessError):  # none left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = State.read(state_file)
        if left and left.processes[:1] == [keeper] and left.users:  # nobody asked for this end: leave a note
            replace(left, exit_code=code).write(state_file)
    return code


def _end_if_unused(state_file: Path) -> None:
    state = State.read(state_file)
    if state is None or any(living(user) for user in state.users):
        return
    with suppress(Timeout), FileLock(state_file.with_suffix(".lock"), timeout=0):
        state = State.read(state_file)  # somebody may have come in before the lock was ours
        if state and not any(living(user) for user in state.users):
            print("keeper: no kernel uses this server any more, ending it", flush=True)
            state_file.unlink()
            end(state, timeout_s=KILL_WAIT_S)


def port_is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `host`:`port` now."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def port_owner(port: int) -> psutil.Process | None:
    """The process that listens on `port`, if the system tells (it hides other users' processes)."""
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return psutil.Process(connection.pid) if connection.pid else None
    return None


def lan_address() -> str:
    """The address by which other machines of the network reach this one; without a network, its name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # UDP: connecting sends nothing
        try:
            probe.connect(("10.255.255.255", 1))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _session(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return -1


def main(argv: Sequence[str]) -> int:
    return keep(Path(argv[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
