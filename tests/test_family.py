"""Measuring the family's shapes, with servers that are stand-ins: what is kept, what is done again, on which cards."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.authoring.report import family
from helpers.authoring.report.family import Case, Report, Run, from_log, measure_all
from helpers.config import get_profile
from helpers.errors import ServerError
from helpers.models import check_model, model_size
from helpers.models.fit import FAMILY

LOG = """
INFO gpu_model_runner.py:425] Model loading took 30.75 GiB memory and 12.3 seconds
INFO gpu_model_runner.py:425] Model loading took 30.7 GiB memory and 12.4 seconds
INFO gpu_worker.py:760] Available KV cache memory: 37.61 GiB
INFO kv_cache_utils.py:2327] GPU KV cache size: 308,096 tokens, Maximum concurrency for 32,768 tokens per request: 9.40x
"""


def test_the_log_says_what_was_taken() -> None:
    assert from_log(LOG) == {"weights_gib": 30.75, "kv_gib": 37.61, "kv_tokens": 308_096}
    assert from_log("CPU KV cache size: 524,288 tokens") == {
        "weights_gib": None, "kv_gib": None, "kv_tokens": 524_288,
    }  # fmt: skip


class Machine:
    """Servers that start at once; notes which case runs on which cards and what runs beside it."""

    def __init__(self) -> None:
        self.started: list[tuple[str, list[int]]] = []
        self.running: set[int] = set()
        self.side_by_side = 0
        self.fails: Callable[[str, int], None] = lambda name, size: None
        self._lock = threading.Lock()

    @contextmanager
    def server(self, run: Run, case: Case, cards: Any, log_file: Path) -> Iterator[Any]:
        with self._lock:
            assert not self.running & {*cards}, "two servers on one card"
            self.running |= {*cards}
            self.started.append((case.name, [*cards]))
            self.side_by_side = max(self.side_by_side, len(self.running))
        try:
            self.fails(case.name, 0)
            log_file.write_text(LOG)
            time.sleep(0.02)
            yield SimpleNamespace(ready_after_s=1.0)
        finally:
            with self._lock:
                self.running -= {*cards}

    def speed(self, run: Run, case: Case, server: Any, size: int, repeat: int) -> float:
        self.fails(case.name, size)
        return 100.0 * size + repeat


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(family, "_server", machine.server)
    monkeypatch.setattr(family, "_speed", machine.speed)
    monkeypatch.setattr(family, "_answers", lambda server, model: [24, 24])
    return machine


CASES = [Case("14B"), Case("7B"), Case("1.5B"), Case("32B", cards=2), Case("14B", cards=2)]


def run_on(tmp_path: Path, *, cards: int = 2, repeats: int = 2, minutes: float = 1) -> Report:
    written: Future[Any] = Future()
    written.set_result(None)
    run = Run(get_profile({"TUTORIAL_PROFILE": "gpu"}), tmp_path, written, tmp_path, repeats)
    report = Report(tmp_path / "gpu_family.json", repeats=repeats)
    measure_all(run, report, cases=CASES, cards=cards, deadline=time.monotonic() + 60 * minutes)
    return report


def rows(tmp_path: Path) -> dict[str, Any]:
    found = json.loads((tmp_path / "gpu_family.json").read_text(encoding="utf-8"))["family"]
    return {Case(row["model"], row["setting"], row["cards"]).name: row for row in found}


def test_one_card_cases_run_side_by_side_and_those_for_two_alone(machine: Machine, tmp_path: Path) -> None:
    report = run_on(tmp_path)
    assert not any(report.lacks(case) for case in CASES)
    assert machine.side_by_side == 2
    assert sorted(card for name, [*cards] in machine.started[:2] for card in cards) == [0, 1]
    assert machine.started[-2:] == [("32B_bf16_2", [0, 1]), ("14B_bf16_2", [0, 1])]
    found = rows(tmp_path)
    assert found["7B_bf16_1"]["answers"] == [24, 24] and "answers" not in found["14B_bf16_1"]
    assert found["14B_bf16_1"]["output_tok_per_s"] == {"1": [100, 101], "32": [3200, 3201], "128": [12800, 12801]}
    assert found["14B_bf16_1"]["kv_tokens"] == 308_096


def test_one_card_alone_leaves_out_what_needs_two(machine: Machine, tmp_path: Path) -> None:
    report = run_on(tmp_path, cards=1)
    assert [case.name for case in CASES if report.lacks(case)] == ["32B_bf16_2", "14B_bf16_2"]
    assert machine.side_by_side == 1


def test_a_cut_run_goes_on_where_it_ended(machine: Machine, tmp_path: Path) -> None:
    def cut(name: str, size: int) -> None:
        if name == "7B_bf16_1" and size == 128:
            raise OSError("the lease is over")

    machine.fails = cut
    report = run_on(tmp_path)
    assert [case.name for case in CASES if report.lacks(case)] == ["7B_bf16_1"]
    assert rows(tmp_path)["7B_bf16_1"]["output_tok_per_s"] == {"1": [100], "32": [3200]}  # kept as far as it came
    machine.started.clear()
    machine.fails = lambda name, size: None
    assert not any(run_on(tmp_path).lacks(case) for case in CASES)
    assert [name for name, _ in machine.started] == ["7B_bf16_1"]
    assert "error" not in rows(tmp_path)["7B_bf16_1"]


def test_what_does_not_fit_is_noted_and_not_tried_again(machine: Machine, tmp_path: Path) -> None:
    def too_large(name: str, size: int) -> None:
        if name == "14B_bf16_1":
            raise ServerError("显存不够")

    machine.fails = too_large
    report = run_on(tmp_path)
    assert rows(tmp_path)["14B_bf16_1"]["error"] == "显存不够" and not report.lacks(Case("14B"))


def test_no_case_begins_after_the_deadline(machine: Machine, tmp_path: Path) -> None:
    run_on(tmp_path, minutes=0)
    assert machine.started == []


def test_a_bare_shape_is_what_vllm_fills_with_random_numbers(tmp_path: Path) -> None:
    family.bare(tmp_path, FAMILY["14B"])
    assert model_size(tmp_path).parameters == model_size(FAMILY["14B"]).parameters
    assert (tmp_path / "tokenizer.json").is_file() and (tmp_path / "tokenizer_config.json").is_file()
    with pytest.raises(Exception, match="safetensors"):
        check_model(tmp_path)
