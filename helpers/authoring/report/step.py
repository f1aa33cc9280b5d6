"""What one decode step on a GPU is made of.

PyTorch's profiler, which vLLM can switch on for some steps in the middle of a run, records when each kernel ran.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from helpers.authoring.report.pairs import generate
from helpers.errors import BenchmarkError

__all__ = ["decode_step", "profiled_step"]

SKIPPED, RECORDED = 32, 64  # steps: first the prefill and the way in, then those that count
KINDS = {  # the first that matches the name of a kernel
    "attention": r"flash|attention|attn|kv_?cache",
    "matrix products": r"gemm|gemv|nvjet|cutlass|cublas|splitk",
}


def decode_step(events: Iterable[Mapping[str, Any]], *, layers: int) -> dict[str, float]:
    """Add up the kernels of a profiled stretch of decoding.

    Args:
        events: the `traceEvents` of a Chrome trace, times in µs; all but GPU work is left out.
        layers: of the model. Each runs one attention kernel a step, from which the steps are counted.

    Returns:
        Milliseconds of one step: `matrix products`, `attention`, `other kernels`, `nothing running`; and `steps`.

    Raises:
        BenchmarkError: there is no attention kernel in the trace.
    """
    work = sorted(
        (event["ts"], event["ts"] + event["dur"], event["name"])
        for event in events
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    )
    spent = dict.fromkeys([*KINDS, "other kernels", "nothing running"], 0.0)
    counts: dict[str, int] = {}
    now = work[0][0] if work else 0.0
    for begin, end, name in work:
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.I)), "other kernels")
        if kind == "attention":
            counts[name] = counts.get(name, 0) + 1
        spent["nothing running"] += max(0.0, begin - now)
        spent[kind] += max(0.0, end - max(begin, now))  # what runs beside another kernel costs nothing
        now = max(now, end)
    steps = max(counts.values(), default=0) / layers
    if not steps:
        raise BenchmarkError("性能分析的结果里没有注意力的算子：没有在显卡上运行，或者 CUPTI 没有装好。")
    return {kind: us / 1000 / steps for kind, us in spent.items()} | {"steps": steps}


def profiled_step(model: str, *, batch: int, engine: dict[str, Any]) -> dict[str, float]:
    """Profile the decoding of `batch` random prompts of 64 tokens that get 128 more.

    Args:
        model: path of the model folder.
        batch: prompts that decode together.
        engine: further arguments of `vllm.LLM`.

    Returns:
        See `decode_step`.

    Raises:
        BenchmarkError: there is not exactly one trace, or no attention kernel in it.
    """
    from vllm import LLM

    with tempfile.TemporaryDirectory() as folder:
        profiler = {
            "profiler": "torch", "torch_profiler_dir": folder, "torch_profiler_activities": ["CUDA"],
            "torch_profiler_with_stack": False, "delay_iterations": SKIPPED, "max_iterations": RECORDED,
        }  # fmt: skip
        llm = LLM(model=model, skip_tokenizer_init=True, profiler_config=profiler, **engine)
        generate(llm, batch)  # warm-up
        llm.start_profile()
        generate(llm, batch)
        llm.stop_profile()
        traces = [*Path(folder).glob("*.json*")]
        if len(traces) != 1:
            raise BenchmarkError(f"性能分析应当留下一个文件，现在有 {len(traces)} 个。")
        events = json.loads(gzip.decompress(traces[0].read_bytes()))["traceEvents"]
        return decode_step(events, layers=llm.model_config.hf_config.num_hidden_layers)
