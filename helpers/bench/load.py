"""Measure a server with the OpenAI SDK alone, where vLLM is not installed. Introduced in notebook 07."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from typing import TYPE_CHECKING

import openai
from tqdm import tqdm

from helpers.errors import BenchmarkError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_test"]


async def load_test(
    client: openai.AsyncOpenAI, model: str, *, concurrency: int, requests: int, max_tokens: int = 128
) -> pd.DataFrame:
    """Send streaming chat requests, `concurrency` at a time, and time their chunks.

    Args:
        requests: how many in all; each prompt is different, so the prefix cache finds nothing but the template.
        max_tokens: every request generates exactly this many tokens.

    Returns:
        One row with the columns of `bench.read_serving`. A chunk is taken for a token, as `vllm bench serve` does.

    Raises:
        BenchmarkError: a request failed; the message tells the first error.
    """
    import pandas as pd

    limit = asyncio.Semaphore(concurrency)
    ttft_ms, tpot_ms, itl_ms = [], [], []

    async def one(number: int) -> None:
        async with limit:
            clock = [time.perf_counter()]
            stream = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": f"{time.time_ns() + number} 什么是深度学习？"}],
                max_tokens=max_tokens,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            async for chunk in stream:
                delta = chunk.choices[0].delta if chunk.choices else None
                if delta and (delta.content or getattr(delta, "reasoning", None)):
                    clock.append(time.perf_counter())
            if len(clock) < 3:
                raise BenchmarkError(f"有请求只收到 {len(clock) - 1} 段文字，量不出间隔，这一次的数字不能用。")
            gaps = [(b - a) * 1000 for a, b in itertools.pairwise(clock)]
            ttft_ms.append(gaps[0])
            itl_ms.extend(gaps[1:])
            tpot_ms.append(sum(gaps[1:]) / (max_tokens - 1))

    begin = time.perf_counter()
    with tqdm(total=requests, desc=f"concurrency {concurrency}") as bar:
        tasks = [asyncio.ensure_future(one(n)) for n in range(requests)]
        for task in tasks:
            task.add_done_callback(lambda _: bar.update())
        try:
            await asyncio.gather(*tasks)
        except openai.OpenAIError as error:
            raise BenchmarkError(f"有请求失败了，这一次的数字不能用：{error}") from None
        finally:
            for task in tasks:
                task.cancel()
    elapsed_s = time.perf_counter() - begin
    row: dict[str, float] = {
        "concurrency": concurrency,
        "requests": requests,
        "requests_per_s": requests / elapsed_s,
        "output_tok_per_s": requests * max_tokens / elapsed_s,
    }
    for name, values in (("ttft", ttft_ms), ("tpot", tpot_ms), ("itl", itl_ms)):
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        row |= {f"{name}_mean_ms": statistics.fmean(values), f"{name}_p50_ms": cuts[49], f"{name}_p99_ms": cuts[98]}
    return pd.DataFrame([row])
