"""A server under the load of a reasoning model: long answers, and requests that come when they like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from helpers.bench import MetricsWatch, arrivals_command, read_arrivals, read_metrics, run_bench

if TYPE_CHECKING:
    from helpers.authoring.report.gpu import Run
    from helpers.server import VLLMServer

__all__ = ["measure_long"]

ARRIVALS_S = 25  # how long requests keep coming at each rate
PREEMPTIONS = "vllm:num_preemptions_total"


def measure_long(run: Run, report: dict[str, Any]) -> None:
    """Answers of 500 to 2,000 tokens at a few rates, from quiet to more than one H100 can serve.

    Each row tells what the client saw; the most requests that ran, and that waited, at one time; the largest share of
    the KV cache in use; and how often a request lost its place there.
    """
    output_len, rates = (40, [8.0]) if run.quick else (1250, [2.0, 6.0, 12.0])
    rows = []
    with run.server("long") as server:
        run.point(server, "long_warmup", concurrency=8)  # the first one after a start is spoilt
        for rate in rates:
            requests = 8 if run.quick else round(rate * ARRIVALS_S)
            rows.append(_at_rate(run, server, rate=rate, requests=requests, output_len=output_len))
    report["long"] = {"output_len": output_len, "rows": rows}


def _at_rate(run: Run, server: VLLMServer, *, rate: float, requests: int, output_len: int) -> dict[str, float]:
    result = run.folder / f"long_{rate:g}.json"
    command = arrivals_command(
        server.base_url, run.profile.served_model_name, run.model,
        rate=rate, requests=requests, result=result, output_len=output_len,
    )  # fmt: skip
    before = read_metrics(server.base_url)
    with MetricsWatch(server.base_url) as watch:
        run_bench(command, log_file=result.with_suffix(".log"), show=False)
    after = read_metrics(server.base_url)
    most = watch.table()[["running", "waiting", "kv_usage"]].max().add_suffix("_most").to_dict()
    preempted = after[PREEMPTIONS] - before.get(PREEMPTIONS, 0.0)
    [row] = read_arrivals([result]).to_dict("records")
    return {**row, **most, "preempted": preempted}
