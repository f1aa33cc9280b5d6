"""`helpers.server` and `helpers.server.state` against a stand-in: faults that the real server shows slowly or never."""

import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from server_kit import DEADLINE_S, FAKE, Kernel, Make, command, mentioning, until, wait_for

from helpers.errors import ServerError
from helpers.machine import free_port
from helpers.server import VLLMServer
from helpers.server import log as server_log
from helpers.server import state as processes
from helpers.server.__main__ import main
from helpers.server.command import ServeCommand, readable
from helpers.server.state import State, StateFile


def test_start_answers_and_stop_leaves_nothing(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    with make() as one:
        assert one.pid and psutil.pid_exists(one.pid)
        assert os.getsid(one.pid) != os.getsid(0)
        assert (one.attached, one.base_url) == (False, f"http://127.0.0.1:{one.port}")
        assert 0 < one.ready_after_s < DEADLINE_S
        assert one.log_file.is_file() and "non-default args" in one.log_tail()
    shown = capsys.readouterr().out
    assert shlex.split(shown[: shown.index("00:00")].replace("\\\n", "")) == one.command.words
    assert one.pid is None
    one.stop()
    assert "没有本课程的服务器" in capsys.readouterr().out


def test_a_server_that_ignores_term_is_killed_with_its_workers(make: Make) -> None:
    one = make("deaf,worker").start()
    assert len(mentioning("time.sleep(600)")) >= 1
    state = StateFile(processes.STATE_DIR / f"{one.port}.json").read()
    assert state
    everything = processes.members(state)
    assert len(everything) == 3  # keeper, server, worker
    one.stop(timeout_s=0.5)
    assert not [p for p in everything if p.is_running()]


def test_death_at_start_is_told_with_the_log(make: Make) -> None:
    with pytest.raises(ServerError, match="退出码 3") as caught:
        make("die,worker").start()
    assert "nobody has seen before" in str(caught.value)
    assert "下一步" in str(caught.value)


def test_a_server_that_hangs_at_start_meets_the_deadline(make: Make) -> None:
    with pytest.raises(ServerError, match="等了 2 秒") as caught:
        make("hang,deaf,worker", ready_timeout_s=2).start()
    assert "ready_timeout_s" in str(caught.value)


def test_interrupt_while_waiting_ends_the_server(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make("hang,worker")

    def interrupt() -> bool:
        if one.pid:
            os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr(one, "_healthy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        one.start()
    assert not StateFile(processes.STATE_DIR / f"{one.port}.json").read()


def test_interrupt_before_the_keeper_has_written_its_file(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make("hang,worker")
    file = processes.STATE_DIR / f"{one.port}.json"

    def interrupt(*_: object) -> None:
        until(lambda: one.pid and len(mentioning(one.command.model)) == 1)
        state = StateFile(file).read()
        assert state
        # as if the keeper had not come to it
        StateFile(file).write(replace(state, pid=0, create_time=0.0, processes=[]))
        raise KeyboardInterrupt

    monkeypatch.setattr(one, "_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        one.start()


def test_two_notebooks_at_once_share_one_server_and_the_last_one_stops_it(make: Make, kernel: Kernel) -> None:
    port = make().port
    pair = [kernel(port), kernel(port)]
    answers = [wait_for(process, "READY") for process in pair]
    assert answers[0][1] == answers[1][1]  # one pid
    assert {answer[2] for answer in answers} == {"True", "False"}  # one of them started it
    starter, guest = sorted(pair, key=lambda process: answers[pair.index(process)][2])
    pid = int(answers[0][1])
    assert starter.stdin and guest.stdin
    print("stop", file=starter.stdin, flush=True)
    wait_for(starter, "STOPPED")
    starter.kill()  # not even the end of the kernel that started it takes it from the guest
    starter.wait()
    time.sleep(3 * processes.POLL_S)
    assert psutil.pid_exists(pid)
    print("stop", file=guest.stdin, flush=True)
    wait_for(guest, "STOPPED")
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("faults", ["", "deaf,worker"])
def test_a_killed_kernel_takes_its_server_along(
    make: Make, kernel: Kernel, faults: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", faults)
    process = kernel(make().port)
    pid = int(wait_for(process, "READY")[1])
    process.kill()
    until(lambda: not psutil.pid_exists(pid))


def test_a_killed_server_is_noticed_and_its_workers_are_ended(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    one = make("worker").start()
    state_file = processes.STATE_DIR / f"{one.port}.json"
    assert one.pid
    [worker] = psutil.Process(one.pid).children()
    os.kill(one.pid, signal.SIGKILL)
    until(lambda: (state := StateFile(state_file).read()) and state.exit_code is not None)
    until(lambda: not worker.is_running())
    capsys.readouterr()
    main(["status"])
    assert "被信号 9 杀死" in capsys.readouterr().out
    one.start()
    assert "被信号 9 杀死" in capsys.readouterr().out
    assert one.pid and not one.attached


def test_orphans_are_found_when_keeper_and_server_were_killed(make: Make) -> None:
    one = make("worker").start()
    state = StateFile(processes.STATE_DIR / f"{one.port}.json").read()
    assert state and one.pid
    keeper, started = (psutil.Process(pid) for pid, _ in state.processes[:2])
    [worker] = psutil.Process(one.pid).children()
    keeper.suspend()  # or it would end the orphans, or the server would hear of its death
    started.kill()
    keeper.kill()
    until(lambda: not any(map(processes.living, state.processes[:2])))  # a signal takes effect a moment after kill()
    assert processes.members(state) == [worker]
    one.stop(timeout_s=1)
    assert not processes.members(state)


def test_the_keeper_adopts_orphans_so_that_they_are_reaped(make: Make) -> None:
    one = make("worker").start()
    state = StateFile(processes.STATE_DIR / f"{one.port}.json").read()
    assert state and one.pid
    keeper = psutil.Process(state.processes[0][0])
    worker = psutil.Process(one.pid).children()[0]
    keeper.suspend()
    os.kill(one.pid, signal.SIGKILL)
    until(lambda: worker.ppid() != one.pid and worker.ppid() not in [pid for pid, _ in state.processes[1:]])
    adopted_by = worker.ppid()
    keeper.resume()
    assert adopted_by == keeper.pid
    until(lambda: not worker.is_running())


@pytest.mark.parametrize(("folder", "says"), [("gone", "不存在"), ("empty", "没有 config.json")])
def test_a_missing_or_empty_model_folder_is_refused_before_start(
    make: Make, tmp_path: Path, folder: str, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServerError, match=says):
        VLLMServer(command(tmp_path / folder, make().port)).start()
    assert not (tmp_path / "logs").exists()


def test_a_folder_of_hugging_faces_cache_is_shown_the_way_down(make: Make, model: Path, tmp_path: Path) -> None:
    whole = tmp_path / "models--x--y" / "snapshots" / "abc"
    whole.parent.mkdir(parents=True)
    whole.symlink_to(model)
    with pytest.raises(ServerError, match=f"路径改成 {whole}"):
        VLLMServer(command(tmp_path / "models--x--y", make().port)).start()


def test_a_key_that_the_environment_holds_already_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with make(api_key="k"):
        assert "VLLM_API_KEY" not in capsys.readouterr().out
    monkeypatch.setenv("VLLM_API_KEY", "k")
    with make():
        assert "VLLM_API_KEY 已经设了" in capsys.readouterr().out


def test_a_log_that_cannot_be_written_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="写不了文件"):
        make(log_file=tmp_path).start()
    (tmp_path / "file").touch()
    with pytest.raises(ServerError, match="写不了文件"):
        make(log_file=tmp_path / "file" / "x.log").start()


def test_a_dead_proxy_in_the_environment_changes_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "intranet.example")
    with make() as one:
        assert "proxy: intranet.example,127.0.0.1,localhost" in one.log_tail()


def test_the_key_stands_nowhere_but_in_the_environment(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    key = "k-314159"
    with make(api_key=key) as one:
        assert one.pid and psutil.Process(one.pid).environ()["VLLM_API_KEY"] == key
        assert not mentioning(key)
        state = (processes.STATE_DIR / f"{one.port}.json").read_text()
        assert key not in capsys.readouterr().out + one.log_tail() + state + repr(one) + str(one)


def test_a_wider_host_needs_the_argument_and_a_key(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = [word if word != "127.0.0.1" else "0.0.0.0" for word in command(model, 29999)]
    for options in ({}, {"expose": True}, {"api_key": "k"}):
        with pytest.raises(ServerError, match="expose=True 和 api_key="):
            VLLMServer(wide, **options)  # type: ignore[arg-type]
    with pytest.raises(ServerError, match=r"0\.0\.0\.0"):  # vLLM's own default is every interface
        VLLMServer(["vllm", "serve", str(model)])
    with VLLMServer(wide, expose=True, api_key="k", env={"FAKE_VLLM": ""}) as one:
        assert one.base_url == "http://127.0.0.1:29999"
    said = capsys.readouterr().out
    assert all(path in said for path in ["/invocations", "/generative_scoring", "/scale_elastic_ep"])


@pytest.mark.parametrize(
    "bad",
    [
        "vllm serve model", b"vllm", [], ["vllm"], ["vllm", "serve"], ["vllm", "serve", "--port", "8000"],
        ["vllm", "serve", "m", "--host", "127.0.0.1", "--port", "0"],
        ["vllm", "serve", "m", "--host", "127.0.0.1", "--port", "eighty"],
        ["vllm", "serve", "m", "--host", "127.0.0.1", "--port=99999"],
        ["vllm", "serve", "m", "--host", "127.0.0.1", "--api-key", "k"],
        ["vllm", "serve", "m", "--host", "127.0.0.1", "--api-key=k"],
        ["vllm", "serve", "m", "--host", "127.0.0.1", "--api_key", "k"],
        None, 5, {"vllm": "serve"}, ["vllm", "serve", "m", "--host", "127.0.0.1", "--port", "9" * 5000],
    ],
)  # fmt: skip
def test_commands_that_cannot_be_used_are_refused(bad: object) -> None:
    with pytest.raises(ServerError):
        VLLMServer(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [None, "8000", 0, -1, 65536, 10**30, 3.5, True])
def test_free_port_refuses_what_is_no_port(bad: object) -> None:
    with pytest.raises(ServerError):
        free_port(bad)  # type: ignore[arg-type]


def test_free_port_steps_over_a_taken_one() -> None:
    port = free_port(random.randrange(30000, 32000))
    with socket.create_server(("127.0.0.1", port)):
        assert free_port(port) > port
    assert free_port(port) == port


@pytest.mark.parametrize("bad", [0, -1, float("nan")])
def test_the_deadline_must_be_positive(make: Make, bad: float) -> None:
    with pytest.raises(ServerError, match="ready_timeout_s"):
        make(ready_timeout_s=bad)


def test_an_unknown_program_is_named(make: Make, model: Path) -> None:
    with pytest.raises(ServerError, match="找不到命令 no-such-vllm"):
        VLLMServer(["no-such-vllm", *command(model, make().port)[2:]]).start()


def test_a_recycled_pid_is_never_ended(make: Make) -> None:
    """The state names a living process, but with another start time: it is somebody else's."""
    one = make()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        pid, born = processes.ident(other.pid)
        stale = State(one.port, one.command.model, one.command.words, "x", [], pid, born - 60, [(pid, born - 60)])
        processes.STATE_DIR.mkdir()
        StateFile(processes.STATE_DIR / f"{one.port}.json").write(stale)
        main(["stop"])
        assert other.poll() is None
        processes.end(replace(stale, create_time=born, processes=[(pid, born)]), timeout_s=10)
        assert processes.living((pid, born)) is None


def test_a_zombie_that_nobody_reaps_is_not_waited_for(make: Make) -> None:
    """As in a container whose first process reaps no orphans."""
    one = make()
    slow = "trap 'sleep 1; exit' TERM; echo $$; while :; do sleep 0.1; done"
    careless = f"import subprocess; subprocess.Popen(['bash', '-c', {slow!r}]); input()"
    with subprocess.Popen([sys.executable, "-c", careless], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        who = processes.ident(int(parent.stdout.readline()))
        state = State(one.port, one.command.model, one.command.words, "x", [], *who, [(2**22 + 1, 0.0), who])
        ending = threading.Thread(target=processes.end, args=(state,), kwargs={"timeout_s": 600}, daemon=True)
        ending.start()
        ending.join(DEADLINE_S)
        assert not ending.is_alive()
        assert psutil.Process(who[0]).status() == psutil.STATUS_ZOMBIE
        parent.communicate(b"\n")


def test_status_and_stop_on_the_command_line(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status"])
    assert "没有本课程启动的服务器" in capsys.readouterr().out
    one = make().start()
    main(["status"])
    assert f"端口 {one.port}：pid {one.pid}" in capsys.readouterr().out
    main(["stop"])
    assert one.pid is None
    run = subprocess.run(
        [sys.executable, "-m", "helpers.server", "explode"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"port": 1}', '{"users": 3, "processes": []}', "\x00\xff"])
def test_a_broken_state_file_is_not_a_server(tmp_path: Path, content: str) -> None:
    file = tmp_path / "8000.json"
    file.write_text(content)
    assert StateFile(file).read() is None
    assert StateFile(tmp_path).read() is None


def test_the_import_is_light() -> None:
    code = "import sys, helpers.server; print([m for m in ('torch', 'vllm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout == "[]\n"


def test_what_stands_last_in_the_log_is_the_cause() -> None:
    taken = "OSError: [Errno 98] Address already in use"
    unknown_flag = "vllm: error: unrecognized arguments: --x"
    assert "端口" in (server_log.diagnose(f"{unknown_flag}\n{taken}") or "")[0]
    assert "--x" in (server_log.diagnose(f"{taken}\n{unknown_flag}") or "")[0]


def test_a_missing_package_is_the_cause_only_where_it_ended_the_engine() -> None:
    missing, handled = (
        "ModuleNotFoundError: No module named 'triton'",
        "INFO Failed to import: No module named 'triton'",
    )
    wrapped = "RuntimeError: Engine core initialization failed. See root cause above."
    assert "triton" in (server_log.diagnose(f"{missing}\n{wrapped}") or "")[0]
    assert server_log.diagnose(f"{handled}\n{missing}\nKeyError: 'never seen'\n{wrapped}") is None


def test_a_printed_command_can_be_pasted() -> None:
    words = ["vllm", "serve", "/my model", "--chat-template", "a --b", "--enforce-eager", "--port", "8000"]
    shown = readable(words)
    assert shown.splitlines()[1:] == ["    --chat-template 'a --b' \\", "    --enforce-eager \\", "    --port 8000"]
    assert shlex.split(shown.replace("\\\n", "")) == words


def test_a_relative_model_folder_is_checked_before_start(tmp_path: Path) -> None:
    def start(model: str, **options: bool) -> list[str]:
        return ServeCommand([*FAKE, "serve", model]).program(**options)

    with pytest.raises(ServerError, match="models/R1 不存在"):
        start("models/R1")
    assert start("owner/name", offline=False)[-1] == "owner/name"
    with pytest.raises(ServerError, match="不存在"):
        start("models/a/b", offline=False)


def test_the_server_finds_the_tools_of_its_environment_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # of a kernel that knows nothing of its environment
    one = make().start()
    assert psutil.Process(one.pid).environ()["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_an_unknown_message_is_not_explained_away() -> None:
    assert server_log.diagnose("") is None
    assert server_log.diagnose("ValueError: never seen\n" * 10_000) is None


def test_the_phase_is_the_last_one_reached() -> None:
    log = ""
    assert server_log.phase(log) == server_log.PHASES[0][1]
    for mark, words in server_log.PHASES[1:]:
        log += f"(EngineCore pid=1) INFO {mark} …\n"
        assert server_log.phase(log) == words


def test_tail_of_odd_logs(tmp_path: Path) -> None:
    file = tmp_path / "log"
    assert server_log.tail(file) == server_log.tail(tmp_path) == ""
    file.write_bytes(b"\xff\xfe\x00 half \xe4\xbd\n" * 100_000 + "最后一行".encode())
    assert server_log.tail(file, lines=1) == "最后一行"
    assert server_log.tail(file, lines=0) == ""
    assert len(server_log.tail(file, lines=10**9)) <= server_log.TAIL_BYTES
