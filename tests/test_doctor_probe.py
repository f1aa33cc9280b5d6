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

from helpers.doctor import host, limits, probe, smi
from helpers.machine import SmiAnswer, ask_smi, free_port, port_is_free
from helpers.models.size import GIB
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


@pytest.fixture
def card_user(tmp_path, monkeypatch):
    """A Python process that has a card open."""
    device = tmp_path / "nvidia0"
    device.write_text("")
    monkeypatch.setattr(probe, "CARD_FILES", (str(device),))
    code = "import sys, time; card = open(sys.argv[1]); print(flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code, str(device)], cwd=tmp_path, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.communicate()


def test_who_holds_the_card_comes_from_the_process(card_user, tmp_path, monkeypatch):
    app = smi.GpuApp(card_user.pid, sys.executable, 3.0, "GPU-aa")
    found, = probe.with_owners([app])  # fmt: skip
    assert found.mine
    assert found.about == f"用户 {psutil.Process().username()}，文件夹 {tmp_path}，运行了 0 分钟"
    elsewhere = replace(app, name="/usr/bin/ollama")  # another namespace
    assert probe.with_owners([elsewhere]) == [elsewhere]
    assert [user.pid for user in probe.card_users("GPU-aa")] == [card_user.pid]
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert [other.mine for other in probe.with_owners([app])] == [False]
    assert probe.card_users("GPU-aa") == []
    card_user.kill()
    card_user.wait()
    assert probe.with_owners([app]) == [app]


def test_a_number_that_belongs_to_somebody_else_here_is_not_named(card_user, monkeypatch):
    """A host's python3 has the number of a Python here that has no card open, or of a program that is no Python."""
    monkeypatch.setattr(probe, "CARD_FILES", ("/nonexistent",))
    other = subprocess.Popen(["sleep", "60"])
    try:
        apps = [smi.GpuApp(card_user.pid, sys.executable, 3.0, "GPU-aa"),
                smi.GpuApp(other.pid, "python3", 3.0, "GPU-aa"), smi.GpuApp(other.pid, "sleep", 3.0, "GPU-aa"),
                smi.GpuApp(other.pid, "[Not Found]", None, "GPU-aa")]  # fmt: skip
        assert probe.with_owners(apps) == apps
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_limit_of_a_container(version, tmp_path):
    assert limits.memory_limit(tmp_path) is None
    folder = tmp_path / "memory" if version == "v1" else tmp_path
    folder.mkdir(exist_ok=True)
    limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == "v1" else (
        "memory.max", "memory.current")  # fmt: skip
    (folder / limit).write_text("4294967296\n")
    (folder / used).write_text("3221225472\n")
    cache = "total_inactive_file" if version == "v1" else "inactive_file"
    (folder / "memory.stat").write_text(f"anon 1\n{cache} 1073741824\n")
    assert limits.memory_limit(tmp_path) == limits.MemoryLimit(version, 4 * GIB, 2 * GIB)
    (folder / limit).write_text("9223372036854771712\n" if version == "v1" else "max\n")
    assert limits.memory_limit(tmp_path) is None


def test_memory_of_a_container_is_its_limit(monkeypatch):
    host_total = psutil.virtual_memory().total
    monkeypatch.setattr(limits, "memory_limit", lambda: limits.MemoryLimit("v1", 2**20, 2**19))
    assert probe.available_memory() == (2**20, 2**19)
    monkeypatch.setattr(limits, "memory_limit", lambda: None)
    assert probe.available_memory()[0] == host_total


def test_trash_on_the_same_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert probe.trash(tmp_path / "models" / "r1") == {}
    trash = tmp_path / ".local" / "share" / "Trash"
    (trash / "files").mkdir(parents=True)
    assert probe.trash(tmp_path) == {}
    with (trash / "files" / "half.safetensors").open("wb") as file:
        file.truncate(3 * 2**20)
    assert probe.trash(tmp_path / "models" / "r1") == {trash: 3 * 2**20}
    assert trash not in probe.trash(Path("/dev/shm"))  # another disk


def test_missing_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert probe.missing_tools(str(tmp_path)) == ["ninja", "nvcc"]
    for tool in (tmp_path / "ninja", tmp_path / "bin" / "nvcc"):
        tool.parent.mkdir(exist_ok=True)
        tool.write_text("")
        tool.chmod(0o755)
    assert probe.missing_tools(str(tmp_path)) == []
