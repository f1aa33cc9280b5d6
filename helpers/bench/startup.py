"""What takes time before the first answer. Introduced in notebook 09."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["stages"]


def stages(model: str, **engine: Any) -> dict[str, float]:
    """Time the way to the first answer, step by step, in seconds. It measures the import too: call it by `run_fresh`.

    Args:
        model: path of the model folder.
        engine: further arguments of `vllm.LLM`.

    Returns:
        `import`; `engine` (load the weights, compile, allocate the KV cache); `first request` and `second request`,
        of 16 tokens each.
    """
    clock = [time.perf_counter()]
    from vllm import LLM, SamplingParams

    clock.append(time.perf_counter())
    llm = LLM(model=model, **engine)
    clock.append(time.perf_counter())
    params = SamplingParams(max_tokens=16, ignore_eos=True)
    for prompt in ["first", "second"]:
        llm.generate(prompt, params, use_tqdm=False)
        clock.append(time.perf_counter())
    names = ["import", "engine", "first request", "second request"]
    return {name: b - a for name, a, b in zip(names, clock, clock[1:], strict=False)}
