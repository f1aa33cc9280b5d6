"""What `make bench` measures on a machine without a GPU: ratios, each from pairs measured in turn in one run."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
from openai import AsyncOpenAI, OpenAI
from tqdm import tqdm

from helpers.authoring import series
from helpers.authoring.report.pairs import pairs
from helpers.bench import paired_ratio, spread
from helpers.bench.fresh import run_fresh
from helpers.bench.startup import stages
from helpers.config import REPO_ROOT, Profile
from helpers.machine import describe, free_port
from helpers.models import find_model
from helpers.server import VLLMServer, serve_command

__all__ = ["measure"]

QUESTIONS = [f"{a}+{b}等于多少？" for a in range(11, 19) for b in range(21, 25)]
DEFAULT_PROCESSES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}  # what vLLM does unless told otherwise


def measure(profile: Profile, *, folder: Path, repeats: int, quick: bool = False) -> dict[str, Any]:
    """Measure every figure and print it; `folder` receives logs and raw results.

    Args:
        repeats: pairs of the short measurements; starts of engine and server are measured three times, the set-up once.
        quick: one start of engine and server, neither set-up nor series: to try the command itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, env = find_model(profile), {**os.environ, **profile.engine_env}
    os.environ.update(profile.engine_env)
    starts = 1 if quick else 3
    rows = [
        *_engines(model, env, folder=folder, dtype=profile.dtype, share=profile.gpu_memory_utilization, n=repeats),
        _sdk(profile, model, folder, n=repeats),
        _row("import helpers : empty python", "s", *_in_turn(_python("import helpers"), _python("pass"), n=repeats)),
        _row(
            "engine ready: in this process : default", "s",
            *_in_turn(
                lambda: _engine_start(model, env, folder, profile),
                lambda: _engine_start(model, env | DEFAULT_PROCESSES, folder, profile), n=starts,
            ),
        ),
        _row(
            "server ready: two processes : default three", "s",
            *_in_turn(
                lambda: _server_start(profile, model, folder, {}),
                lambda: _server_start(profile, model, folder, DEFAULT_PROCESSES), n=starts,
            ),
        ),
    ]  # fmt: skip
    rows += [] if quick else [_row("locked packages: uv : pip", "s", *_setup(folder))]
    notebooks = {} if quick else _series()
    _print(rows, notebooks)
    return {"machine": describe(), "figures": rows, "notebooks_s": notebooks}


def _row(name: str, unit: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    return {"name": name, "unit": unit, "ours": list(ours), "theirs": list(theirs)}


def _in_turn(ours: Callable[[], float], theirs: Callable[[], float], *, n: int) -> tuple[list[float], list[float]]:
    both = [(ours(), theirs()) for _ in tqdm(range(n), desc="pairs", leave=False)]
    return [a for a, _ in both], [b for _, b in both]


def _timed(argv: Sequence[str], *, log: Path | None = None, env: dict[str, str] | None = None) -> float:
    begin = time.perf_counter()
    with Path(log or os.devnull).open("w") as out:
        subprocess.run(argv, env=env, stdout=out, stderr=out, check=True)
    return time.perf_counter() - begin


def _python(code: str) -> Callable[[], float]:
    return lambda: _timed([sys.executable, "-c", code])


def _engines(
    model: Path, env: dict[str, str], *, folder: Path, dtype: str, share: float, n: int
) -> list[dict[str, Any]]:
    engine = {"dtype": dtype, "max_model_len": 512, "gpu_memory_utilization": share, "enforce_eager": True}
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
        return _row("32 requests: AsyncOpenAI at once : one by one", "s", *_in_turn(at_once, one_by_one, n=n))


def _engine_start(model: Path, env: dict[str, str], folder: Path, profile: Profile) -> float:
    engine: dict[str, Any] = {
        "dtype": profile.dtype, "max_model_len": profile.max_model_len, "enforce_eager": True,
        "gpu_memory_utilization": profile.gpu_memory_utilization,
    }  # fmt: skip
    took: dict[str, float] = run_fresh(stages, folder=folder, env=env, model=str(model), **engine)
    return took["import"] + took["engine"]


def _server(profile: Profile, model: Path, folder: Path, env: dict[str, str]) -> VLLMServer:
    command = serve_command(profile, model, port=free_port(profile.port))
    return VLLMServer(command, env={**profile.engine_env, **env}, log_file=folder / "server.log")


def _server_start(profile: Profile, model: Path, folder: Path, env: dict[str, str]) -> float:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), _server(profile, model, folder, env) as server:
        return server.ready_after_s


def _setup(folder: Path) -> tuple[list[float], list[float]]:
    lock, seconds = str(REPO_ROOT / "requirements" / "cpu.txt"), []
    for name in ("uv", "pip"):
        venv = folder / f"venv-{name}"
        python = str(venv / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", python, "--compile-bytecode"]
        install = uv if name == "uv" else [python, "-m", "pip", "install"]
        seconds.append(_timed([*install, "--no-deps", "-r", lock], log=folder / f"setup-{name}.log"))
        shutil.rmtree(venv)
    return seconds[:1], seconds[1:]


def _series() -> dict[str, float]:
    took = {}
    for path in series.notebook_paths():
        notebook, took[path.stem] = series.execute(path)
        series.EXECUTED_DIR.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, series.EXECUTED_DIR / path.name)
    return took


def _print(rows: Sequence[dict[str, Any]], notebooks: dict[str, float]) -> None:
    print(f"{'median (low-high)':52} {'n':>2} {'first':>24} {'second':>24} {'first / second':>24}")
    for row in rows:
        first, second, ratio = spread(row["ours"]), spread(row["theirs"]), paired_ratio(row["ours"], row["theirs"])
        name = f"{row['name']} [{row['unit']}]"
        print(f"{name:52} {len(row['ours']):2} {first!s:>24} {second!s:>24} {ratio!s:>24}")
    total = sum(notebooks.values())
    for name, seconds in notebooks.items():
        print(f"{name:30} {seconds:6.1f} s  {seconds / total:4.0%}")
    if notebooks:
        print(f"{'series':30} {total:6.1f} s")
