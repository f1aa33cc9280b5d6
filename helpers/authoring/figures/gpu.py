"""The pictures of `gpu.json`. Each names the card, the version, the weights and the date."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from helpers.authoring.figures.canvas import BLUE, GREY, LINE, MUTED, ORANGE, TEAL, WIDTH
from helpers.bench import measured, spread
from helpers.bench.roofline import decode_limit, weights_read

__all__ = ["api_servers", "curve", "roofline", "throughput"]

CONTEXT = 64 + 128 / 2  # mean tokens of a request while it decodes
WEIGHTS = {"classroom model widened to the 7B shape": "撑大的教室模型"}
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


def throughput() -> Figure:
    """Output tokens per second of both engines at each size, median and range, on a logarithmic axis."""
    report = measured("gpu")
    figure, axes = _figure(report, height=200)
    rows = sorted(report["pairs"], key=lambda row: (row["engine"], -row["prompts"]), reverse=True)
    for place, row in enumerate(reversed(rows)):
        found = spread(row["output_tok_per_s"])
        error = [[found.median - found.low], [found.high - found.median]]
        colour = BLUE if row["engine"] == "vllm" else GREY
        axes.errorbar(found.median, place, xerr=error, fmt="o", color=colour, ecolor=MUTED)
        axes.text(found.high * 1.2, place, f"{float(f'{found.median:.3g}'):,g}", va="center")
    axes.set_yticks(range(len(rows)), [_label(row) for row in reversed(rows)])
    axes.set_xscale("log")
    axes.set_xlabel("每秒输出多少 token（对数轴；每个请求 64 个 token 进、128 个出）")
    axes.margins(x=0.12, y=0.1)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    return figure


def curve() -> Figure:
    """Latency against throughput, one point per concurrency."""
    report = measured("gpu")
    figure, axes = _figure(report, height=240)
    points = report["curve"]
    speeds = [point["output_tok_per_s"] for point in points]
    for name, colour, marker in (("ttft", TEAL, "s--"), ("tpot", ORANGE, "o-")):
        axes.plot(
            speeds, [point[f"{name}_p50_ms"] for point in points], marker, color=colour, label=f"{name.upper()}（p50）"
        )
    for before, point in zip([None, *points], points, strict=False):
        at = (point["output_tok_per_s"], point["tpot_p50_ms"])
        falls = before and before["output_tok_per_s"] > point["output_tok_per_s"]
        offset, side = ((-8, 0), "right") if falls else ((0, -15), "center")
        axes.annotate(str(int(point["concurrency"])), at, offset, textcoords="offset points", ha=side)
    axes.set(xscale="log", yscale="log", ylabel="毫秒")
    axes.set_xlabel("每秒输出多少 token（点旁的数字是并发；每个请求 64 个 token 进、128 个出）")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([5, 10, 20, 50, 100, 200, 500], ["5", "10", "20", "50", "100", "200", "500"])
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.margins(x=0.08, y=0.15)
    axes.legend(frameon=False)
    return figure


def roofline() -> Figure:
    """What memory bandwidth and arithmetic allow, and what was measured, against the requests that decode together."""
    report = measured("gpu")
    figure, axes = _figure(report, height=220)
    size = BYTES[report["dtype"]]
    offline = [
        (row["prompts"], spread(row["output_tok_per_s"]).median) for row in report["pairs"] if row["engine"] == "vllm"
    ]
    online = [(point["concurrency"], point["output_tok_per_s"]) for point in report["curve"]]
    batches = [2**n for n in range(11)]
    limits = [
        decode_limit(
            report["config"], bandwidth_gb_s=report["limits"]["copy_gb_s"], batch=batch, context=CONTEXT,
            bytes_per_weight=size, bytes_per_kv=size,
        )
        for batch in batches
    ]  # fmt: skip
    axes.plot(batches, limits, "--", color=MUTED, label="带宽的上限")
    arithmetic = report["limits"]["matmul_tflops"] * 1e12 / (2 * weights_read(report["config"]))
    axes.axhline(arithmetic, linestyle=":", color=MUTED, label="算力的上限")
    axes.plot(*zip(*offline, strict=True), "o", color=BLUE, label="vLLM 离线，提示词一次全给")
    axes.plot(*zip(*online, strict=True), "s-", color=ORANGE, markersize=3.5, linewidth=1, label="vllm serve，并发")
    for batch, found in offline:
        axes.annotate(f"{float(f'{found:.3g}'):,g}", (batch, found), (6, -10), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="一起生成的请求数", ylabel="每秒输出多少 token")
    axes.margins(x=0.1, y=0.15)
    axes.legend(frameon=False)
    return figure


def api_servers() -> Figure:
    """Throughput of `vllm serve` against concurrency, with one API server and with more, of two stream intervals."""
    report = measured("gpu")
    figure, axes = _figure(report, height=220)
    rows = report["api_servers"]
    concurrencies = sorted({row["concurrency"] for row in rows})
    speeds = {
        (servers, interval): [
            row["output_tok_per_s"]
            for row in sorted(rows, key=lambda row: row["concurrency"])
            if (row["api_servers"], row["stream_interval"]) == (servers, interval)
        ]
        for servers, interval in sorted({(row["api_servers"], row["stream_interval"]) for row in rows})
    }
    for (servers, interval), values in speeds.items():
        colour, style = (BLUE if servers == 1 else ORANGE), ("o-" if interval == 1 else "s--")
        axes.plot(
            concurrencies, values, style, color=colour, label=f"API 服务进程 {servers} 个，stream-interval {interval}"
        )
    for concurrency, several in zip(concurrencies, zip(*speeds.values(), strict=True), strict=True):
        for value, offset in ((min(several), -14), (max(several), 7)):
            text = f"{float(f'{value:.3g}'):,g}"
            axes.annotate(text, (concurrency, value), (0, offset), textcoords="offset points", ha="center")
    axes.set_xscale("log", base=2)
    axes.set_xticks(concurrencies, [str(n) for n in concurrencies])
    axes.set(xlabel="并发（每个请求 64 个 token 进、128 个出）", ylabel="每秒输出多少 token", ylim=0)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.margins(x=0.1)
    axes.set_ylim(top=1.15 * max(map(max, speeds.values())))
    axes.legend(frameon=False, loc="lower center", ncols=2)
    return figure


def _label(row: dict[str, Any]) -> str:
    together = "一起" if row["engine"] == "vllm" else "一批"
    many = f"{row['prompts']} 个{together}" if row["prompts"] > 1 else "一个一个"
    return f"{'vLLM' if row['engine'] == 'vllm' else row['engine']}，{many}"


def _figure(report: dict[str, Any], *, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
    axes = figure.add_subplot()
    axes.xaxis.set_minor_formatter(NullFormatter())
    machine = report["machine"]
    gpu = machine["gpu"][0] if machine["gpu"] else machine["cpu"]
    weights = WEIGHTS.get(report["weights"], report["weights"])
    where = f"{gpu} · vLLM {machine['versions']['vllm']} · 7B 形状（{weights}） · {machine['date']}"
    figure.suptitle(where, fontsize=9, color=MUTED, x=0.01, ha="left")
    return figure, axes
