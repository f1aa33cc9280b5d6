"""Who has the port already: other programs, servers with and without a key, with and without a parser, by hand."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_kit import FAKE, Kernel, Make, command, mentioning, until, wait_for

import helpers.server
from helpers import get_profile
from helpers.errors import ServerError
from helpers.machine import port_is_free
from helpers.server import VLLMServer, connect, startup
from helpers.server.command import ServeCommand
from helpers.server.guard import end_with_kernel
from helpers.server.state import POLL_S, ident, living

BY_HAND = """
import subprocess, sys, time
from helpers.server.guard import end_with_kernel
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, start_new_session=True)
end_with_kernel(process)
print("STARTED", process.pid, flush=True)
time.sleep(600)
"""
KEYS = [("", "k-1", "不要密钥"), ("k-1", "", "要密钥"), ("k-1", "k-2", "另一个密钥")]


def lesson(model: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> VLLMServer:
    """What the notebooks' `server = connect(profile)` gives on a machine whose port is `port`."""
    monkeypatch.setattr(helpers.server, "find_model", lambda profile: model)
    monkeypatch.setattr(helpers.server, "serve_command", lambda profile, path: command(path, port))
    found = connect(get_profile({"TUTORIAL_PROFILE": "classroom"}))
    assert isinstance(found, VLLMServer)
    return found


