"""The doctor on disk, memory, processor, network and port, from recorded inputs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import httpx
import pytest

from helpers.config import REPO_ROOT
from helpers.doctor import Check, host
from helpers.models.size import GIB

DATA = Path("/root/autodl-tmp")


@pytest.mark.parametrize(
    ("path", "free_gib", "data_disk", "status", "fix"),
    [
        ("/root/autodl-tmp/models/x", 40, DATA, "OK", ""),
        ("/root/models/x", 40, DATA, "WARN", "export TUTORIAL_MODEL_DIR=/root/autodl-tmp/models/x"),
        ("/root/models/x", 10, DATA, "FAIL", "export TUTORIAL_MODEL_DIR=/root/autodl-tmp/models/x"),
        ("/root/autodl-tmp/models/x", 10, DATA, "FAIL", "du "),
        ("/root/autodl-tmp-2/models/x", 40, DATA, "WARN", "export"),
        ("/home/me/models/x", 17, None, "OK", ""),
        ("/home/me/models/x", 16, None, "FAIL", "du "),
    ],
)
def test_disk(path, free_gib, data_disk, status, fix):
    check = host.check_disk(Path(path), free_bytes=free_gib * GIB, needed_gib=16.2, data_disk=data_disk)
    assert check.status == status
    assert fix in check.fix


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({}, "OK"),
        ({"http_proxy": "http://10.0.0.1:3128"}, "WARN"),
        ({"HTTP_PROXY": "http://10.0.0.1:3128"}, "WARN"),
        ({"ALL_PROXY": "socks5://10.0.0.1:1080", "no_proxy": "localhost,127.0.0.1"}, "FAIL"),
        ({"https_proxy": "http://proxy.corp:port", "no_proxy": "localhost,127.0.0.1"}, "FAIL"),
        ({"http_proxy": "http://10.0.0.1:3128", "no_proxy": "localhost"}, "WARN"),
        ({"http_proxy": "http://10.0.0.1:3128", "no_proxy": "localhost,127.0.0.1"}, "OK"),
        ({"http_proxy": "http://10.0.0.1:3128", "NO_PROXY": "localhost, 127.0.0.1"}, "OK"),
        ({"http_proxy": "http://10.0.0.1:3128", "NO_PROXY": "localhost,127.0.0.1", "no_proxy": "a.cn"}, "WARN"),
        ({"http_proxy": "http://10.0.0.1:3128", "no_proxy": "*"}, "OK"),
        ({"https_proxy": "http://10.0.0.1:3128"}, "OK"),
        ({"http_proxy": ""}, "OK"),
        ({"NO_PROXY": "::1,10.0.0.0/8,http://[::1],localhost:8000"}, "OK"),
        ({"NO_PROXY": "localhost,127.0.0.1,[::1]"}, "WARN"),
        ({"no_proxy": "::1/128"}, "WARN"),
        ({"no_proxy": "fe80::/10"}, "WARN"),
        ({"no_proxy": "localhost；127.0.0.1"}, "WARN"),
        ({"proxy": "x", "_proxy": "y", "NO_PROXY": "a"}, "OK"),
    ],
)
def test_proxy(environ, status):
    check = host.check_proxy(environ)
    assert check.status == status
    bad = next((name for name in environ if "proxy" in name.lower()), "")
    assert check.fix.startswith({"OK": "", "WARN": host.NO_PROXY, "FAIL": f"unset {bad}"}[status])


def test_proxy_fix_mends_it():
    fixed = dict(part.split("=", 1) for part in host.NO_PROXY.removeprefix("export ").split())
    assert host.check_proxy({"http_proxy": "http://10.0.0.1:3128"} | fixed).status == "OK"


@pytest.mark.parametrize("entry", ["::1", "10.0.0.0/8", "http://[::1]", "a:80", "[::1]", "::1/128", "fe80::/10", "；"])
def test_no_proxy_that_httpx_cannot_read(entry, monkeypatch):
    """The doctor warns exactly when httpx makes no client."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", entry)
    works = True
    try:
        httpx.Client().close()
    except httpx.InvalidURL:
        works = False
    assert (host.check_proxy({"NO_PROXY": entry}).status == "OK") is works


