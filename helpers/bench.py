"""Running `vllm bench` and reading the JSON that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from helpers.errors import BenchmarkError
from helpers.server_command import readable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Throughput", "read_serving", "read_throughput", "run_bench"]

SERVING_FIELDS = {
    "max_concurrency": "concurrency",
    "request_throughput": "requests_per_s",
    "output_throughput": "output_tok_per_s",
    "mean_ttft_ms": "ttft_mean_ms",
    "p99_ttft_ms": "ttft_p99_ms",
    "mean_tpot_ms": "tpot_mean_ms",
    "p99_tpot_ms": "tpot_p99_ms",
    "mean_itl_ms": "itl_mean_ms",
}


@dataclass(frozen=True)
class Throughput:
    """One run of `vllm bench throughput`. Introduced in notebook 07.

    Attributes:
        requests: finished requests.
        elapsed_s: seconds from the first request to the last token.
        requests_per_s: requests per second.
        prompt_tokens: mean prompt length in tokens, as really measured.
        output_tok_per_s: generated tokens per second.
    """

    requests: int
    elapsed_s: float
    requests_per_s: float
    prompt_tokens: float
    output_tok_per_s: float


def run_bench(
    command: Sequence[str], *, log_file: Path, env: Mapping[str, str] | None = None, timeout_s: float = 600.0
) -> None:
    """Run a `vllm bench …` command to its end, printing it first and showing the seconds.

    Args:
        command: argument list that begins with `vllm`; it must name its own result file.
        log_file: receives the command's output; its folder is created.
        env: added to this process's environment.
        timeout_s: the command is ended after this many seconds.

    Raises:
        BenchmarkError: there is no such command, it failed or took too long; the message says what to do, and
            ends with the log's last lines.
    """
    if isinstance(command, str | bytes) or not command:
        raise BenchmarkError('command 要是一个参数列表，以 ["vllm", "bench", …] 开头。')
    executable = Path(sys.executable).with_name(command[0])
    if not executable.is_file():
        raise BenchmarkError(f"{executable.parent} 里没有命令 {command[0]}：确认环境装好了，笔记本选对了内核。")
    print(readable(command))
    log_file.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [str(executable), *command[1:]], stdout=log, stderr=log, env={**os.environ, **(env or {})}
        )
        try:
            with tqdm(desc=" ".join(command[:3]), unit="s", bar_format="{desc} {elapsed}") as bar:
                while process.poll() is None:
                    if time.monotonic() - begin > timeout_s:
                        raise BenchmarkError(f"超过 {timeout_s:.0f} 秒还没跑完，已停止。完整日志：{log_file}")
                    time.sleep(0.2)
                    bar.update(0)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
    if process.returncode:
        tail = "\n".join(log_file.read_text(errors="replace").splitlines()[-8:])
        raise BenchmarkError(f"命令以状态 {process.returncode} 结束，日志最后几行：\n{tail}\n完整日志：{log_file}")


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
        Columns `concurrency`, `requests_per_s`, `output_tok_per_s`, and TTFT, TPOT and ITL in ms.

    Raises:
        BenchmarkError: a file is missing, is not JSON, or lacks a field; the message names both.
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
    return {name: loaded[name] for name in names}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
