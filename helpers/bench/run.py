"""Running `vllm bench` commands. Introduced in notebook 07."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from helpers.bench import forkserver
from helpers.errors import BenchmarkError
from helpers.server.command import readable

__all__ = ["arrivals_command", "run_bench", "serving_command"]

LOG_LINES = 8


def run_bench(
    command: Sequence[str],
    *,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
    show: bool = True,
) -> None:
    """Run a `vllm bench …` command to its end, printing it first and showing the seconds.

    Args:
        command: argument list that begins with `vllm`; it must name its own result file.
        log_file: receives the command's output; its folder is created.
        env: added to this process's environment (see `forkserver.start`).
        timeout_s: the command is ended after this many seconds.
        show: False: do not print the command (the cell has shown the same one before).

    Raises:
        BenchmarkError: vLLM is not installed, the command failed or took too long; the message says what to do, and
            ends with the log's last lines.
    """
    if isinstance(command, str | bytes) or not command or command[0] != "vllm":
        raise BenchmarkError('command 要是一个参数列表，以 ["vllm", "bench", …] 开头。')
    if not Path(sys.executable).with_name("vllm").is_file():
        raise BenchmarkError(f"{sys.executable} 的环境里没有 vllm：确认环境装好了，笔记本选对了内核。")
    if show:
        print(readable(command))
    log_file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    process = forkserver.start(command, log_file=log_file, env=env or {})
    try:
        with tqdm(desc=" ".join(command[:3]), bar_format="{desc} {elapsed}") as bar:
            while process.is_alive():
                if time.monotonic() > deadline:
                    raise BenchmarkError(f"超过 {timeout_s:g} 秒还没跑完，已停止。完整日志：{log_file}")
                process.join(0.2)
                bar.update(0)
    finally:
        forkserver.end(process)
    if process.exitcode:
        lines = log_file.read_text(errors="replace").splitlines()
        cause = [line for line in lines[:-LOG_LINES] if re.match(r"\w*(Error|Exception)\b", line)][-1:]
        tail = "\n".join([*cause, *lines[-LOG_LINES:]])
        raise BenchmarkError(f"命令以状态 {process.exitcode} 结束，日志最后几行：\n{tail}\n完整日志：{log_file}")


def serving_command(
    base_url: str,
    name: str,
    tokenizer: Path,
    *,
    concurrency: int,
    result: Path,
    input_len: int = 64,
    output_len: int = 128,
) -> list[str]:
    """Put together `vllm bench serve` for one concurrency. Shown whole in notebook 08.

    It samples as `vllm bench throughput` does, not as the model's folder says. All warm-up requests have one prompt,
    that of the first request measured: what the server itself counts is only right without prefix caching.

    Args:
        name: the served model name.
        tokenizer: folder of the model, for making prompts of the right length.
        concurrency: requests in flight; five times as many, at least 16, are measured.
        result: the JSON file to write.
        input_len: tokens of each prompt.
        output_len: tokens that each request generates.
    """
    return [
        "vllm", "bench", "serve", "--base-url", base_url, "--model", name,
        "--tokenizer", str(tokenizer), "--dataset-name", "random",
        "--random-input-len", str(input_len),
        "--random-output-len", str(output_len), "--ignore-eos",
        "--max-concurrency", str(concurrency), "--seed", str(concurrency),
        "--num-prompts", str(max(16, 5 * concurrency)),
        "--num-warmups", str(concurrency), "--temperature", "1", "--top-p", "1",
        "--save-result", "--result-dir", str(result.parent),
        "--result-filename", result.name,
    ]  # fmt: skip


def arrivals_command(
    base_url: str, name: str, tokenizer: Path, *, rate: float, requests: int, result: Path, output_len: int
) -> list[str]:
    """Put together `vllm bench serve` for requests that come when they like. Shown whole in notebook 08.

    Prompts have 64 to 192 tokens; answers are between two fifths and eight fifths of `output_len` long, all lengths
    alike. Nothing is warmed up: send some requests before.

    Args:
        name: the served model name.
        tokenizer: folder of the model, for making prompts of the right length.
        rate: requests a second on average, of a Poisson process.
        requests: how many are sent.
        result: the JSON file to write; `read_arrivals` reads it.
        output_len: mean tokens of an answer.
    """
    return [
        "vllm", "bench", "serve", "--base-url", base_url, "--model", name,
        "--tokenizer", str(tokenizer), "--dataset-name", "random",
        "--random-input-len", "128", "--random-output-len", str(output_len),
        "--random-range-ratio", json.dumps({"input": 0.5, "output": 0.6}),
        "--request-rate", f"{rate:g}", "--num-prompts", str(requests),
        "--seed", str(requests), "--ignore-eos",
        "--temperature", "1", "--top-p", "1", "--metric-percentiles", "95",
        "--save-result", "--result-dir", str(result.parent),
        "--result-filename", result.name,
    ]  # fmt: skip