def test_port():
    def check(listener: host.Listener | None, *, ours: bool = False) -> Check:
        return host.check_port(8000, listener, course_server=ours, free_port=8001)

    assert check(None).status == "OK"
    taken = check(host.Listener(77, "nginx"))
    assert (taken.status, taken.fix) == ("WARN", "export TUTORIAL_PORT=8001（想固定下来的话）")
    assert "nginx（PID 77）" in taken.found
    assert "别的用户" in check(host.Listener(None, "")).found
    assert check(host.Listener(78, "vllm"), ours=True).status == "OK"


@pytest.mark.parametrize(
    ("size", "status", "words"),
    [
        (64 * 1024**2, "WARN", "64 MiB"),
        (24 * GIB, "OK", "24 GiB"),
        (128 * GIB, "OK", "128 GiB"),
        (None, "WARN", "没有"),
    ],
)
def test_shm(size, status, words):
    check = host.check_shm(size)
    assert check.status == status
    assert words in check.found


@pytest.mark.parametrize(
    ("arch", "flags", "status"),
    [
        ("x86_64", {"sse4_2", "avx2", "avx512f"}, "OK"),
        ("x86_64", {"sse4_2", "avx2"}, "OK"),
        ("x86_64", {"sse4_2", "avx"}, "FAIL"),
        ("x86_64", set(), "WARN"),
        ("aarch64", set(), "OK"),
        ("i686", {"avx2"}, "FAIL"),
    ],
)
def test_cpu(arch, flags, status):
    assert host.check_cpu(arch, flags).status == status


@pytest.mark.parametrize(
    ("total", "available", "utilization", "status", "fix"),
    [
        (16, 12, 0.15, "OK", ""),
        (64, 8, 0.15, "FAIL", "export TUTORIAL_GPU_MEMORY_UTILIZATION=0.11"),
        (64, 2, 0.15, "FAIL", "ps aux"),
        (8, 3.5, 0.15, "WARN", "ps aux"),
        (64, 8, None, "OK", ""),
        (64, 2, None, "WARN", "ps aux"),
    ],
)
def test_ram(total, available, utilization, status, fix):
    check = host.check_ram(total_bytes=total * GIB, available_bytes=int(available * GIB), utilization=utilization)
    assert check.status == status
    assert fix in check.fix


def test_container_limit(tmp_path):
    assert host.cgroup_free(tmp_path) is None
    (tmp_path / "memory.max").write_text("4294967296\n")
    (tmp_path / "memory.current").write_text("3221225472\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1073741824\n")
    assert host.cgroup_free(tmp_path) == 2 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert host.cgroup_free(tmp_path) is None


def test_compiler():
    assert host.check_compiler("/usr/bin/gcc", gpu=True).status == "OK"
    assert host.check_compiler(None, gpu=True).status == "FAIL"
    assert host.check_compiler(None, gpu=False).status == "WARN"


def test_leftovers():
    assert host.check_leftovers([]).status == "OK"
    cared_for = [host.VllmProcess(5, "vllm", owner) for owner in ("course", "notebook", "terminal")]
    assert host.check_leftovers(cared_for).status == "OK"
    check = host.check_leftovers([*cared_for, host.VllmProcess(9, "VLLM::EngineCor", "unknown")])
    assert check.status == "WARN"
    assert "VLLM::EngineCor（PID 9）" in check.found
    assert check.fix.endswith("kill 9")
    assert f"cd {REPO_ROOT} && {sys.executable} -m helpers.server stop" in check.fix


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        ("VLLM::EngineCor", ["VLLM::EngineCore"], True),
        ("python3", ["VLLM::Worker_TP0"], True),
        ("vllm", ["/env/bin/python", "/env/bin/vllm", "serve", "/models/r1"], True),
        ("python", ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "x"], True),
        ("vim", ["vim", "vllm", "serve.txt"], False),
        ("bash", ["bash", "-c", "echo vllm serve"], False),
        ("grep", ["grep", "-r", "x", "y", "vllm", "serve"], False),
        ("timeout", ["timeout", "60", "vllm", "serve"], False),
        ("kthreadd", [], False),
    ],
)
def test_looks_like_vllm(name, command, expected):
    assert host.looks_like_vllm(name, command) is expected
