"""Running `vllm bench`, reading the JSON that it writes, and summing up repeated runs. Introduced in notebook 07."""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from helpers import vllm_cli
from helpers.errors import BenchmarkError
from helpers.server_command import readable

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Spread", "Throughput", "paired_ratio", "read_serving", "read_throughput", "run_bench", "serving_command", "spread",
]  # fmt: skip

LOG_LINES = 8
SERVING_FIELDS = {
    "max_concurrency": "concurrency",
    "completed": "requests",
    "request_throughput": "requests_per_s",
    "output_throughput": "output_tok_per_s",
} | {
    f"{statistic}_{metric}_ms": f"{metric}_{column}_ms"
    for metric in ("ttft", "tpot", "itl")
    for statistic, column in (("mean", "mean"), ("median", "p50"), ("p99", "p99"))
}


@dataclass(frozen=True)
class Throughput:
    """One run of `vllm bench throughput`.

    Attributes:
        requests: finished requests.
        elapsed_s: seconds from the first request to the last token.
        requests_per_s: requests per second.
        prompt_tokens: mean prompt length in tokens: counted by the vllm backend, planned by the hf backend.
        output_tok_per_s: generated tokens per second.
    """

    requests: int
    elapsed_s: float
    requests_per_s: float
    prompt_tokens: float
    output_tok_per_s: float


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing: median, lowest and highest, in the unit of the measurements."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        three = (f"{x:.3g}" for x in (self.median, self.low, self.high))
        median, low, high = (f"{float(text):,g}" for text in three)
        return f"{median} ({low}-{high})"


def spread(values: Iterable[float]) -> Spread:
    """Sum up repeated measurements."""
    values = sorted(values)
    return Spread(statistics.median(values), values[0], values[-1])


def paired_ratio(ours: Iterable[float], theirs: Iterable[float]) -> Spread:
    """Divide pair by pair, so that a slow moment of the machine, which hits both, drops out."""
    return spread(a / b for a, b in zip(ours, theirs, strict=True))


def run_bench(
    command: Sequence[str],
    *,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
    show: bool = True,
) -> None:
    """Run a `vllm bench …` command to its end, printing it first and showing the seconds.

    Args:
        command: argument list that begins with `vllm`; it must name its own result file.
        log_file: receives the command's output; its folder is created.
        env: added to this process's environment (see `vllm_cli.start`).
        timeout_s: the command is ended after this many seconds.
        show: False: do not print the command (the cell has shown the same one before).

    Raises:
        BenchmarkError: vLLM is not installed, the command failed or took too long; the message says what to do, and
            ends with the log's last lines.
    """
    if isinstance(command, str | bytes) or not command or command[0] != "vllm":
        raise BenchmarkError('command 要是一个参数列表，以 ["vllm", "bench", …] 开头。')
    if not Path(sys.executable).with_name("vllm").is_file():
        raise BenchmarkError(f"{sys.executable} 的环境里没有 vllm：确认环境装好了，笔记本选对了内核。")
    if show:
        print(readable(command))
    log_file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    process = vllm_cli.start(command, log_file=log_file, env=env or {})
    try:
        with tqdm(desc=" ".join(command[:3]), bar_format="{desc} {elapsed}") as bar:
            while process.is_alive():
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"超过 {timeout_s:g} 秒还没跑完，已停止。完整日志：{log_file}")
                process.join(0.2)
                bar.update(0)
    finally:
        vllm_cli.end(process)
    if process.exitcode:
        lines = log_file.read_text(errors="replace").splitlines()
        cause = [line for line in lines[:-LOG_LINES] if re.match(r"\w*(Error|Exception)\b", line)][-1:]
        tail = "\n".join([*cause, *lines[-LOG_LINES:]])
        raise BenchmarkError(f"命令以状态 {process.exitcode} 结束，日志最后几行：\n{tail}\n完整日志：{log_file}")


def serving_command(base_url: str, name: str, tokenizer: Path, *, concurrency: int, result: Path) -> list[str]:
    """Put together `vllm bench serve` for one concurrency: 64 tokens in, 128 out. Shown whole in notebook 07.

    Args:
        name: the served model name.
        tokenizer: folder of the model, for making prompts of the right length.
        concurrency: requests in flight; twice as many, at least 16, are measured.
        result: the JSON file to write.
    """
    return [
        "vllm", "bench", "serve", "--base-url", base_url, "--model", name,
        "--tokenizer", str(tokenizer), "--dataset-name", "random",
        "--random-input-len", "64", "--random-output-len", "128", "--ignore-eos",
        "--max-concurrency", str(concurrency), "--seed", str(concurrency),
        "--num-prompts", str(max(16, 2 * concurrency)),
        "--num-warmups", str(concurrency),
        "--save-result", "--result-dir", str(result.parent),
        "--result-filename", result.name,
    ]  # fmt: skip


def read_throughput(path: Path, *, output_len: int) -> Throughput:
    """Read what `vllm bench throughput --output-json` wrote.

    Args:
        output_len: tokens generated per request; the file does not hold it.

    Raises:
        BenchmarkError: the file is missing, is not JSON, or lacks a field; the message names both.
    """
    fields = _fields(path, ("num_requests", "elapsed_time", "requests_per_second", "total_num_tokens"))
    requests, elapsed_s = int(fields["num_requests"]), float(fields["elapsed_time"])
    return Throughput(
        requests=requests,
        elapsed_s=elapsed_s,
        requests_per_s=float(fields["requests_per_second"]),
        prompt_tokens=fields["total_num_tokens"] / requests - output_len,
        output_tok_per_s=requests * output_len / elapsed_s,
    )


def read_serving(paths: Iterable[Path]) -> pd.DataFrame:
    """Read files of `vllm bench serve --save-result`, one row each, sorted by concurrency.

    Returns:
        Columns `concurrency`, `requests`, `requests_per_s`, `output_tok_per_s`, and mean, p50 and p99 of TTFT, TPOT
        and ITL in ms, for example `ttft_p99_ms`.

    Raises:
        BenchmarkError: a file is missing, is not JSON, lacks a field, or counts failed requests; the message names it.
    """
    import pandas as pd

    rows = [_fields(path, SERVING_FIELDS) for path in paths]
    return pd.DataFrame(rows).rename(columns=SERVING_FIELDS).sort_values("concurrency", ignore_index=True)


def _fields(path: Path, names: Iterable[str]) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchmarkError(f"没有结果文件 {path}：命令没有跑完，或者没写 --output-json / --save-result") from None
    except ValueError as error:
        raise BenchmarkError(f"{path} 不是完整的 JSON（{error}），请重新运行测试命令") from None
    missing = [name for name in names if not isinstance(loaded, dict) or not _is_number(loaded.get(name))]
    if missing:
        raise BenchmarkError(f"{path} 里没有 {'、'.join(missing)} 的正数值：可能是别的命令或别的 vLLM 版本写的")
    if loaded.get("failed"):
        raise BenchmarkError(f"{path}：{loaded['failed']} 个请求失败了，这一次的数字不能用。请看服务器的日志，再测一次")
    return {name: loaded[name] for name in names}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
