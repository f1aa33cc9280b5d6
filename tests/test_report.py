"""The reports that ship with the course, and the small parts of the commands that make them."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from helpers import get_profile, machine
from helpers.authoring.report import cpu, gpu
from helpers.authoring.report.step import decode_step
from helpers.bench import measured
from helpers.bench.fresh import run_fresh
from helpers.config import CLASSROOM_MODEL_DIR
from helpers.errors import BenchmarkError
from helpers.models import SEVEN_B_CONFIG, model_size


@pytest.mark.parametrize("name", ["cpu", "gpu", "gpu_notebooks"])
def test_a_shipped_report_names_its_machine_versions_and_date(name: str) -> None:
    head = measured(name)["machine"]
    assert head["date"] >= "2026-11-24"
    assert head["versions"]["vllm"].split("+")[0] == "0.32.0"
    assert bool(head["gpu"]) == (name != "cpu")
    assert head["cores"] and head["python"]


def test_the_gpu_report_says_what_its_weights_are_and_repeats_every_size() -> None:
    found = measured("gpu")
    assert found["weights"] == "random weights"
    assert {len(row["output_tok_per_s"]) for row in found["pairs"]} == {5}
    assert {(row["engine"], row["prompts"]) for row in found["pairs"]} >= {
        ("vllm", 1), ("vllm", 25), ("vllm", 100), ("vllm", 1000), ("transformers", 1), ("transformers", 25),
    }  # fmt: skip


def test_the_gpu_report_has_the_curve_the_starts_and_a_decode_step() -> None:
    found = measured("gpu")
    assert [point["concurrency"] for point in found["curve"]] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert list(found["startup"]) == ["cold", "warm", "eager", "server_ready_s"]
    assert found["step"]["steps"] == 64


def test_a_card_too_small_for_two_copies_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = machine.describe() | {"gpu_memory_gib": 24.0}
    monkeypatch.setattr(gpu, "describe", lambda: card)
    monkeypatch.setattr(gpu, "model_size", lambda _: model_size(SEVEN_B_CONFIG))
    profile = get_profile({"TUTORIAL_PROFILE": "gpu", "TUTORIAL_MODEL_DIR": str(CLASSROOM_MODEL_DIR)})
    with pytest.raises(BenchmarkError, match="24 GiB 显存，这份报告要 38 GiB"):
        gpu.measure(profile, folder=tmp_path, weights="random weights", repeats=1, save=pytest.fail)
    assert not [*tmp_path.iterdir()]


STOPPED = {"stages": 0, "pairs": 1, "run_bench": 2, "": 3}  # what breaks → how many parts are saved by then


@pytest.mark.parametrize("broken", STOPPED)
def test_what_is_measured_stays_when_a_later_part_fails(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(name: str) -> None:
        if name == broken:
            raise BenchmarkError("broken on purpose")

    def serve(command: list[str], **_: Any) -> Any:
        assert "--no-enable-prefix-caching" in command
        return nullcontext(SimpleNamespace(base_url="http://127.0.0.1:9", ready_after_s=1.0))

    monkeypatch.setattr(gpu, "run_fresh", lambda function, **_: answer(function.__name__))
    monkeypatch.setattr(gpu, "run_bench", lambda *_, **__: answer("run_bench"))
    monkeypatch.setattr(gpu, "VLLMServer", serve)
    monkeypatch.setattr(gpu, "read_serving", lambda paths: pd.DataFrame({"file": [path.name for path in paths]}))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    saved: list[set[str]] = []
    with pytest.raises(BenchmarkError, match="on purpose") if broken else nullcontext():
        gpu.measure(
            get_profile({"TUTORIAL_PROFILE": "classroom", "TUTORIAL_MODEL_DIR": str(CLASSROOM_MODEL_DIR)}),
            folder=tmp_path, weights="none", repeats=1, quick=True, save=lambda found: saved.append({*found}),
        )  # fmt: skip
    parts = [{"startup"}, {"startup", "pairs"}, {"startup", "pairs", "curve"}]
    assert [found & {"startup", "pairs", "curve"} for found in saved] == parts[: STOPPED[broken]]


def test_the_cpu_report_is_made_of_pairs() -> None:
    for row in measured("cpu")["figures"]:
        assert len(row["ours"]) == len(row["theirs"]) >= 1, row["name"]


def test_an_unknown_report_is_named() -> None:
    with pytest.raises(BenchmarkError, match="cpu、gpu 和 gpu_notebooks"):
        measured("tpu")


def test_pairs_are_measured_in_turn() -> None:
    order: list[str] = []

    def side(name: str) -> Any:
        return lambda: order.append(name) or float(len(order))

    ours, theirs = cpu._in_turn(side("a"), side("b"), n=3)
    assert order == ["a", "b"] * 3
    assert (ours, theirs) == ([1.0, 3.0, 5.0], [2.0, 4.0, 6.0])


def test_the_table_shows_ratios_pair_by_pair(capsys: pytest.CaptureFixture[str]) -> None:
    cpu._print([cpu._row("x : y", "s", [10.0, 20.0], [5.0, 5.0])], {"01_a": 1.0, "02_b": 3.0})
    shown = capsys.readouterr().out
    assert "3 (2-4)" in shown
    assert "75%" in shown and "4.0 s" in shown


def test_the_machine_is_described_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_gpus", lambda: [])
    monkeypatch.setattr(machine, "PACKAGES", ("no-such-package", "pytest"))
    found = machine.describe()
    assert found["gpu"] == [] and found["driver"] is None
    assert list(found["versions"]) == ["pytest"]


def test_a_gpu_is_named_without_its_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_gpus", lambda: ["GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0888f7dc)"])
    monkeypatch.setattr(machine, "_nvidia_smi", {"driver_version": "580.159.04", "memory.total": "81559"}.get)
    found = machine.describe()
    assert (found["gpu"], found["driver"]) == (["NVIDIA H100 80GB HBM3"], "580.159.04")
    assert found["gpu_memory_gib"] == 79.6


def test_a_function_runs_in_a_process_of_its_own_with_the_given_environment(tmp_path: Path) -> None:
    assert run_fresh(os.getpid, folder=tmp_path) != os.getpid()
    assert run_fresh(os.getenv, folder=tmp_path, env={**os.environ, "X_TEST": "1"}, key="X_TEST") == "1"
    assert (tmp_path / "getpid.json").is_file() and (tmp_path / "getenv.log").is_file()


def test_a_function_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"sum of squares 以状态 1 结束.*sum of squares\.log"):
        run_fresh(math.fsum, folder=tmp_path, name="sum of squares", seq=1)
    assert "TypeError" in (tmp_path / "sum of squares.log").read_text()


def kernel(ts: float, dur: float, name: str, cat: str = "kernel") -> dict[str, Any]:
    return {"cat": cat, "ts": ts, "dur": dur, "name": name}


ONE_LAYER = [  # names as on an H100; µs
    kernel(0, 300, "nvjet_sm90_tst_64x32_64x16_2x1_v_bz_TNT"),
    kernel(300, 100, "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<...>>>"),
    kernel(400, 50, "triton_red_fused_add_rms_norm_0"),
    kernel(450, 50, "Memcpy DtoD", "gpu_memcpy"),
    kernel(600, 400, "void cublasLt::splitKreduce_kernel<32, 16>"),
]


def test_a_decode_step_is_divided_into_kinds() -> None:
    events = [
        *ONE_LAYER, kernel(0, 900, "python", "cpu_op"),
        *(event | {"ts": event["ts"] + 1000} for event in ONE_LAYER),
    ]  # fmt: skip
    assert decode_step(reversed(events), layers=2) == pytest.approx(
        {
            "attention": 0.2, "matrix products": 1.4, "other kernels": 0.2, "nothing running": 0.2, "steps": 1.0,
        }
    )  # fmt: skip
    assert decode_step(events, layers=1)["matrix products"] == pytest.approx(0.7)


def test_what_runs_beside_another_kernel_costs_nothing() -> None:
    beside = [*ONE_LAYER, kernel(100, 100, "triton_poi_fused_1"), kernel(950, 100, "triton_poi_fused_2")]
    assert decode_step(beside, layers=1) == pytest.approx(
        decode_step(ONE_LAYER, layers=1) | {"other kernels": 0.15}, abs=1e-9
    )


def test_a_trace_without_gpu_work_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="CUPTI"):
        decode_step([kernel(0, 5, "aten::mm", "cpu_op")], layers=28)
