from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path

import pandas as pd
import psutil
import pytest

from helpers import get_profile
from helpers.bench import (
    Throughput,
    paired_ratio,
    read_arrivals,
    read_serving,
    read_throughput,
    run_bench,
    serving_command,
    spread,
)
from helpers.bench.results import ARRIVALS_FIELDS, SERVING_FIELDS, knee
from helpers.config import CLASSROOM_MODEL_DIR
from helpers.errors import BenchmarkError

# As vLLM 0.32.0 wrote it (shortened).
THROUGHPUT = {
    "model_id": "m",
    "elapsed_time": 2.0,
    "num_requests": 25,
    "total_num_tokens": 25 * 192,
    "requests_per_second": 12.5,
    "tokens_per_second": 2400.0,
}
SERVING = {
    "max_concurrency": 4,
    "completed": 16,
    "failed": 0,
    "request_throughput": 3.5,
    "output_throughput": 448.0,
    "date": "20261124",
    **{f"{kind}_{metric}_ms": 5.0 for metric in ("ttft", "tpot", "itl") for kind in ("mean", "median", "p99")},
}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_throughput(tmp_path: Path) -> None:
    found = read_throughput(write(tmp_path / "t.json", THROUGHPUT), output_len=128)
    assert found == Throughput(25, 2.0, 12.5, prompt_tokens=64.0, output_tok_per_s=1600.0)


def test_serving_is_sorted_by_concurrency(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.json", SERVING | {"max_concurrency": n}) for n in (16, 1, 4)]
    table = read_serving(files)
    assert list(table.concurrency) == [1, 4, 16]
    assert set(table.columns) == set(SERVING_FIELDS.values())


def test_arrivals_are_sorted_by_rate_with_the_percentile_that_their_command_asks_for(tmp_path: Path) -> None:
    fields = SERVING | {"max_concurrency": None} | {f"p95_{metric}_ms": 4.0 for metric in ("ttft", "tpot", "itl")}
    files = [write(tmp_path / f"{rate}.json", fields | {"request_rate": rate}) for rate in (6.0, 2.0)]
    table = read_arrivals(files)
    assert list(table.rate) == [2.0, 6.0] and set(table.columns) == set(ARRIVALS_FIELDS.values())
    assert (table.ttft_p95_ms == 4.0).all() and (table.ttft_p50_ms == 5.0).all()
    with pytest.raises(BenchmarkError, match="request_rate"):
        read_arrivals([write(tmp_path / "inf.json", fields | {"request_rate": "inf"})])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "没有结果文件"),
        ("", "不是完整的 JSON"),
        ('{"elapsed_time": 2.0', "不是完整的 JSON"),
        ({}, "elapsed_time"),
        ([], "elapsed_time"),
        (THROUGHPUT | {"elapsed_time": None}, "elapsed_time"),
        (THROUGHPUT | {"elapsed_time": "2 s"}, "elapsed_time"),
        (THROUGHPUT | {"num_requests": 0}, "num_requests"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        write(path, content)
    with pytest.raises(BenchmarkError, match=says) as caught:
        read_throughput(path, output_len=128)
    assert str(path) in str(caught.value)
    with pytest.raises(BenchmarkError):
        read_serving([path])


def test_a_run_with_failed_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="3 个请求失败"):
        read_serving([write(tmp_path / "4.json", SERVING | {"failed": 3})])
    assert len(read_serving([write(tmp_path / "4.json", SERVING | {"failed": 0})])) == 1


def test_spread_is_median_and_range() -> None:
    found = spread(x for x in (5.0, 1.0, 3.0, 100.0))
    assert (found.median, found.low, found.high) == (4.0, 1.0, 100.0)


@pytest.mark.parametrize(
    ("values", "noisy"),
    [([90.0, 100.0, 110.0], False), ([89.0, 100.0, 110.0], True), ([3.0, 4.2, 5.47], True), ([7.0], False)],
)
def test_a_range_wider_than_a_fifth_of_the_median_is_too_noisy(values: list[float], noisy: bool) -> None:
    assert spread(values).too_noisy is noisy


@pytest.mark.parametrize(
    ("speeds", "at"),
    [
        ({1: 100.0, 4: 300.0, 16: 800.0, 64: 1000.0}, 16),  # 50 of 100 each: just enough
        ({1: 100.0, 4: 300.0, 16: 799.0, 64: 1000.0}, 4),
        ({1: 100.0, 2: 199.0}, 2),
        ({1: 100.0, 2: 99.0}, 1),
        ({4: 100.0}, 4),
    ],
)
def test_the_knee_is_the_last_concurrency_with_half_the_speed_of_alone(speeds: dict[int, float], at: int) -> None:
    assert knee(pd.DataFrame({"concurrency": speeds.keys(), "output_tok_per_s": speeds.values()})) == at


