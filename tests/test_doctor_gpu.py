"""The doctor on `nvidia-smi`: each outcome from recorded answers."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.config import REPO_ROOT
from helpers.doctor import Check, fit, smi
from helpers.doctor import gpu as card
from helpers.machine import SmiAnswer
from helpers.models.size import GIB, SEVEN_B_CONFIG, kv_budget_gib, model_size

SIZE = model_size(SEVEN_B_CONFIG)

# Recorded: `nvidia-smi --query-gpu=GPU_QUERY --format=csv,noheader,nounits`. The lines of the H200 and the H100 come
# from real cards;
# the others keep their format with what other cards, drivers and containers print in it. `memory.reserved` was not
# yet asked for but of the H100.
H200 = "0, GPU-037445f1-dd10-57dd-27b4-0c222bb6b207, 580.159.04, 143771, [N/A], 40138, 9.0, Disabled, NVIDIA H200\n"
H200_APPS = "406, 103010, GPU-037445f1-dd10-57dd-27b4-0c222bb6b207, python3\n"
RTX_4090 = "0, GPU-aa, 550.90.07, 24564, [N/A], 24210, 8.9, [N/A], NVIDIA GeForce RTX 4090\n"
T4 = "0, GPU-bb, 535.161.08, 15360, [N/A], 15100, 7.5, [N/A], Tesla T4\n"
V100 = "0, GPU-cc, 535.161.08, 32768, [N/A], 32500, 7.0, [N/A], Tesla V100-SXM2-32GB\n"
OLD = "0, GPU-dd, 470.57.02, 24268, [N/A], 24000, [Not Supported], [N/A], GeForce RTX 3090\n"
MIG = (
    "0, GPU-ee, 580.65.06, [Insufficient Permissions], [N/A], [Insufficient Permissions], 9.0, Enabled, "
    "NVIDIA H100 80GB HBM3\n"
)
H100 = "0, GPU-ff, 580.159.04, 81559, 480, 81079, 9.0, Disabled, NVIDIA H100 80GB HBM3\n"
TWO = RTX_4090 + RTX_4090.replace("0, GPU-aa", "1, GPU-ab").replace("24210", "900")
COMMUNICATE = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)


def gpu(text: str) -> smi.Gpu:
    return smi.parse_gpus(text)[0]


def test_parse_a_real_h200():
    assert gpu(H200) == smi.Gpu(
        0,
        "GPU-037445f1-dd10-57dd-27b4-0c222bb6b207",
        "NVIDIA H200",
        "580.159.04",
        143771 * 0.985 / 1024,
        40138 / 1024,
        (9, 0),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OLD, (24268 * 0.985 / 1024, None, False)),
        (H100, ((81559 - 480) / 1024, (9, 0), False)),
        (MIG, (None, (9, 0), True)),
        (RTX_4090.replace("24564", "[Not Supported]"), (None, (8, 9), False)),
        (RTX_4090.replace("24564", "[N/A]").replace("8.9", "[N/A]"), (None, None, False)),
    ],
)
def test_parse_fields_without_a_number(text, expected):
    found = gpu(text)
    assert (found.total_gib, found.capability, found.mig) == expected


def test_parse_two_cards_and_a_name_with_a_comma():
    assert [found.index for found in smi.parse_gpus(TWO)] == [0, 1]
    assert gpu(RTX_4090.replace("NVIDIA GeForce", "NVIDIA, GeForce")).name == "NVIDIA, GeForce RTX 4090"


@pytest.mark.parametrize("text", ["", "\n", "No devices were found\n", COMMUNICATE, "a,b\n", ",,,,,,,\n", "\0" * 50])
def test_parse_refuses_other_text(text):
    assert smi.parse_gpus(text) == []
    assert smi.parse_apps(text) == []


def test_parse_apps():
    row, = smi.parse_apps(H200_APPS)  # fmt: skip
    assert (row.pid, row.name, row.used_gib) == (406, "python3", 103010 / 1024)
    hidden, = smi.parse_apps("71, [N/A], GPU-aa, [Not Found]\n")  # fmt: skip
    assert (hidden.pid, hidden.used_gib) == (71, None)


def driver(text: str, *, status: int | None = 0, vllm: str | None = "0.32.0") -> Check:
    return card.check_driver(SmiAnswer(status, text), smi.parse_gpus(text), vllm_version=vllm, pinned="0.32.0")


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


@pytest.mark.parametrize("prefix", [REPO_ROOT / ".venv-gpu", Path("/root/miniconda3/envs/vllm-tutorial")])
def test_fix_of_a_middle_aged_driver_is_make_and_elsewhere_also_the_cu129_wheel(prefix, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(prefix))
    fix = driver(RTX_4090).fix
    assert f"cd {REPO_ROOT} && make setup" in fix
    if prefix.parent == REPO_ROOT:
        assert "pip install" not in fix
        return
    assert 'pip install "vllm==0.32.0+cu129"' in fix
    assert "https://wheels.vllm.ai/0.32.0/cu129" in fix
    assert "https://download.pytorch.org/whl/cu129" in fix


@pytest.mark.parametrize(
    ("text", "status", "words", "fix"),
    [
        ("", None, "没有 nvidia-smi", "TUTORIAL_PROFILE=classroom"),
        ("", None, "没有 nvidia-smi", "docker run --gpus all"),
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


LOST = RTX_4090.replace("0, GPU-aa", "1, GPU-ab").replace(
    "24564, [N/A], 24210, 8.9", "[Unknown Error], [N/A], [Unknown Error], ERR!"
)


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
        (T4, "bfloat16", "FAIL", "export TUTORIAL_DTYPE=float16\n"),
        (T4, "bfloat16", "FAIL", "感叹号"),
        (T4, "float16", "OK", ""),
        (V100, "float16", "FAIL", "换一张"),
        (OLD, "bfloat16", "WARN", "7.5"),
    ],
)
def test_capability(text, dtype, status, fix):
    check = card.check_capability(gpu(text), dtype=dtype)
    assert check.status == status
    assert fix in check.fix


def fitted(text: str, *, length: int = 2048, utilization: float = 0.9) -> Check:
    return fit.check_gpu_fit(gpu(text), SIZE, max_model_len=length, utilization=utilization)


def test_memory_for_weights_and_kv():
    assert fitted(RTX_4090).status == "OK"
    assert "CUDA 看得到 23.6 GiB" in fitted(RTX_4090).found
    assert fitted(RTX_4090, length=32768).status == "OK"
    too_long = fitted(RTX_4090, length=131072)
    assert too_long.status == "FAIL"
    name, length = too_long.fix.removeprefix("export ").split("=")
    assert name == "TUTORIAL_MAX_MODEL_LEN"
    assert fitted(RTX_4090, length=int(length)).status == "OK"
    assert fitted(RTX_4090, length=int(length) + 256).status == "FAIL"
    assert [fitted(text).status for text in (MIG, RTX_4090.replace("24564", "[N/A]"))] == ["WARN", "WARN"]


def test_tokens_of_the_kv_cache_are_a_range():
    """The ends of the range are those of the rest; the arithmetic of helpers.models.size lies between them."""
    ends = re.search(r"一共 ([\d.]+) 万–([\d.]+) 万 token", fitted(H100).found)
    middle = kv_budget_gib((81559 - 480) / 1024, SIZE.weights_gib) * GIB / SIZE.kv_bytes_per_token / 10000
    assert ends and float(ends[1]) < middle < float(ends[2])
    per_token = SIZE.kv_bytes_per_token / GIB * 10000
    assert (float(ends[2]) - float(ends[1])) * per_token == pytest.approx(3.0 - 1.5, abs=0.02)
    assert "Available KV cache memory" in fitted(H100).found


def free(text: str, apps: str = "", *, server: bool = False, needed: float = 15.8) -> Check:
    holders = [replace(app, mine=True, about="用户 me") for app in smi.parse_apps(apps)]
    return fit.check_gpu_free(gpu(text), holders, needed_gib=needed, utilization=0.9, course_server=server)


def test_no_kill_for_the_process_of_another_user():
    mine, theirs = smi.parse_apps(H200_APPS + H200_APPS.replace("406", "77"))
    mine, theirs = (
        replace(mine, mine=True, about="用户 me"),
        replace(theirs, about="用户 alice，文件夹 /home/alice，运行了 3.0 小时"),
    )
    check = fit.check_gpu_free(gpu(H200), [theirs], needed_gib=60, utilization=0.9, course_server=False)
    assert "kill" not in check.fix
    assert "请主人停下" in check.fix
    assert "（用户 alice，文件夹 /home/alice，运行了 3.0 小时）" in check.found
    hidden = fit.check_gpu_free(
        gpu(H200), smi.parse_apps(H200_APPS), needed_gib=60, utilization=0.9, course_server=False
    )
    assert "kill" not in hidden.fix
    assert "看不出是谁的" in hidden.fix
    both = fit.check_gpu_free(gpu(H200), [theirs, mine], needed_gib=60, utilization=0.9, course_server=False)
    assert "kill 406\n别人的进程" in both.fix


def test_free_memory_and_who_holds_the_rest():
    assert free(RTX_4090).status == "OK"
    taken = free(H200, H200_APPS)  # the real card, with a real process on it
    assert taken.status == "FAIL"
    assert "PID 406 python3 100.6 GiB（用户 me）" in taken.found
    assert taken.fix.startswith("export TUTORIAL_GPU_MEMORY_UTILIZATION=0.28\n")
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


@pytest.mark.parametrize(("name", "shown"), [("[Not Found]", False), ("python3", True), ("/usr/bin/ollama", True)])
def test_number_that_means_nothing_here_is_not_named(name, shown):
    """In a container nvidia-smi lists the host's processes, or none with a name."""
    apps = smi.parse_apps(H200_APPS.replace("python3", name).replace("406", "2839"))
    check = fit.check_gpu_free(gpu(H200), apps, needed_gib=60, utilization=0.9, course_server=False)
    assert "2839" not in check.found + check.fix and "kill" not in check.fix
    assert (name in check.found) is shown
    assert ("看不到是谁" in check.found) is not shown


