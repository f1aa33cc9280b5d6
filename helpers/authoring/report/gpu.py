"""What `make gpu-report` measures on one NVIDIA GPU: a list of parts, each saved as soon as it is measured."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.authoring.report.cores import CoresWatch, typical
from helpers.authoring.report.longrun import measure_long
from helpers.authoring.report.memory import AS_ON_24_GB, memory_split
from helpers.authoring.report.pairs import pairs
from helpers.authoring.report.step import profiled_step
from helpers.bench import read_metrics, read_serving, run_bench, serving_command
from helpers.bench.fresh import run_fresh
from helpers.bench.roofline import limits
from helpers.bench.startup import stages
from helpers.config import Profile
from helpers.errors import BenchmarkError
from helpers.machine import cuda_memory_gib, describe, free_port
from helpers.models import find_model, model_size
from helpers.server import VLLMServer, serve_command

__all__ = ["PARTS", "measure", "missing"]

Report = dict[str, Any]

VLLM_SHARE = 0.6  # of the GPU's memory in the part `pairs`; transformers takes the rest for its own copy of the weights
SAME = ("model", "weights", "dtype", "config")  # and the machine but for the date: what parts of one report share
NEEDS_CUDA = ("step", "memory")
JOINING = {"memory", "long"}  # parts that may join the report of another host with the same card; they name theirs
OF_THE_CARD = ("gpu", "gpu_memory_gib", "driver", "versions")
TPOT = "vllm:request_time_per_output_token_seconds"


@dataclass(frozen=True)
class Run:
    """What every part needs: where to measure, what, and how much of it."""

    profile: Profile
    model: Path
    folder: Path
    repeats: int
    quick: bool

    @property
    def cuda(self) -> bool:
        return self.profile.name == "gpu"

    @property
    def cache(self) -> Path:
        """Where vLLM keeps what it compiles: a place of the report's own, which `startup` empties."""
        return self.folder / "vllm_cache"

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, **self.profile.engine_env, "VLLM_CACHE_ROOT": str(self.cache)}

    def engine(self, **more: Any) -> dict[str, Any]:
        """Arguments of `vllm.LLM`."""
        return {
            "dtype": self.profile.dtype, "max_model_len": self.profile.max_model_len,
            "gpu_memory_utilization": self.profile.gpu_memory_utilization,
            "enforce_eager": self.profile.enforce_eager, **more,
        }  # fmt: skip

    def fresh(self, function: Callable[..., Any], name: str, **arguments: Any) -> Any:
        return run_fresh(function, folder=self.folder, name=name, env=self.env, **arguments)

    def server(self, name: str, *flags: str) -> VLLMServer:
        # random prompts of a small vocabulary begin alike now and then: nothing may come from the prefix cache
        extra = ["--no-enable-prefix-caching", *flags]
        command = serve_command(self.profile, self.model, port=free_port(self.profile.port), extra=extra)
        return VLLMServer(command, env=self.env, log_file=self.folder / f"server_{name}.log")

    def point(self, server: VLLMServer, name: str, *, concurrency: int) -> Path:
        """Run `vllm bench serve` for one concurrency and return its result file."""
        result = self.folder / f"serve_{name}.json"
        command = serving_command(
            server.base_url, self.profile.served_model_name, self.model, concurrency=concurrency, result=result
        )
        run_bench(command, log_file=result.with_suffix(".log"), show=False)
        return result


def measure_limits(run: Run, report: Report) -> None:
    """How fast the machine copies and multiplies."""
    size = {"device": "cuda", "gib": 1, "size": 8192} if run.cuda else {"device": "cpu", "gib": 0.1, "size": 512}
    report["limits"] = run.fresh(limits, "limits", dtype=run.profile.dtype, **size)


def measure_startup(run: Run, report: Report) -> None:
    """An engine's first answers with an empty cache, with a full one, and without compilation."""
    shutil.rmtree(run.cache, ignore_errors=True)
    took = report.setdefault("startup", {})
    for name, more in {"cold": {}, "warm": {}, "eager": {"enforce_eager": True}}.items():
        took[name] = run.fresh(stages, f"startup_{name}", model=str(run.model), **run.engine(**more))


def measure_pairs(run: Run, report: Report) -> None:
    """Throughput of vLLM and of transformers in turn, both on the card at once."""
    report["pairs"] = run.fresh(
        pairs, "pairs", model=str(run.model), device="cuda" if run.cuda else "cpu", repeats=run.repeats,
        engine=run.engine(**({"gpu_memory_utilization": VLLM_SHARE} if run.cuda else {})),
        vllm_prompts=[1, 4] if run.quick else [1, 25, 100, 1000], hf_batches=[1, 4] if run.quick else [1, 25, 100],
    )  # fmt: skip


def measure_curve(run: Run, report: Report) -> None:
    """A server's start, then its speed at one to 256 requests in flight."""
    with run.server("curve") as server:
        report.setdefault("startup", {})["serve"] = {"ready": server.ready_after_s}
        sizes = [1, 4] if run.quick else [1, 2, 4, 8, 16, 32, 64, 128, 256]
        results = [run.point(server, str(n), concurrency=n) for n in sizes]
    report["curve"] = read_serving(results).to_dict("records")


def measure_step(run: Run, report: Report) -> None:
    """One decode step taken apart."""
    report["step"] = run.fresh(profiled_step, "step", model=str(run.model), batch=25, engine=run.engine())


