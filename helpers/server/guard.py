"""The guard: `python -m helpers.server.guard` ends a server that was started by hand once its kernel has died.

A signal at the kernel's death would not do: a server that is still starting may not act on it, and its engine is a
process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import psutil

from helpers.server.state import ORPHAN_WAIT_S, POLL_S, Ident, State, end, ident, living, members

__all__ = ["end_with_kernel"]


def end_with_kernel(process: subprocess.Popen[bytes]) -> None:
    """Have a server that this kernel started in a session of its own end when the kernel does, however that ends.

    What it leaves behind when it is killed ends then too. Introduced in notebook 04.
    """
    with suppress(psutil.NoSuchProcess):  # it has ended already
        both = [repr(value) for who in (ident(process.pid), ident()) for value in who]
        subprocess.Popen(
            [sys.executable, "-P", "-m", "helpers.server.guard", *both],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def guard(server: Ident, kernel: Ident) -> None:
    """Wait until the kernel or everything that belongs to the server has ended; then end what is left."""
    pid, born = server
    state = State(0, "", [], "", [kernel], pid=pid, create_time=born, processes=[server])
    while (family := members(state)) and living(kernel):
        with suppress(psutil.NoSuchProcess):
            known = [(process.pid, process.create_time()) for process in family]
            state = replace(state, processes=[*dict.fromkeys([*state.processes, *known])])
        time.sleep(POLL_S)
    end(state, timeout_s=ORPHAN_WAIT_S)


if __name__ == "__main__":
    pid, born, kernel_pid, kernel_born = sys.argv[1:]
    guard((int(pid), float(born)), (int(kernel_pid), float(kernel_born)))
