"""Reading the JSON that `vllm bench` writes. Introduced in notebooks 07 and 08."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.errors import BenchmarkError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Throughput", "knee", "read_arrivals", "read_serving", "read_throughput"]


def _columns(load: dict[str, str], percentile: str) -> dict[str, str]:
    """Field of the JSON → column of the table; `load` is what was set."""
    counted = {"completed": "requests", "request_throughput": "requests_per_s", "output_throughput": "output_tok_per_s"}
    return load | counted | {
        f"{statistic}_{metric}_ms": f"{metric}_{column}_ms"
        for metric in ("ttft", "tpot", "itl")
        for statistic, column in (("mean", "mean"), ("median", "p50"), (percentile, percentile))
    }  # fmt: skip


SERVING_FIELDS = _columns({"max_concurrency": "concurrency"}, "p99")
ARRIVALS_FIELDS = _columns({"request_rate": "rate"}, "p95")


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
    return _table(paths, SERVING_FIELDS)


def read_arrivals(paths: Iterable[Path]) -> pd.DataFrame:
    """Read what the commands of `bench.run.arrivals_command` wrote, one row each, sorted by rate.

    Returns:
        As `read_serving`, with the column `rate` (requests a second) for `concurrency`, and p95 for p99.

    Raises:
        BenchmarkError: as `read_serving`.
    """
    return _table(paths, ARRIVALS_FIELDS)


def knee(curve: pd.DataFrame) -> int:
    """The largest concurrency measured at which a request still has at least half the speed that it has alone.

    Args:
        curve: columns `concurrency`, rising, and `output_tok_per_s`; the first row stands for "alone".
    """
    each = curve.output_tok_per_s / curve.concurrency
    return curve.concurrency[each >= each.iloc[0] / 2].max()  # type: ignore[no-any-return]


def _table(paths: Iterable[Path], fields: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    load = next(iter(fields.values()))
    return pd.DataFrame([_fields(path, fields) for path in paths]).rename(columns=fields).sort_values(
        load, ignore_index=True
    )  # fmt: skip


def _fields(path: Path, names: Iterable[str]) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchmarkError(f"没有结果文件 {path}：命令没有跑完，或者没写 --output-json / --save-result") from None
    except ValueError as error:
        raise BenchmarkError(f"{path} 不是完整的 JSON（{error}），请重新运行测试命令") from None
    missing = [name for name in names if not isinstance(loaded, dict) or not _is_positive_number(loaded.get(name))]
    if missing:
        raise BenchmarkError(f"{path} 里没有 {'、'.join(missing)} 的正数值：可能是别的命令或别的 vLLM 版本写的")
    if loaded.get("failed"):
        raise BenchmarkError(f"{path}：{loaded['failed']} 个请求失败了，这一次的数字不能用。请看服务器的日志，再测一次")
    return {name: loaded[name] for name in names}


def _is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
