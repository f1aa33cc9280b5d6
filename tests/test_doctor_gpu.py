"""The doctor on `nvidia-smi`: each outcome from recorded answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helpers.doctor import Check
from helpers.doctor import gpu as card
from helpers.machine import SmiAnswer
from helpers.models.size import SEVEN_B_CONFIG, model_size

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


def test_only_a_card_that_shares_the_machine_s_memory_is_looked_at_with_free() -> None:
    unified, slice_ = (
        fit(RTX_4090.replace("24564", "[N/A]").replace("RTX 4090", "GB10")),
        fit(RTX_4090.replace("24564", "[N/A]").replace("GeForce RTX 4090", "A10-12Q")),
    )
    assert "free -h" in unified.fix and "free -h" not in slice_.fix


def test_a_driver_that_wsl_does_not_find_is_mended_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SmiAnswer(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    for wsl, word in ((True, "Windows"), (False, "重启机器")):
        monkeypatch.setattr(card, "in_wsl", lambda wsl=wsl: wsl)
        assert word in card.check_driver(answer, [], vllm_version=None, pinned="0.32.0").fix
