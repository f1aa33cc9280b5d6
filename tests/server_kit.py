"""What the tests of `helpers.server` share: a stand-in for vLLM on a port and in folders of their own."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from helpers import get_profile
from helpers.machine import free_port, port_is_free
from helpers.server import VLLMServer, serve_command, startup
from helpers.server import state as processes
from helpers.server.__main__ import main

FAKE = [sys.executable, str(Path(__file__).parent / "fakes" / "fake_vllm.py")]
DEADLINE_S = 60.0
Make = Callable[..., VLLMServer]
Kernel = Callable[..., "subprocess.Popen[str]"]

KERNEL = """
import sys, time
from pathlib import Path
from helpers.server import VLLMServer, startup, state
state.STATE_DIR, startup.LOG_DIR = Path(sys.argv[1]) / "servers", Path(sys.argv[1]) / "logs"
one = VLLMServer(sys.argv[2:]).start()
print("READY", one.pid, one.attached, flush=True)
for line in sys.stdin:
    one.stop()
    print("STOPPED", flush=True)
"""


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def mentioning(word: object) -> list[psutil.Process]:
    """Processes, zombies included, with `word` in their command line."""
    return [p for p in psutil.process_iter(["cmdline"]) if p.pid != os.getpid() and str(word) in str(p.info["cmdline"])]


def zombies() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.status() == psutil.STATUS_ZOMBIE]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, and state and log folders of this test alone."""
    monkeypatch.setattr(processes, "STATE_DIR", tmp_path / "servers")
    monkeypatch.setattr(startup, "LOG_DIR", tmp_path / "logs")
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def command(model: Path, port: int, *extra: str) -> list[str]:
    return [*FAKE, *serve_command(get_profile({"TUTORIAL_PROFILE": "classroom"}), model, port=port, extra=extra)[1:]]


@pytest.fixture
def make(model: Path) -> Iterator[Make]:
    """Make a server on a free port; afterwards nothing of it may be left: no process, no zombie, no port, no state."""
    port = free_port(random.randrange(20000, 30000))

    def build(faults: str = "", **options: object) -> VLLMServer:
        return VLLMServer(command(model, port), env={"FAKE_VLLM": faults}, **options)  # type: ignore[arg-type]

    yield build
    main(["stop"])
    until(lambda: not mentioning(model.parent))
    assert not zombies()
    assert port_is_free(port)
    assert not list(processes.STATE_DIR.glob("*.json"))


@pytest.fixture
def kernel(model: Path) -> Iterator[Kernel]:
    """Start another process that starts (or joins) the server, as a second notebook would."""
    started: list[subprocess.Popen[str]] = []

    def run(port: int, *extra: str) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-c", KERNEL, str(model.parent), *command(model, port, *extra)]
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process: "subprocess.Popen[str]", word: str) -> list[str]:
    assert process.stdout
    for line in process.stdout:
        if line.startswith(word):
            return line.split()
    raise AssertionError(f"the kernel ended before {word}")
