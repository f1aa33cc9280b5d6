"""What `make bench` measures on a machine without a GPU: ratios, each from pairs measured in turn in one run."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAI
from tqdm import tqdm

from helpers.authoring.report.pairs import pairs
from helpers.bench import paired_ratio, spread
from helpers.bench.fresh import run_fresh
from helpers.bench.startup import stages
from helpers.config import Profile
from helpers.machine import describe, free_port
from helpers.models import find_model
from helpers.server import VLLMServer, serve_command

__all__ = ["in_turn", "measure", "print_table"]

QUESTIONS = [f"{a}+{b}等于多少？" for a in range(11, 19) for b in range(21, 25)]
DEFAULT_PROCESSES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}  # what vLLM does unless told otherwise


def measure(profile: Profile, *, folder: Path, repeats: int, quick: bool = False) -> dict[str, Any]:
    """Measure every figure and print it; `folder` receives logs and raw results.

    Args:
        repeats: pairs of the short measurements; starts of engine and server are measured three times.
        quick: one start of engine and server, to try the command itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, env = find_model(profile), {**os.environ, **profile.engine_env}
    os.environ.update(profile.engine_env)
    starts = 1 if quick else 3
    rows = [
        *_engines(model, env, folder, profile, n=repeats),
        _sdk(profile, model, folder, n=repeats),
        _row(
            "engine ready: in this process : default", "s",
            *in_turn(
                lambda: _engine_start(model, env, folder, profile),
                lambda: _engine_start(model, env | DEFAULT_PROCESSES, folder, profile), n=starts,
            ),
        ),
        _row(
            "server ready: two processes : default three", "s",
            *in_turn(
                lambda: _server_start(profile, model, folder, {}),
                lambda: _server_start(profile, model, folder, DEFAULT_PROCESSES), n=starts,
            ),
        ),
    ]  # fmt: skip
    print_table(rows)
    return {"machine": describe(), "figures": rows}


def _row(name: str, unit: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    return {"name": name, "unit": unit, "ours": list(ours), "theirs": list(theirs)}


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], *, n: int) -> tuple[list[float], list[float]]:
    """Measure one, then the other, `n` times, so that a slow moment of the machine hits both."""
    both = [(ours(), theirs()) for _ in tqdm(range(n), desc="pairs", leave=False)]
    return [a for a, _ in both], [b for _, b in both]


def _engine(profile: Profile, *, max_model_len: int) -> dict[str, Any]:
    return {
        "dtype": profile.dtype, "max_model_len": max_model_len, "enforce_eager": profile.enforce_eager,
        "gpu_memory_utilization": profile.gpu_memory_utilization,
    }  # fmt: skip


def _engines(model: Path, env: dict[str, str], folder: Path, profile: Profile, *, n: int) -> list[dict[str, Any]]:
    engine = _engine(profile, max_model_len=512)
    rows = run_fresh(
        pairs, folder=folder, env=env, model=str(model), device="cpu", engine=engine, vllm_prompts=[25],
        hf_batches=[25, 1], repeats=n,
    )  # fmt: skip
    speeds = {(row["engine"], row["prompts"]): row["output_tok_per_s"] for row in rows}
    vllm = speeds["vllm", 25]
    return [
        _row("vLLM, 25 prompts : transformers, batch 25", "tok/s", vllm, speeds["transformers", 25]),
        _row("vLLM, 25 prompts : transformers, one by one", "tok/s", vllm, speeds["transformers", 1]),
    ]


def _sdk(profile: Profile, model: Path, folder: Path, *, n: int) -> dict[str, Any]:
    def request(text: str) -> dict[str, Any]:
        message = {"role": "user", "content": text}
        return {"model": profile.served_model_name, "temperature": 0, "messages": [message]}

    def one_by_one() -> float:
        begin = time.perf_counter()
        for text in QUESTIONS:
            client.chat.completions.create(**request(text))
        return time.perf_counter() - begin

    async def gather() -> None:
        async with AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as many:
            await asyncio.gather(*(many.chat.completions.create(**request(text)) for text in QUESTIONS))

    def at_once() -> float:
        begin = time.perf_counter()
        asyncio.run(gather())
        return time.perf_counter() - begin

    with _server(profile, model, folder, {}) as server:
        client = OpenAI(base_url=f"{server.base_url}/v1", api_key="sk-xxx")
        at_once(), one_by_one()  # warm-up
        return _row("32 requests: AsyncOpenAI at once : one by one", "s", *in_turn(at_once, one_by_one, n=n))


def _engine_start(model: Path, env: dict[str, str], folder: Path, profile: Profile) -> float:
    engine = _engine(profile, max_model_len=profile.max_model_len)
    took: dict[str, float] = run_fresh(stages, folder=folder, env=env, model=str(model), **engine)
    return took["import"] + took["engine"]


def _server(profile: Profile, model: Path, folder: Path, env: dict[str, str]) -> VLLMServer:
    command = serve_command(profile, model, port=free_port(profile.port))
    return VLLMServer(command, env={**profile.engine_env, **env}, log_file=folder / "server.log")


def _server_start(profile: Profile, model: Path, folder: Path, env: dict[str, str]) -> float:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), _server(profile, model, folder, env) as server:
        return server.ready_after_s


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows of `name`, `unit`, `ours` and `theirs` with the ratio pair by pair."""
    print(f"{'median (low-high)':52} {'n':>2} {'first':>24} {'second':>24} {'first / second':>24}")
    for row in rows:
        first, second, ratio = spread(row["ours"]), spread(row["theirs"]), paired_ratio(row["ours"], row["theirs"])
        name = f"{row['name']} [{row['unit']}]"
        print(f"{name:52} {len(row['ours']):2} {first!s:>24} {second!s:>24} {ratio!s:>24}")
