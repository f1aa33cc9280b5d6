"""Reading a server's `/metrics`. Introduced in notebook 08."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from helpers.errors import ServerError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MetricsWatch", "read_metrics"]

GAUGES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
}


def read_metrics(base_url: str) -> Mapping[str, float]:
    """Read all samples of `/metrics` once, added up over their labels.

    Returns:
        Sample name → value; a histogram appears as `…_sum` (seconds) and `…_count` (requests).

    Raises:
        ServerError: nothing answers there, or not with metrics.
    """
    url = f"{base_url}/metrics"
    try:
        text = httpx.get(url, timeout=10, trust_env=False).raise_for_status().text
        families = list(text_string_to_metric_families(text))
    except (httpx.HTTPError, ValueError) as error:
        raise ServerError(f"读不到 {url}（{error}）：服务器没有在运行，或没有开放这个接口。") from None
    samples = [sample for family in families for sample in family.samples]
    totals = dict.fromkeys((sample.name for sample in samples), 0.0)
    for sample in samples:
        totals[sample.name] += sample.value
    return totals


class MetricsWatch:
    """Sample a server's gauges in the background, for as long as the `with` block runs.

    Args:
        base_url: address of the server, without `/v1`.
        every_s: seconds between two samples.
    """

    def __init__(self, base_url: str, *, every_s: float = 0.2) -> None:
        self.base_url, self.every_s = base_url, every_s
        self._rows: list[dict[str, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        read_metrics(self.base_url)  # fail here, not unseen in the thread
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def table(self) -> pd.DataFrame:
        """One row per sample: `time_s` since the start, `running` and `waiting` requests, `kv_usage` from 0 to 1."""
        import pandas as pd

        return pd.DataFrame(self._rows, columns=["time_s", *GAUGES])

    def _sample(self) -> None:
        begin = time.monotonic()
        while not self._done.wait(self.every_s):
            try:
                totals = read_metrics(self.base_url)
            except ServerError:
                continue  # busy for a moment: a sample is missing, the others stand
            row = {name: totals.get(gauge, 0.0) for name, gauge in GAUGES.items()}
            self._rows.append({"time_s": time.monotonic() - begin} | row)
