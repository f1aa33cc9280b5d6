"""What `make gpu-report` measures on one NVIDIA GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from helpers.bench import read_serving, run_bench, serving_command
from helpers.config import Profile
from helpers.models import find_model
from helpers.report.machine import describe
from helpers.server import VLLMServer, free_port, serve_command

__all__ = ["measure"]

ROOFLINE = """
import json, sys
from helpers.roofline import copy_bandwidth, matmul_rate
device, dtype, gib, size = sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
speeds = {"copy_gb_s": copy_bandwidth(device, gib=gib), "matmul_tflops": matmul_rate(device, dtype, size=size)}
open(sys.argv[1], "w").write(json.dumps(speeds))
"""


def measure(profile: Profile, *, folder: Path, weights: str, repeats: int, quick: bool = False) -> dict[str, Any]:
    """Measure throughput pairs, the concurrency curve, start-up and the machine's limits.

    Args:
        folder: raw results and logs go here.
        weights: what the checkpoint is, for example `random weights`; stands in the report and in every plot.
        repeats: measurements of each throughput size.
        quick: small sizes, to try the report on a CPU.
    """
    model = find_model(profile)
    device = "cuda" if profile.name == "gpu" else "cpu"
    env = {**os.environ, **profile.engine_env}
    eager = {} if profile.name == "gpu" else {"enforce_eager": True}
    share = 0.6 if profile.name == "gpu" else profile.gpu_memory_utilization  # transformers needs the rest
    folder.mkdir(parents=True, exist_ok=True)

    def child(name: str, *words: str, **more_env: str) -> Any:
        result = folder / f"{name}.json"
        with (folder / f"{name}.log").open("w") as log:
            argv = [sys.executable, *(str(result) if word == "RESULT" else word for word in words)]
            subprocess.run(argv, env=env | more_env, stdout=log, stderr=log, check=True)
        return json.loads(result.read_text())

    def startup(name: str, *, cache: str, **engine: Any) -> Any:
        engine |= {"dtype": profile.dtype, "max_model_len": profile.max_model_len, "gpu_memory_utilization": share}
        module = ["-m", "helpers.report.startup", "RESULT", str(model), json.dumps(engine)]
        return child(f"startup_{name}", *module, VLLM_CACHE_ROOT=cache)

    size = ["1", "8192"] if device == "cuda" else ["0.1", "512"]
    report: dict[str, Any] = {"machine": describe(), "model": model.name, "weights": weights, "dtype": profile.dtype}
    report["config"] = json.loads((model / "config.json").read_text())
    report["limits"] = child("limits", "-c", ROOFLINE, "RESULT", device, profile.dtype, *size)
    with tempfile.TemporaryDirectory() as cache:
        report["startup"] = {"cold": startup("cold", cache=cache, **eager)}
        report["startup"]["warm"] = startup("warm", cache=cache, **eager)
        report["startup"]["eager"] = startup("eager", cache=cache, enforce_eager=True)

    settings = {
        "model": str(model), "dtype": profile.dtype, "device": device, "repeats": repeats,
        "vllm_prompts": [1, 4] if quick else [1, 25, 100, 1000], "hf_batches": [1, 4] if quick else [1, 25, 100],
        "engine": {"gpu_memory_utilization": share} | eager,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    report["pairs"] = child("pairs", "-m", "helpers.report.pairs", str(folder / "settings.json"), "RESULT")

    os.environ.update(profile.engine_env)
    with VLLMServer(serve_command(profile, model, port=free_port(profile.port)), env=env) as server:
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
    return report
