"""What the doctor says of a card's size; `make` must think the same of it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from unittest import mock

import pytest

import helpers.doctor
from helpers.config import REPO_ROOT, get_profile
from helpers.doctor import fit, run_checks, smi
from helpers.doctor import gpu as card
from helpers.machine import SmiAnswer
from helpers.models.size import SEVEN_B_CONFIG, model_size

SIZE = model_size(SEVEN_B_CONFIG)


def row(mib: int, *, name: str = "NVIDIA X", capability: str = "8.6", driver: str = "580.95.05") -> str:
    return f"0, GPU-aa, {driver}, {mib}, [N/A], {mib}, {capability}, [N/A], {name}\n"


def a_card(mib: int, **facts: str) -> smi.Gpu:
    return smi.parse_gpus(row(mib, **facts))[0]


@pytest.mark.parametrize(
    ("mib", "small", "fix"),
    [(15360, False, "export TUTORIAL_MODEL=1.5b\n"), (8192, False, "export TUTORIAL_MODEL=1.5b\n"),
     (6144, False, "1.5B 也放不下"), (4096, True, "1.5B 也放不下")],
)  # fmt: skip
def test_a_card_that_is_too_small_is_told_what_does_fit(mib, small, fix):
    size = model_size(fit.FAMILY["1.5B"]) if small else SIZE
    check = fit.check_gpu_fit(a_card(mib), size, max_model_len=2048, utilization=0.9)
    assert check.status == "FAIL" and fix in check.fix
    assert ("TUTORIAL_MODEL" in fix) is ("TUTORIAL_MODEL" in check.fix)


def test_what_is_named_fits():
    small = model_size(fit.FAMILY["1.5B"])
    assert small.weights_gib == pytest.approx(3.31, abs=0.01) and small.kv_bytes_per_token == 28 * 1024
    check = fit.check_gpu_fit(a_card(8192), small, max_model_len=fit.ROOM, utilization=0.9)
    assert check.status == "OK"
    larger = replace(SIZE, parameters=2 * SIZE.parameters, weights_gib=2 * SIZE.weights_gib)
    check = fit.check_gpu_fit(a_card(24564), larger, max_model_len=2048, utilization=0.9)
    assert check.fix.startswith("export TUTORIAL_MODEL=7b\n")  # the largest that fits, not the smallest


def load_choose():
    spec = importlib.util.spec_from_file_location("choose", REPO_ROOT / "requirements" / "choose.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.choose


@pytest.mark.parametrize("version", ["595.45", "580.95.05", "575.51.03", "525.60.13", "524.99", "470.57.02"])
@pytest.mark.parametrize(
    ("name", "mib", "capability"),
    [("RTX 4090", 24564, "8.9"), ("Tesla T4", 15360, "7.5"), ("RTX 3060", 12288, "8.6"), ("RTX 2070", 8192, "7.5"),
     ("RTX 2060", 6144, "7.5"), ("Tesla V100", 32768, "7.0"), ("GTX 1060", 6144, "6.1")],
)  # fmt: skip
def test_make_and_the_doctor_agree_on_what_is_usable(name, mib, capability, version):
    """`make` installs the first set that the driver can take, where the doctor would not ask for another card."""
    gpu = a_card(mib, name=name, capability=capability, driver=version)

    def fails(vllm: str) -> bool:
        check = card.check_driver(SmiAnswer(0, ""), [gpu], vllm_version=vllm, pinned="0.32.0")
        return check.status == "FAIL"

    sets = [name for name, vllm in (("gpu", "0.32.0"), ("gpu-cu129", "0.32.0+cu129")) if not fails(vllm)]
    of_card = [
        card.check_capability(gpu, dtype="float16"),
        fit.check_gpu_fit(gpu, SIZE, max_model_len=2048, utilization=0.9),
    ]
    usable = all(check.status == "OK" or "export TUTORIAL_MODEL=" in check.fix for check in of_card)
    expected = sets[0] if sets and usable else "classroom"
    assert load_choose()(f"{name}, {mib}, {capability}, {version}")[0] == expected


@pytest.mark.parametrize(("name", "status"), [("1.5B", "OK"), ("7B", "FAIL"), ("unknown", "FAIL")])
def test_the_model_that_the_profile_names_is_judged_before_it_is_there(name, status, tmp_path):
    profile = get_profile({"TUTORIAL_PROFILE": "gpu", "TUTORIAL_MODEL_DIR": str(tmp_path)})
    profile = replace(profile, model_id=f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{name}")
    answer = SmiAnswer(0, row(8192))
    with mock.patch.object(helpers.doctor, "ask_smi", return_value=answer), mock.patch.dict(os.environ):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        lines = {check.name: check for check in run_checks(profile)}
    assert lines[fit.FIT].status == status
    assert ("5.3 GiB" in lines["磁盘"].found) is (name == "1.5B")  # its weights, and 2 beside them
