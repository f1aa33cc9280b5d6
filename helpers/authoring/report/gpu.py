"""What `make gpu-report` measures on one NVIDIA GPU."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.authoring.report.pairs import pairs
from helpers.authoring.report.step import profiled_step
from helpers.bench import read_serving, run_bench, serving_command
from helpers.bench.fresh import run_fresh
from helpers.bench.roofline import limits
from helpers.bench.startup import stages
from helpers.config import Profile
from helpers.errors import BenchmarkError
from helpers.machine import describe, free_port
from helpers.models import find_model, model_size
from helpers.server import VLLMServer, serve_command

__all__ = ["measure"]

VLLM_SHARE = 0.6  # of the GPU's memory; transformers takes the rest for its own copy of the weights


def measure(
    profile: Profile,
    *,
    folder: Path,
    weights: str,
    repeats: int,
    save: Callable[[dict[str, Any]], object],
    quick: bool = False,
) -> None:
    """Measure throughput pairs, the concurrency curve, start-up, one decode step and the machine's limits.

    Args:
        folder: raw results and logs go here.
        weights: what the checkpoint is, for example `random weights`; stands in the report and in every plot.
        repeats: measurements of each throughput size.
        save: gets the report after each part, so that what is measured stays when a later part fails.
        quick: small sizes, to try the report on a CPU.

    Raises:
        BenchmarkError: the card is too small for two copies of the weights, or a part failed.
        ServerError: the server did not start.
    """
    model = find_model(profile)
    cuda = profile.name == "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": describe(), "model": model.name, "weights": weights, "dtype": profile.dtype}
    report["config"] = json.loads((model / "config.json").read_text())
    total, needed = report["machine"]["gpu_memory_gib"], (model_size(model).weights_gib + 1) / (1 - VLLM_SHARE)
    if cuda and total is not None and total < needed:
        raise BenchmarkError(
            f"显卡有 {total:g} GiB 显存，这份报告要 {needed:.0f} GiB 以上：vLLM 和 transformers 各放一份权重。"
            "换一块大的卡，或者只运行笔记本 07：它一次只放一份。"
        )

    with tempfile.TemporaryDirectory() as cache:  # empty, so that the first start is a cold one
        env = {**os.environ, **profile.engine_env, "VLLM_CACHE_ROOT": cache}

        def fresh(function: Callable[..., Any], name: str, **arguments: Any) -> Any:
            return run_fresh(function, folder=folder, name=name, env=env, **arguments)

        size = {"device": "cuda", "gib": 1, "size": 8192} if cuda else {"device": "cpu", "gib": 0.1, "size": 512}
        report["limits"] = fresh(limits, "limits", dtype=profile.dtype, **size)

        engine: dict[str, Any] = {"dtype": profile.dtype, "max_model_len": profile.max_model_len}
        engine["gpu_memory_utilization"] = VLLM_SHARE if cuda else profile.gpu_memory_utilization
        engine["enforce_eager"] = not cuda
        report["startup"] = {}
        for name, more in {"cold": {}, "warm": {}, "eager": {"enforce_eager": True}}.items():
            report["startup"][name] = fresh(stages, f"startup_{name}", model=str(model), **engine | more)
        save(report)

        report["pairs"] = fresh(
            pairs, "pairs", model=str(model), device=size["device"], repeats=repeats, engine=engine,
            vllm_prompts=[1, 4] if quick else [1, 25, 100, 1000], hf_batches=[1, 4] if quick else [1, 25, 100],
        )  # fmt: skip
        save(report)

        os.environ.update(env)
        # random prompts of a small vocabulary begin alike now and then: nothing may come from the prefix cache
        command = serve_command(profile, model, port=free_port(profile.port), extra=["--no-enable-prefix-caching"])
        with VLLMServer(command, env=env) as server:
            report["startup"]["server_ready_s"] = server.ready_after_s
            results = []
            for concurrency in [1, 4] if quick else [1, 2, 4, 8, 16, 32, 64, 128, 256]:
                result = folder / f"serve_{concurrency}.json"
                command = serving_command(
                    server.base_url, profile.served_model_name, model, concurrency=concurrency, result=result
                )
                run_bench(command, log_file=folder / f"serve_{concurrency}.log", show=False)
                results.append(result)
        report["curve"] = read_serving(results).to_dict("records")
        save(report)

        if cuda:
            report["step"] = fresh(profiled_step, "step", model=str(model), batch=25, engine=engine)
            save(report)
