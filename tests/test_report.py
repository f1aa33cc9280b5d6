"""The reports that ship with the course, and the small parts of the commands that make them."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import report
from helpers.errors import BenchmarkError
from helpers.report import cpu, machine


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_shipped_report_names_its_machine_versions_and_date(name: str) -> None:
    head = report.load(name)["machine"]
    assert head["date"] >= "2026-11-24"
    assert head["versions"]["vllm"].split("+")[0] == "0.32.0"
    assert bool(head["gpu"]) == (name == "gpu")
    assert head["cores"] and head["python"]


def test_the_gpu_report_says_what_its_weights_are_and_repeats_every_size() -> None:
    found = report.load("gpu")
    assert found["weights"] == "random weights"
    assert {len(row["output_tok_per_s"]) for row in found["pairs"]} == {5}
    assert {(row["engine"], row["prompts"]) for row in found["pairs"]} >= {
        ("vllm", 1), ("vllm", 25), ("vllm", 100), ("vllm", 1000), ("transformers", 1), ("transformers", 25),
    }  # fmt: skip


def test_the_cpu_report_is_made_of_pairs() -> None:
    for row in report.load("cpu")["figures"]:
        assert len(row["ours"]) == len(row["theirs"]) >= 1, row["name"]


def test_an_unknown_report_is_named() -> None:
    with pytest.raises(BenchmarkError, match="cpu 和 gpu"):
        report.load("tpu")


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
    monkeypatch.setattr(machine, "_driver", lambda: "580.159.04")
    assert machine.describe()["gpu"] == ["NVIDIA H100 80GB HBM3"]