def test_the_lengths_of_the_serving_command_are_those_asked_for(tmp_path: Path) -> None:
    fixed = {"concurrency": 4, "result": tmp_path / "4.json"}
    for lengths, wanted in (({}, ["64", "128"]), ({"input_len": 32, "output_len": 512}, ["32", "512"])):
        command = serving_command("http://127.0.0.1:9", "r1", tmp_path, **fixed, **lengths)  # type: ignore[arg-type]
        flags = ("--random-input-len", "--random-output-len")
        assert [command[command.index(flag) + 1] for flag in flags] == wanted


@pytest.mark.parametrize(
    ("values", "text"),
    [([4401.2, 4021.0, 16164.3], "4,400 (4,020-16,200)"), ([0.9731, 1.0312, 1.119], "1.03 (0.973-1.12)")],
)
def test_spread_prints_three_digits(values: list[float], text: str) -> None:
    assert str(spread(values)) == text


def test_ratios_are_taken_pair_by_pair() -> None:
    found = paired_ratio([10.0, 20.0, 60.0], [5.0, 10.0, 20.0])
    assert (found.median, found.low, found.high) == (2.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0], [1.0, 2.0])


# The real command from here on: the import of vLLM is paid once for all of them.


def commands_left() -> list[psutil.Process]:
    """Commands are children of the forkserver, and show its command line: whatever it still has is one."""
    below = [command for helper in psutil.Process().children() for command in helper.children(recursive=True)]
    return psutil.wait_procs(below, timeout=5)[1]  # one that has ended is reaped a moment later


def test_a_command_ends_well_with_its_environment_and_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "new folder" / "run.log"
    pages = []
    for width in ("50", "150"):
        run_bench(["vllm", "bench", "throughput", "--help"], log_file=log, env={"COLUMNS": width})
        pages.append(log.read_text())
    assert all("usage: vllm bench throughput" in page for page in pages)
    assert len(pages[0].splitlines()) > len(pages[1].splitlines())  # the narrow one is wrapped
    assert "vllm bench throughput" in capsys.readouterr().out
    run_bench(["vllm", "bench", "serve", "--help"], log_file=log, show=False)
    assert "usage: vllm bench serve" in log.read_text()  # a fresh log, not an addition
    assert "serve" not in capsys.readouterr().out


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"状态 2(.*\n)*.*unrecognized arguments: --no-such-flag") as caught:
        run_bench(["vllm", "bench", "throughput", "--no-such-flag"], log_file=tmp_path / "log")
    assert str(tmp_path / "log") in str(caught.value)
    assert str(caught.value).count("\n") < 14


def test_a_command_that_dies_names_its_error_and_leaves_no_process(tmp_path: Path) -> None:
    missing = ["vllm", "bench", "throughput", "--model", str(tmp_path), "--dataset-name", "random"]
    with pytest.raises(BenchmarkError, match=r"状态 1(.*\n)*\w*Error"):
        run_bench(missing, log_file=tmp_path / "log", env={"HF_HUB_OFFLINE": "1"})
    assert not commands_left()


def test_a_hanging_command_is_ended(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes requests, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [
            "vllm",
            "bench",
            "serve",
            "--base-url",
            url,
            "--model",
            "r1",
            "--tokenizer",
            str(CLASSROOM_MODEL_DIR),
        ]
        command += ["--dataset-name", "random", "--ready-check-timeout-sec", "600"]
        with pytest.raises(BenchmarkError, match="超过 8 秒"):
            run_bench(command, log_file=tmp_path / "log", timeout_s=8, env={"HF_HUB_OFFLINE": "1"})
    assert not commands_left()


@pytest.mark.parametrize("command", [[], "", "vllm bench", None, ["no-such-command"]])
def test_a_command_that_cannot_be_run_is_named(tmp_path: Path, command: object) -> None:
    with pytest.raises(BenchmarkError, match=r"command 要是一个参数列表"):
        run_bench(command, log_file=tmp_path / "log")  # type: ignore[arg-type]


def test_an_environment_without_vllm_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BenchmarkError, match="没有 vllm"):
        run_bench(["vllm", "bench", "throughput"], log_file=tmp_path / "log")


@pytest.mark.engine
def test_a_command_that_fails_with_its_engine_process_open_ends_at_once(tmp_path: Path) -> None:
    """The default is an engine process of its own; multiprocessing would wait for it forever."""
    command = ["vllm", "bench", "throughput", "--model", str(CLASSROOM_MODEL_DIR), "--input-len", "64"]
    command += ["--num-prompts", "2", "--max-model-len", "512", "--dtype", "float32", "--enforce-eager"]
    env = {**get_profile({"TUTORIAL_PROFILE": "classroom"}).engine_env, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with pytest.raises(BenchmarkError, match="AssertionError: Please ensure that max_model_len"):
        run_bench([*command, "--gpu-memory-utilization", "0.15"], log_file=tmp_path / "log", env=env, timeout_s=150)
    ended = re.search(r"EngineCore pid=(\d+)", (tmp_path / "log").read_text())
    assert ended and not psutil.pid_exists(int(ended[1]))
