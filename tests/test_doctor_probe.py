"""What the doctor reads from this machine: real processes, ports and a fake `nvidia-smi`."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from helpers.doctor import gpu as card
from helpers.doctor import host, probe
from helpers.machine import SmiAnswer, ask_smi, free_port, port_is_free
from helpers.server import state


def fake_smi(folder: Path, script: str) -> None:
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_ask_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fake_smi(tmp_path, "echo out; echo err >&2; exit 9")
    assert ask_smi("-x") == SmiAnswer(9, "out\nerr\n")
    fake_smi(tmp_path, "exec sleep 30")
    assert ask_smi("-x", timeout_s=0.2).status == 124
    fake_smi(tmp_path, "printf '\\377\\376'")
    assert ask_smi("-x").status == 0
    monkeypatch.setenv("PATH", "/nonexistent")
    assert ask_smi("-x").status is None


def test_listener_on_a_taken_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listener = probe.listener_on(port)
        assert listener is not None
        assert listener.pid == os.getpid()
        assert not port_is_free(port)
        other = free_port(port)
        assert other > port
    assert probe.listener_on(port) is None


def test_course_pids_need_the_recorded_start_time(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "STATE_DIR", tmp_path)
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], start_new_session=True, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        started = psutil.Process(child.pid).create_time()

        def recorded(create_time):
            who = (child.pid, create_time)
            return state.State(8000, "/m", ["vllm"], "x.log", [], *who, [who])

        for number, text in enumerate(["", "{", "[]", '{"pid": null}', '{"pid": 1}']):
            (tmp_path / f"bad{number}.json").write_text(text)
        state.StateFile(tmp_path / "1.json").write(recorded(started + 100))
        assert probe.course_pids() == set()
        state.StateFile(tmp_path / "2.json").write(recorded(started))
        assert probe.course_pids() == {child.pid, *(p.pid for p in psutil.Process(child.pid).children())}
    finally:
        for process in [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]:
            process.kill()
        child.wait()


def listed(pids: set[int], course: set[int] = frozenset()) -> list[host.VllmProcess]:
    """What the doctor lists of `pids`, once each of them runs the program it was started for."""
    return [process for process in probe.vllm_processes(set(course)) if process.pid in pids]


@pytest.fixture
def orphan(tmp_path):
    """`timeout 60 vllm serve … --port 8231` as somebody left it: the wrapper, and below it the server."""
    program = tmp_path / "vllm"
    program.write_text("print(flush=True)\nimport time; time.sleep(60)\n")
    command = ["timeout", "60", sys.executable, str(program), "serve", "/models/r1", "--port", "8231"]
    wrapper = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE)
    try:
        assert wrapper.stdout is not None
        wrapper.stdout.readline()
        child, = psutil.Process(wrapper.pid).children()  # fmt: skip
        yield wrapper.pid, child
    finally:
        for process in [*psutil.Process(wrapper.pid).children(), psutil.Process(wrapper.pid)]:
            process.kill()
        wrapper.communicate()


def test_orphan_server_is_told_from_others(orphan, tmp_path, monkeypatch):
    wrapper, server = orphan
    found, = listed({wrapper, server.pid})  # fmt: skip
    assert (found.pid, found.owner) == (server.pid, "unknown")
    assert found.about == f"端口 8231，文件夹 {tmp_path}，运行了 0 分钟"
    assert f"kill {server.pid}" in host.check_leftovers([found]).fix
    assert [process.owner for process in listed({server.pid}, {server.pid})] == ["course"]
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert listed({wrapper, server.pid}) == []


def test_zombie_is_no_leftover(tmp_path):
    program = tmp_path / "VLLM::EngineCor"  # a dead process keeps its name, but not its command line
    program.symlink_to("/bin/cat")
    child = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        assert [process.pid for process in listed({child.pid})] == [child.pid]
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but still in the table
        assert host.looks_like_vllm(psutil.Process(child.pid).name(), [])
        assert listed({child.pid}) == []
    finally:
        child.kill()
        child.communicate()


def test_orphan_engine_is_found():
    code = "import os,sys,time; os.execv('/bin/sleep', ['VLLM::EngineCore', '60'])"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        mine = []
        while not mine and child.poll() is None:
            mine = [process for process in probe.vllm_processes(set()) if process.pid == child.pid]
        assert [process.owner for process in mine] == ["unknown"]
        owned = [process for process in probe.vllm_processes({child.pid}) if process.pid == child.pid]
        assert [process.owner for process in owned] == ["course"]
    finally:
        child.kill()
        child.wait()


def test_who_holds_the_card_comes_from_the_process(tmp_path, monkeypatch):
    child = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    try:
        app = card.GpuApp(child.pid, "/usr/bin/sleep", 3.0, "GPU-aa")
        found, = probe.with_owners([app])  # fmt: skip
        assert found.mine
        assert found.about == f"用户 {psutil.Process().username()}，文件夹 {tmp_path}，运行了 0 分钟"
        assert probe.with_owners([replace(app, name="python3")]) == [replace(app, name="python3")]  # another namespace
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        assert [other.mine for other in probe.with_owners([app])] == [False]
    finally:
        child.kill()
        child.wait()
    assert probe.with_owners([app]) == [app]


def test_missing_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert probe.missing_tools(str(tmp_path)) == ["ninja", "nvcc"]
    for tool in (tmp_path / "ninja", tmp_path / "bin" / "nvcc"):
        tool.parent.mkdir(exist_ok=True)
        tool.write_text("")
        tool.chmod(0o755)
    assert probe.missing_tools(str(tmp_path)) == []