def test_only_a_card_that_shares_the_machine_s_memory_is_looked_at_with_free() -> None:
    unified, slice_ = (
        fitted(RTX_4090.replace("24564", "[N/A]").replace("RTX 4090", "GB10")),
        fitted(RTX_4090.replace("24564", "[N/A]").replace("GeForce RTX 4090", "A10-12Q")),
    )
    assert "free -h" in unified.fix and "free -h" not in slice_.fix


NVML = "Failed to initialize NVML: "


@pytest.mark.parametrize(
    ("said", "in_windows"),
    [
        (COMMUNICATE, True), (f"{NVML}N/A\nFailed to properly shut down NVML: N/A\n", True),
        (f"{NVML}Driver/library version mismatch\n", True),
        (f"{NVML}GPU access blocked by the operating system\n", True),
        (f"{NVML}Unknown Error\n", False), (f"{NVML}Insufficient Permissions\n", False),
    ],
)  # fmt: skip
def test_a_driver_that_wsl_does_not_find_is_mended_in_windows(said, in_windows, monkeypatch):
    monkeypatch.setattr(card, "in_wsl", lambda: True)
    assert ("Windows" in driver(said, status=9).fix) is in_windows
    monkeypatch.setattr(card, "in_wsl", lambda: False)
    assert ("在 Windows 里更新" in driver(said, status=9).fix) is ("blocked" in said)


@pytest.mark.parametrize(
    ("version", "vllm"), [("546.80", "0.32.0"), ("546.80", "0.32.0+cu129"), ("470.57.02", "0.32.0")]
)
def test_an_old_driver_of_wsl_is_renewed_in_windows_and_elsewhere_the_machine_is_changed(version, vllm, monkeypatch):
    for wsl in (True, False):
        monkeypatch.setattr(card, "in_wsl", lambda wsl=wsl: wsl)
        fix = driver(with_driver(version), vllm=vllm).fix
        assert ("wsl --shutdown" in fix) is wsl and ("换一台" in fix) is not wsl


def test_no_nvidia_smi_in_wsl(monkeypatch):
    monkeypatch.setattr(card, "in_wsl", lambda: True)
    fix = driver("", status=None).fix
    assert "Windows" in fix and "docker" not in fix and "TUTORIAL_PROFILE=classroom" in fix