def measure_api_servers(run: Run, report: Report) -> None:
    """One API server and several, a message for each token and for every eighth, at many requests in flight.

    Each row tells what the client saw, the server's own TPOT (its histogram's growth over warm-up and measured
    requests; `/metrics` adds up all API servers) and the CPU cores that each kind of process kept busy.
    """
    rows = []
    for count, interval in itertools.product((1, 2 if run.quick else 4), (1, 8)):
        name = f"api{count}_interval{interval}"
        flags = ["--api-server-count", str(count), "--stream-interval", str(interval)]
        with run.server(name, *flags) as server:
            sizes = [2, 4] if run.quick else [128, 256, 512]
            run.point(server, f"{name}_warmup", concurrency=sizes[0])  # the first one after a start is spoilt
            for n in sizes:
                point = _watched_point(run, server, f"{name}_{n}", concurrency=n)
                rows.append({"api_servers": count, "stream_interval": interval} | point)
    report["api_servers"] = rows


def _watched_point(run: Run, server: VLLMServer, name: str, *, concurrency: int) -> Report:
    before = read_metrics(server.base_url)
    assert server.pid is not None
    with CoresWatch(server.pid) as watch:
        result = run.point(server, name, concurrency=concurrency)
    after = read_metrics(server.base_url)
    seconds, requests = (after[f"{TPOT}_{part}"] - before[f"{TPOT}_{part}"] for part in ("sum", "count"))
    point = read_serving([result]).to_dict("records")[0]
    return {
        **{key: point[key] for key in ("concurrency", "output_tok_per_s", "ttft_p50_ms", "tpot_mean_ms")},
        "server_tpot_ms": 1000 * seconds / requests, "cores": typical(watch.samples),
    }  # fmt: skip


def measure_memory(run: Run, report: Report) -> None:
    """What a server's start takes of the card: as on a 24 GB card, and with what vLLM chooses for this one."""
    report["memory"] = {"cuda_gib": cuda_memory_gib()}  # by nvidia-smi; vLLM's own number stands beside it
    for name, flags in {"as_24gb": AS_ON_24_GB, "default": ()}.items():
        with run.server(f"memory_{name}", *flags) as server:
            log = server.log_file.read_text(encoding="utf-8", errors="replace")
        report["memory"][name] = memory_split(log)


PARTS: Mapping[str, Callable[[Run, Report], None]] = {
    "limits": measure_limits,
    "startup": measure_startup,
    "pairs": measure_pairs,
    "curve": measure_curve,
    "step": measure_step,
    "api_servers": measure_api_servers,
    "memory": measure_memory,
    "long": measure_long,
}


def measure(
    profile: Profile,
    *,
    folder: Path,
    weights: str,
    repeats: int,
    save: Callable[[Report], object],
    parts: Collection[str] = tuple(PARTS),
    earlier: Report | None = None,
    quick: bool = False,
) -> None:
    """Measure the chosen parts, in the order of `PARTS`.

    Args:
        folder: raw results and logs go here.
        weights: what the checkpoint is, for example `random weights`; stands in the report and in every plot.
        repeats: measurements of each throughput size.
        save: gets the report after each part, so that what is measured stays when a later part fails.
        parts: names out of `PARTS`; `step` and `memory` are left out without a GPU. `memory` and `long` may be added to
            a report of another host with the same card, driver and versions.
        earlier: a report whose other parts are kept.
        quick: small sizes, to try the report on a CPU.

    Raises:
        BenchmarkError: the card is too small for two copies of the weights, the earlier report is of another machine
            or other versions, or a part failed.
        ServerError: the server did not start.
    """
    model = find_model(profile)
    here = describe()
    report: Report = {"machine": here, "model": model.name, "weights": weights, "dtype": profile.dtype}
    report["config"] = json.loads((model / "config.json").read_text())
    report |= _kept(earlier or {}, report, parts)
    run = Run(profile, model, folder, repeats, quick)
    total, needed = report["machine"]["gpu_memory_gib"], (model_size(model).weights_gib + 1) / (1 - VLLM_SHARE)
    if "pairs" in parts and run.cuda and total is not None and total < needed:
        raise BenchmarkError(
            f"显卡有 {total:g} GiB 显存，这份报告要 {needed:.0f} GiB 以上：pairs 里 vLLM 和 transformers 各放一份权重。"
            "换一块大的卡，或者用 --parts 只测别的几项。"
        )
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(profile.engine_env)  # `vllm bench` runs in forks of this process's forkserver
    for name, part in PARTS.items():
        if name in parts and (run.cuda or name not in NEEDS_CUDA):
            part(run, report)
            if name in JOINING:
                report.setdefault("hosts", {})[name] = here
            save(report)


def missing(report: Mapping[str, Any]) -> list[str]:
    """The parts that a report lacks; `startup` counts when engine and server are there."""
    lacks = {name for name in PARTS if name not in report}
    lacks |= set() if {"eager", "serve"} <= {*report.get("startup", {})} else {"startup"}
    return [name for name in PARTS if name in lacks]


def _kept(earlier: Report, head: Report, parts: Collection[str]) -> Report:
    """The parts of an earlier report, if they belong under the same head; where parts only join it, that head too."""
    joining = {*parts} <= JOINING

    def same(report: Report) -> list[Any]:
        machine = report["machine"]
        names = OF_THE_CARD if joining else [name for name in machine if name != "date"]
        return [{name: machine[name] for name in names}, *(report[name] for name in SAME)]

    if earlier and same(earlier) != same(head):
        raise BenchmarkError(
            "已有的报告是别的机器、版本或者权重的，不能只补测几项。把它移走，或者不写 --parts，全部重新测。"
        )
    return {name: value for name, value in earlier.items() if joining or name in ("hosts", *PARTS)}