def test_lessons_pass_by_another_program_and_find_each_other(
    make: Make, model: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = make().port
    with socket.create_server(("127.0.0.1", port)):
        other = kernel(port)
        pid = int(wait_for(other, "READY")[1])
        one = lesson(model, port, monkeypatch)
        assert (one.pid, one.attached) == (pid, True)
        assert one.port > port and str(one.port) in one.base_url
        assert "别的笔记本也在用它" in capsys.readouterr().out
    again = lesson(model, port, monkeypatch)  # the port is free by now, but the server runs already
    assert (again.port, again.pid) == (one.port, pid)


def test_the_port_of_another_program_is_told_with_its_owner(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    one = make()
    port = one.port
    with socket.create_server(("127.0.0.1", port)):
        one.start()
    assert f"端口 {port} 被别的程序占着（pid {os.getpid()}" in capsys.readouterr().out
    assert one.pid and one.port > port
    one.stop()
    assert port_is_free(one.port)


def test_a_port_taken_during_the_start_is_not_mistaken_for_ours(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two servers are started at the same moment: the other one has the port first, and answers."""
    one, go = make("late"), tmp_path / "go"
    one.env["FAKE_VLLM_GO"] = str(go)
    port, healthy = one.port, one._healthy
    others: list[subprocess.Popen[bytes]] = []

    def answered() -> bool:
        if not others:
            others.append(subprocess.Popen(one.command.words))
        if found := healthy():
            go.touch()  # only now ours comes to take the port
        return found

    monkeypatch.setattr(one, "_healthy", answered)
    one.start()
    [other] = others
    other.kill()
    other.wait()
    assert one.port > port and one.pid != other.pid
    assert f"端口 {port} 在启动的时候被别的程序占了" in capsys.readouterr().out


@pytest.mark.parametrize(("theirs", "ours", "says"), KEYS)
def test_a_key_is_never_left_out(
    make: Make, kernel: Kernel, theirs: str, ours: str, says: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A server that another notebook uses, with a key of its own or without one."""
    port = make().port
    monkeypatch.setenv("VLLM_API_KEY", theirs)
    pid = int(wait_for(kernel(port), "READY")[1])
    monkeypatch.setenv("VLLM_API_KEY", ours)
    one = make().start()
    assert one.pid != pid and one.port > port and not one.attached
    assert says in capsys.readouterr().out


def test_a_lesson_never_looks_for_a_server_with_a_key(
    make: Make, model: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = make().port
    monkeypatch.setenv("VLLM_API_KEY", "k-1")
    wait_for(kernel(port + 1), "READY")
    monkeypatch.delenv("VLLM_API_KEY")
    assert lesson(model, port, monkeypatch).port == port


def test_run_twice_joins_and_a_change_replaces_the_server(
    make: Make, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make().start(), make().start()
    assert (first.pid, second.attached, second.ready_after_s) == (second.pid, True, 0.0)
    assert "先停掉" not in capsys.readouterr().out
    old = second.pid
    third = make(api_key="k-1").start()  # the cell with a key, run again: a new key each time
    assert (third.port, third.attached) == (first.port, False) and third.pid not in (old, None)
    fourth = make(api_key="k-2").start()
    assert (fourth.port, fourth.attached) == (first.port, False)
    changed = VLLMServer([*fourth.command.words, "--seed", "1"], api_key="k-2").start()
    assert (changed.port, changed.attached) == (first.port, False)
    assert capsys.readouterr().out.count("参数或密钥和现在的不同") == 3
    with pytest.raises(ServerError, match="不存在"):  # nothing to put in its place: it stays
        VLLMServer(command(model / "gone", first.port), api_key="k-2").start()
    assert changed.pid


def test_what_another_notebook_uses_is_kept_and_a_changed_command_is_told(
    make: Make, model: Path, kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    port = make().port
    pid = int(wait_for(kernel(port), "READY")[1])
    one = VLLMServer(command(model, port, "--seed", "1")).start()
    assert (one.pid, one.attached) == (pid, True)
    assert "命令不同" in capsys.readouterr().out


def test_another_model_is_passed_by_and_left_alone(
    make: Make, model: Path, kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    port = make().port
    theirs = ident(int(wait_for(kernel(port), "READY")[1]))
    other = model.with_name("other")
    other.mkdir()
    (other / "config.json").write_text("{}")
    one = VLLMServer(command(other, port)).start()
    assert one.port > port and living(theirs)
    assert f"是另一个模型：r1（{model}）" in capsys.readouterr().out


def test_a_server_without_a_parser_is_passed_by_and_blamed_when_there_is_no_room(
    make: Make, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make("die")
    words = list(one.command.words)
    at = words.index("--reasoning-parser")
    with subprocess.Popen([*words[:at], *words[at + 2 :]]) as by_hand:
        until(lambda: not port_is_free(one.port))
        with pytest.raises(ServerError, match=f"kill {by_hand.pid}"):
            one.start()
        assert "没有开推理解析器" in capsys.readouterr().out
        by_hand.kill()


def test_a_server_whose_notebook_has_gone_is_not_joined(make: Make, kernel: Kernel) -> None:
    port = make().port
    other = kernel(port)
    pid = int(wait_for(other, "READY")[1])
    other.kill()
    other.wait()
    one = make().start()
    assert one.port == port and one.pid != pid and not one.attached


def test_the_logs_of_failed_starts_are_kept_and_named(make: Make, model: Path) -> None:
    told = []
    for _ in range(startup.KEPT_LOGS + 2):
        with pytest.raises(ServerError) as caught:
            make("die").start()
        told.append(str(caught.value))
    kept = sorted((model.parent / "logs").iterdir())
    assert len(kept) == startup.KEPT_LOGS
    for log, message in zip(kept, told[2:], strict=True):
        assert str(log) in message and "nobody has seen before" in log.read_text()


def test_check_says_in_a_sentence_that_the_server_has_gone(make: Make) -> None:
    one = make().start()
    one.check()
    one.stop()
    with pytest.raises(ServerError, match="下一步：从 server"):
        one.check()


@pytest.mark.parametrize("killed_first", [False, True])
def test_what_was_started_by_hand_ends_with_its_kernel(
    make: Make, model: Path, monkeypatch: pytest.MonkeyPatch, killed_first: bool
) -> None:
    """Deaf, like a server that is still starting; and its worker ignores TERM, like a stuck engine."""
    monkeypatch.setenv("FAKE_VLLM", "deaf,worker")
    argv = [sys.executable, "-c", BY_HAND, *command(model, make().port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as shell:
        started = int(wait_for(shell, "STARTED")[1])
        until(lambda: len(mentioning("time.sleep(600)")) >= 2)  # the kernel's own line, and the worker
        family = [ident(p.pid) for p in mentioning(model)] + [ident(p.pid) for p in mentioning("SIG_IGN")]
        if killed_first:  # as section 5 of notebook 04 does; the guard has seen the worker by then
            until(lambda: mentioning("helpers.server.guard"))
            time.sleep(6 * POLL_S)
            os.kill(started, 9)
        shell.kill()
    until(lambda: not any(map(living, family)))
    until(lambda: not mentioning(f"'helpers.server.guard', '{started}'"))


def test_a_guard_of_what_has_ended_ends(model: Path) -> None:
    with subprocess.Popen([*FAKE[:1], "-c", ""], start_new_session=True) as process:
        process.wait()
        end_with_kernel(process)
        until(lambda: not mentioning(f"'helpers.server.guard', '{process.pid}'"))


def test_a_command_on_another_port() -> None:
    plain = ["vllm", "serve", "m"]
    for words in ([*plain, "--port", "1"], [*plain, "--port=1"], plain, [*plain, "--port", "1", "--port", "2"]):
        assert ServeCommand(words).at_port(8001).port == 8001
    assert ServeCommand([*plain, "--port", "1"]).at_port(8001).words == [*plain, "--port", "8001"]
