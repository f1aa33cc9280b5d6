from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from helpers import bench
from helpers.bench import Throughput, read_serving, read_throughput, run_bench
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
    "request_throughput": 3.5,
    "output_throughput": 448.0,
    "mean_ttft_ms": 20.0,
    "p99_ttft_ms": 40.0,
    "mean_tpot_ms": 5.0,
    "p99_tpot_ms": 6.0,
    "mean_itl_ms": 5.1,
    "date": "20261124",
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
    assert set(table.columns) == set(bench.SERVING_FIELDS.values())


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


def python(code: str) -> list[str]:
    return [Path(sys.executable).name, "-c", code]


def test_a_command_runs_with_its_environment_and_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "new folder" / "run.log"
    run_bench(python("import os; print('seen', os.environ['MARK'])"), log_file=log, env={"MARK": "42"})
    assert log.read_text() == "seen 42\n"
    assert "MARK" in capsys.readouterr().out


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"状态 3.*\n(.*\n)*last words") as caught:
        run_bench(python("print('first\\n' * 50 + 'last words'); raise SystemExit(3)"), log_file=tmp_path / "log")
    assert str(caught.value).count("first") < 10
    assert str(tmp_path / "log") in str(caught.value)


def test_a_hanging_command_is_ended(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="超过"):
        run_bench(python("import time; time.sleep(60)"), log_file=tmp_path / "log", timeout_s=0.5)


@pytest.mark.parametrize("command", [[], "", "vllm bench", None, ["no-such-command"]])
def test_a_command_that_cannot_be_run_is_named(tmp_path: Path, command: object) -> None:
    with pytest.raises(BenchmarkError, match=r"命令|command"):
        run_bench(command, log_file=tmp_path / "log")  # type: ignore[arg-type]
