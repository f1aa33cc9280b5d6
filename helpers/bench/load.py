"""Measure a server with the OpenAI SDK alone, where vLLM is not installed. Introduced in notebook 08."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openai
from tqdm.asyncio import tqdm

from helpers.errors import BenchmarkError

__all__ = ["Timing", "load_test", "random_prompt", "summary", "timed_request"]


@dataclass(frozen=True)
class Timing:
    """One streamed request: how many tokens went in and came out, and when its events arrived.

    Attributes:
        prompt_tokens: as the server counted them.
        output_tokens: as the server counted them.
        arrivals_s: seconds from sending the request to each event (chunk); an event holds one token, seldom more.
    """

    prompt_tokens: int
    output_tokens: int
    arrivals_s: list[float]

    @property
    def ttft_s(self) -> float:
        """Time to first token, in seconds."""
        return self.arrivals_s[0]

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first, in seconds."""
        return (self.arrivals_s[-1] - self.arrivals_s[0]) / (self.output_tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        """Inter-token latencies as `vllm bench serve` takes them: the seconds between neighbouring events."""
        return [b - a for a, b in itertools.pairwise(self.arrivals_s)]


def random_prompt(length: int) -> list[int]:
    """Token ids that a Qwen tokenizer has for ASCII characters; never twice the same, so no cache knows them."""
    return random.choices(range(94), k=length)


async def timed_request(client: openai.AsyncOpenAI, model: str, *, input_len: int, output_len: int) -> Timing:
    """Stream one completion of a random prompt, and note when each event arrives.

    It samples as `serving_command` does, not as the model's folder says.

    Args:
        input_len: tokens of the prompt.
        output_len: tokens to generate, two at least; end marks are ignored.

    Raises:
        BenchmarkError: the answer ended early.
    """
    begin, arrivals_s, usage = time.perf_counter(), [], None
    stream = await client.completions.create(
        model=model,
        prompt=random_prompt(input_len),
        max_tokens=output_len,
        temperature=1,
        top_p=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        if chunk.choices:
            arrivals_s.append(time.perf_counter() - begin)
    if usage is None:
        raise BenchmarkError(f"只收到 {len(arrivals_s)} 段，回答没有发完")
    if len(arrivals_s) < 2:
        raise BenchmarkError("token 攒成一堆才送到，机器太忙：关掉别的程序再测")
    return Timing(usage.prompt_tokens, usage.completion_tokens, arrivals_s)


def summary(timings: Sequence[Timing], *, concurrency: int, elapsed_s: float) -> dict[str, float]:
    """Sum up the requests of one run in the columns of `bench.read_serving`.

    Args:
        elapsed_s: seconds from sending the first request to the end of the last.
    """
    row = {
        "concurrency": concurrency,
        "requests": len(timings),
        "requests_per_s": len(timings) / elapsed_s,
        "output_tok_per_s": sum(t.output_tokens for t in timings) / elapsed_s,
    }
    measured_s = {
        "ttft": [t.ttft_s for t in timings],
        "tpot": [t.tpot_s for t in timings],
        "itl": [gap for t in timings for gap in t.itl_s],
    }
    for name, seconds in measured_s.items():
        p50, p99 = np.percentile(seconds, [50, 99])
        row[f"{name}_mean_ms"] = 1000 * float(np.mean(seconds))
        row |= {f"{name}_p50_ms": 1000 * float(p50), f"{name}_p99_ms": 1000 * float(p99)}
    return row


async def load_test(
    client: openai.AsyncOpenAI,
    model: str,
    *,
    concurrency: int,
    requests: int,
    input_len: int = 64,
    output_len: int = 128,
) -> dict[str, float]:
    """Send `requests` random completions, `concurrency` at a time, and sum up what they took.

    Args:
        client: best with `max_retries=0`, so that no request is sent twice unseen.
        input_len: tokens of each prompt.
        output_len: tokens that each request generates, two at least.

    Returns:
        The columns of `bench.read_serving`.

    Raises:
        BenchmarkError: a request failed; the message says how many did, and the first error.
    """
    limit = asyncio.Semaphore(concurrency)

    async def one() -> Timing:
        async with limit:
            return await timed_request(client, model, input_len=input_len, output_len=output_len)

    begin = time.perf_counter()
    tasks = [asyncio.ensure_future(one()) for _ in range(requests)]
    try:
        ended = await tqdm.gather(*tasks, return_exceptions=True, desc=f"concurrency {concurrency}")
    finally:
        for task in tasks:  # none goes on after an interrupt
            task.cancel()
    failed = [error for error in ended if isinstance(error, Exception)]
    if failed:
        raise BenchmarkError(f"{len(failed)} 个请求失败了，这一次的数字不能用：{failed[0]}")
    elapsed_s = time.perf_counter() - begin
    return summary(ended, concurrency=concurrency, elapsed_s=elapsed_s)
