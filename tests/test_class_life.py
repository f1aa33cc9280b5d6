"""The class server's life, nginx and engine together, with a stand-in for vLLM."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from class_kit import a_port, alive, bearer, both, nothing_left, raw, until

from helpers.classroom import server as class_server
from helpers.classroom.keys import add_keys
from helpers.config import CLASSROOM_MODEL_DIR
from helpers.errors import ServerError
from helpers.machine import port_is_free
from helpers.server import serve_command

pytestmark = pytest.mark.extra

FAKE = [sys.executable, str(Path(__file__).parent / "fakes" / "fake_vllm.py")]


@pytest.fixture
def fake_engine(class_dir: Path, nginx: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """`start` runs the stand-in; the port for nginx. Afterwards nothing may be left."""

    def fake_command(*arguments: Any, **options: Any) -> list[str]:
        return [*FAKE, *serve_command(*arguments, **options)[1:]]

    monkeypatch.setattr(class_server, "serve_command", fake_command)
    monkeypatch.setenv("TUTORIAL_MODEL_DIR", str(CLASSROOM_MODEL_DIR))
    monkeypatch.setenv("TUTORIAL_PROFILE", "classroom")
    add_keys(class_dir, 1)
    yield a_port()
    class_server.stop()
    until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])])


def test_start_status_stop(fake_engine: int, class_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert class_server.main(["start", "--port", str(fake_engine)]) == 0
    told = capsys.readouterr().out
    assert f"TUTORIAL_BASE_URL=http://127.0.0.1:{fake_engine}\n" in told
    assert class_server.main(["start", "--port", str(fake_engine)]) == 1
    assert "已经在运行" in capsys.readouterr().err
    assert class_server.main(["keys", "1"]) == 0  # takes effect at once
    new = capsys.readouterr().out.split()[1]
    assert raw(fake_engine, "GET", "/v1/models", bearer(new))[0] == 200
    front, engine, everything = both(class_dir)
    assert f" 127.0.0.1:{engine.port}：" in told
    listening = {c.laddr.ip for p in everything for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    if os.getuid() == 0:
        assert {p.username() for p in everything if p.ppid() == front.pid} == {"nobody"}
    assert class_server.main(["stop"]) == 0
    nothing_left(class_dir, everything, fake_engine, engine.port)


def test_reload_says_whose_key_is_new_and_whose_is_gone_and_nothing_else(
    fake_engine: int, class_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says() -> str:
        capsys.readouterr()
        assert class_server.main(["reload"]) == 0
        return capsys.readouterr().out

    class_server.start(port=fake_engine)
    file = class_dir / "keys.txt"
    old = file.read_text().split()[1]
    assert says() == "密钥没有变化。现在认 1 个密钥。\n"
    file.write_text("anna 0123456789abcdef\nben 0123456789abcdeg\n")
    assert says() == "新增 anna、ben；作废 learner-01。现在认 2 个密钥。\n"
    assert raw(fake_engine, "GET", "/v1/models", bearer(old))[0] == 401
    file.write_text("anna 0123456789abcdeh\nben 0123456789abcdeg\n")
    assert says() == "新增 anna；作废 anna。现在认 2 个密钥。\n"


@pytest.mark.parametrize("victim", ["nginx", "nginx's keeper", "vllm", "vllm's keeper"])
def test_when_one_is_killed_the_other_ends_and_a_new_start_works(
    fake_engine: int, class_dir: Path, victim: str
) -> None:
    class_server.start(port=fake_engine)
    front, engine, everything = both(class_dir)
    state = front if "nginx" in victim else engine
    os.kill(state.processes[0][0] if "keeper" in victim else state.pid, signal.SIGKILL)
    until(lambda: not alive(everything))
    class_server.start(port=fake_engine)
    *_, everything = both(class_dir)
    assert class_server.stop()
    until(lambda: not alive(everything))
    assert port_is_free(fake_engine)


def test_an_nginx_that_does_not_start_is_told_and_nothing_is_left(
    fake_engine: int, class_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", fake_engine)), pytest.raises(ServerError, match="端口已被占用"):
        class_server.start(port=fake_engine)
    (tmp_path / "nginx").write_text("#!/bin/sh\necho 'nginx: [emerg] something new' >&2; exit 1\n")
    (tmp_path / "nginx").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ServerError, match=r"nginx 没有启动起来.*\n.*something new"):
        class_server.start(port=fake_engine)
    nothing_left(class_dir, [], fake_engine)
