"""The keeper: `python -m helpers.server.keeper FILE` starts the server that a state file describes, and watches it.

A notebook kernel can die at any moment, without a word. So the server is not the kernel's child but the child of a
keeper, in a session of its own, which ends the whole session once no user of the server lives any more.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from filelock import Timeout

from helpers.server.state import KILL_WAIT_S, ORPHAN_WAIT_S, POLL_S, StateFile, end, ident, living

__all__ = ["keep"]

PR_SET_CHILD_SUBREAPER = 36


def keep(file: StateFile) -> int:
    """Run the server until it ends or nobody uses it; leave nothing of its session. Returns its exit code."""
    state = file.read()
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
        file.write(state)
        while server.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                server.wait(timeout=POLL_S)
            _end_if_unused(file)
    finally:
        end(state, timeout_s=ORPHAN_WAIT_S)
        code = server.wait() if server else 1
        with suppress(ChildProcessError):  # none left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = file.read()
        if left and left.processes[:1] == [keeper] and left.users:  # nobody asked for this end: leave a note
            file.write(replace(left, exit_code=code))
    return code


def _end_if_unused(file: StateFile) -> None:
    state = file.read()
    if state is None or any(living(user) for user in state.users):
        return
    with suppress(Timeout), file.locked(timeout_s=0):
        state = file.read()  # somebody may have come in before the lock was ours
        if state and not any(living(user) for user in state.users):
            print("keeper: no kernel uses this server any more, ending it", flush=True)
            file.path.unlink()
            end(state, timeout_s=KILL_WAIT_S)


if __name__ == "__main__":
    sys.exit(keep(StateFile(Path(sys.argv[1]))))
