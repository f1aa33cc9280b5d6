"""Where a card's memory goes, as vLLM tells it in the log of a start. The wording was read in vLLM 0.32."""

from __future__ import annotations

import re

from helpers.errors import BenchmarkError

__all__ = ["AS_ON_24_GB", "SAID", "memory_split"]

# What vLLM takes by itself on a card below 70 GiB (EngineArgs.get_batch_defaults), and the course's context there.
AS_ON_24_GB = ("--max-num-batched-tokens", "2048", "--max-num-seqs", "256", "--max-model-len", "32768")
SAID = {
    "card_gib": r"Free memory on device \([\d.]+/([\d.]+) GiB\)",  # the whole card as CUDA counts it
    "share_gib": r"Desired GPU memory utilization is \([\d.]+, ([\d.]+) GiB\)",
    "weights_gib": r"Model loading took ([\d.]+) GiB memory",
    "kv_gib": r"Available KV cache memory: ([\d.]+) GiB",
    "kv_tokens": r"KV cache size: ([\d,]+) tokens",
    "graphs_gib": r"CUDA graph pool memory: ([\d.]+) GiB \(actual\)",
    "graphs_estimate_gib": r"CUDA graph pool memory: .*?([\d.]+) GiB \(estimated\)",  # what is set aside for them
}


def memory_split(log: str) -> dict[str, float]:
    """Read how vLLM divided its share of a card.

    Returns:
        The names of `SAID`, and `rest_gib`: the share less weights and KV cache, CUDA graphs included.

    Raises:
        BenchmarkError: the log lacks one of the lines; the message names what.
    """
    found = {name: re.search(pattern, log) for name, pattern in SAID.items()}
    lacks = [name for name, match in found.items() if match is None]
    if lacks:
        raise BenchmarkError(f"启动日志里没有读到 {'、'.join(lacks)}：vLLM 换了版本，或者不是在显卡上启动的。")
    split = {name: float(match[1].replace(",", "")) for name, match in found.items() if match}
    return split | {"rest_gib": round(split["share_gib"] - split["weights_gib"] - split["kv_gib"], 2)}
