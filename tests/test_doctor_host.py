"""The doctor on disk, memory, processor, network and port, from recorded inputs."""

from __future__ import annotations

import os
import shlex
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
    check = host.check_disk(Path(path), free_bytes=free_gib * GIB, needed_gib=16.2, data_disk=data_disk, trash={})
    assert check.status == status
    assert fix in check.fix


def test_full_disk_names_what_lies_in_the_trash():
    trash = {DATA / ".Trash-0": 12 * GIB, Path("/root/.local/share/Trash"): GIB // 2}
    full, roomy = (
        host.check_disk(DATA / "x", free_bytes=free * GIB, needed_gib=16.2, data_disk=DATA, trash=trash)
        for free in (10, 40)
    )
    assert "12.5 GiB" in full.fix
    assert "rm -rf /root/autodl-tmp/.Trash-0 /root/.local/share/Trash\n" in full.fix
    assert roomy.fix == ""


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
    assert check.fix.startswith({"OK": "", "WARN": "export NO_PROXY=", "FAIL": f"unset {bad}"}[status])


@pytest.mark.parametrize("there", ["", "aliyuncs.com,.corp.cn", "localhost,127.0.0.1,::1/128,.corp.cn"])
def test_proxy_fix_mends_it_and_keeps_what_was_there(there):
    environ = {"http_proxy": "http://10.0.0.1:3128", "no_proxy": there}
    words = shlex.split(host.check_proxy(environ).fix.removeprefix("export "))
    fixed = dict(word.split("=", 1) for word in words)
    assert host.check_proxy(environ | fixed).status == "OK"
    assert {"aliyuncs.com", ".corp.cn"} & set(there.split(",")) <= set(fixed["no_proxy"].split(","))


def test_accelerator_of_autodl_that_was_left_on():
    proxy = "http://10.37.1.23:12798"
    environ = {"http_proxy": proxy, "https_proxy": proxy,
               "no_proxy": "localhost,127.0.0.1,modelscope.com,aliyuncs.com,tencentyun.com,wisemodel.cn"}  # fmt: skip
    check = host.check_proxy(environ)
    assert (check.status, check.fix) == ("WARN", "unset http_proxy https_proxy")
    assert host.check_proxy({"no_proxy": environ["no_proxy"]}).status == "OK"


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
    assert (taken.status, taken.fix) == ("WARN", "想固定下来的话：export TUTORIAL_PORT=8001")
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
    for container in (False, True):
        check = host.check_shm(size, container=container)
        assert check.status == status
        assert words in check.found
        assert not (container and "mount" in check.fix)  # it cannot work there
    assert status == "OK" or size is None or "mount" in host.check_shm(size, container=False).fix


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
    ("total", "available", "kv", "status"),
    [
        (16, 12, 1, "OK"),
        (64, 4.1, 1, "OK"),  # the share of the machine does not matter
        (64, 2, 1, "FAIL"),
        (64, 4.1, 4, "FAIL"),
        (8, 3.5, 1, "WARN"),
        (64, 8, None, "OK"),
        (64, 2, None, "WARN"),
    ],
)
def test_ram(total, available, kv, status):
    check = host.check_ram(total_bytes=total * GIB, available_bytes=int(available * GIB), kv_gib=kv)
    assert check.status == status
    assert bool(check.fix) == (status != "OK")
    assert "UTILIZATION" not in check.fix  # with a KV cache of fixed size it does nothing


def test_ram_for_a_real_model_on_the_cpu():
    for available, status in ((6.4, "FAIL"), (6.7, "OK")):
        check = host.check_ram(total_bytes=8 * GIB, available_bytes=int(available * GIB), kv_gib=1, weights_gib=3.3)
        assert check.status == status
    assert host.check_ram(total_bytes=8 * GIB, available_bytes=6 * GIB, kv_gib=1).status == "OK"


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
