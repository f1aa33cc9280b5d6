"""What the tests of the class server share: fixtures (made known in conftest.py), one request, the access log."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.classroom import server as class_server
from helpers.machine import free_port, port_is_free
from helpers.server import state as processes
from helpers.server.state import State, StateFile, state_files

DEADLINE_S = 120.0
CLOSED, NO_KEY, TOO_LARGE, TOO_MANY = 404, 401, 413, 429


@pytest.fixture(scope="session")
def nginx() -> str:
    """The program; a machine without it skips the test, except where TUTORIAL_CI is set."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:{class_server.SBIN}")
    if found is None and os.environ.get("TUTORIAL_CI"):
        pytest.fail("nginx is missing: .ci/run installs it")
    return found or pytest.skip("nginx is not installed: sudo apt-get install nginx")


@pytest.fixture
def class_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State, logs and keys of this test alone."""
    monkeypatch.setattr(class_server, "CLASS_DIR", tmp_path / "class")
    monkeypatch.setattr(processes, "STATE_DIR", tmp_path / "servers")
    return tmp_path / "class"


def a_port() -> int:
    return free_port(random.randrange(20000, 30000))


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def raw(port: int, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """One request whose target is sent as it stands, whatever its spelling."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result


def calls(folder: Path) -> list[dict[str, Any]]:
    *lines, _unfinished = (folder / "access.log").read_text().split("\n")
    return [json.loads(line) for line in lines]


def alive(everything: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a keeper that ended is a zombie until pytest, its parent, ends too."""
    return [process for process in everything if processes.living((process.pid, process.create_time()))]


def nothing_left(folder: Path, everything: list[psutil.Process], *ports: int) -> None:
    until(lambda: not alive(everything))
    assert all(port_is_free(port) for port in ports)
    assert not (folder / "nginx.json").exists()
    assert not state_files()


def both(folder: Path) -> tuple[State, State, list[psutil.Process]]:
    """nginx, vLLM, and every process of the two."""
    front, [engine] = StateFile(folder / "nginx.json").read(), [file.read() for file in state_files()]
    assert front and engine
    everything = processes.members(front) + processes.members(engine)
    assert len(everything) >= 5  # two keepers, nginx with a worker, vLLM
    return front, engine, everything
