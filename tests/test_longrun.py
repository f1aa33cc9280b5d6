"""The report's part `long`, without a server: what it sends, and what a row holds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from helpers.authoring.report import longrun
from helpers.bench.results import ARRIVALS_FIELDS


class Watch:
    def __init__(self, base_url: str) -> None: ...

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None: ...

    def table(self) -> pd.DataFrame:
        rows = [(0.2, 3.0, 0.0, 0.1), (0.4, 9.0, 2.0, 0.3), (0.6, 1.0, 0.0, 0.2)]
        return pd.DataFrame(rows, columns=["time_s", "running", "waiting", "kv_usage"])


class Server:
    base_url = "http://127.0.0.1:9"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The flags of each command; each writes a result as `vllm bench serve` does."""
    commands: list[dict[str, str]] = []
    preemptions = iter([{}, {longrun.PREEMPTIONS: 4.0}] + [{longrun.PREEMPTIONS: 4.0}] * 8)

    def run_bench(command: Sequence[str], **_: object) -> None:
        flags = dict(itertools.pairwise(command))
        commands.append(flags)
        fields = dict.fromkeys(ARRIVALS_FIELDS, 5.0) | {"request_rate": float(flags["--request-rate"])}
        Path(flags["--result-dir"], flags["--result-filename"]).write_text(json.dumps(fields))

    monkeypatch.setattr(longrun, "run_bench", run_bench)
    monkeypatch.setattr(longrun, "read_metrics", lambda _: next(preemptions))
    monkeypatch.setattr(longrun, "MetricsWatch", Watch)
    return commands


@pytest.mark.parametrize("quick", [False, True])
def test_requests_come_at_each_rate_and_answers_have_the_lengths_of_a_reasoning_model(
    quick: bool, sent: list[dict[str, str]], tmp_path: Path
) -> None:
    warmed: list[int] = []
    run: Any = SimpleNamespace(
        quick=quick, folder=tmp_path, model=tmp_path, profile=SimpleNamespace(served_model_name="r1"),
        server=lambda _: Server(), point=lambda *_, concurrency: warmed.append(concurrency),
    )  # fmt: skip
    report: dict[str, Any] = {}
    longrun.measure_long(run, report)
    rows = report["long"]["rows"]
    assert warmed and [row["rate"] for row in rows] == [float(flags["--request-rate"]) for flags in sent]
    assert {"ttft_p50_ms", "ttft_p95_ms", "tpot_p50_ms", "output_tok_per_s"} <= {*rows[0]}
    assert {name: rows[0][name] for name in ("running_most", "waiting_most", "kv_usage_most")} == {
        "running_most": 9.0, "waiting_most": 2.0, "kv_usage_most": 0.3,
    }  # fmt: skip
    assert [row["preempted"] for row in rows] == [4.0, 0.0, 0.0][: len(rows)]
    if not quick:
        mean, part = int(sent[0]["--random-output-len"]), json.loads(sent[0]["--random-range-ratio"])["output"]
        assert (round(mean * (1 - part)), round(mean * (1 + part))) == (500, 2000)
        seconds = {int(flags["--num-prompts"]) / float(flags["--request-rate"]) for flags in sent}
        assert seconds == {longrun.ARRIVALS_S}
