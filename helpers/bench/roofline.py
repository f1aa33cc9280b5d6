"""How fast can a machine be at best? Arithmetic from `config.json` and two measured speeds. Introduced in notebook 09.

The roofline model: S. Williams, A. Waterman, D. Patterson, "Roofline: An Insightful Visual Performance Model for
Multicore Architectures", CACM 52(4), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from helpers.models import model_size

__all__ = ["best_time", "copy_bandwidth", "decode_limit", "limits", "matmul_rate", "prefill_limit", "weights_read"]


def weights_read(config: Mapping[str, Any]) -> int:
    """Count the weights that one forward pass reads: all but the input embedding, of which single rows are looked up.

    Args:
        config: content of `config.json`. With tied embeddings the same matrix is read again as output layer.

    Raises:
        ModelError: not the config of a Qwen2 model.
    """
    looked_up = 0 if config.get("tie_word_embeddings") else config["vocab_size"] * config["hidden_size"]
    return model_size(config).parameters - looked_up


def decode_limit(
    config: Mapping[str, Any],
    *,
    bandwidth_gb_s: float,
    batch: int,
    context: float,
    bytes_per_weight: float = 2.0,
    bytes_per_kv: float = 2.0,
) -> float:
    """Output tokens per second that memory bandwidth allows when `batch` requests decode together.

    Each step reads all weights once for the whole batch, and each request's own KV cache.

    Args:
        bandwidth_gb_s: memory bandwidth in GB/s (10⁹ bytes).
        batch: requests that decode together.
        context: mean length of a request so far, in tokens.
        bytes_per_weight: 4 for float32, 2 for bfloat16, 1 for FP8, 0.5 for 4-bit weights. Quantized checkpoints leave
            the output layer alone: it is counted with two bytes at least.
        bytes_per_kv: bytes of one number in the KV cache.
    """
    output_layer = int(config["vocab_size"] * config["hidden_size"])
    weight_bytes = (weights_read(config) - output_layer) * bytes_per_weight
    weight_bytes += output_layer * max(bytes_per_weight, 2)
    kv_bytes_per_token = model_size(config, bytes_per_weight=bytes_per_kv).kv_bytes_per_token
    bytes_per_step = weight_bytes + batch * context * kv_bytes_per_token
    return batch * bandwidth_gb_s * 1e9 / bytes_per_step


def prefill_limit(config: Mapping[str, Any], *, tflops: float) -> float:
    """Prompt tokens per second that arithmetic allows: two operations per weight and token (attention left out).

    The output layer is left out too: it runs for the last position of a prompt only.

    Args:
        tflops: 10¹² floating-point operations per second of a large matrix product.
    """
    output_layer = int(config["vocab_size"] * config["hidden_size"])
    return tflops * 1e12 / (2 * (weights_read(config) - output_layer))


def best_time(action: Callable[[], object], *, repeats: int = 10) -> float:
    """Seconds of the fastest of `repeats` runs, after one that is not counted; waits for the GPU to finish."""
    import torch

    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def copy_bandwidth(device: str, *, gib: float = 1.0) -> float:
    """Memory bandwidth in GB/s (10⁹ bytes): copy a buffer far larger than any cache, counting bytes read and written.

    Args:
        device: `cpu` (with as many threads as torch uses in this process) or `cuda`.
        gib: size of the buffer in GiB; twice as much is taken.
    """
    import torch

    source = torch.ones(int(gib * 2**28), device=device)  # float32: 4 bytes each
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_time(lambda: target.copy_(source)) / 1e9


def matmul_rate(device: str, dtype: str, *, size: int) -> float:
    """10¹² floating-point operations per second of a `size`×`size` matrix product, on random numbers."""
    import torch

    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    return 2 * size**3 / best_time(lambda: a @ a) / 1e12


def limits(*, device: str, dtype: str, gib: float, size: int) -> dict[str, float]:
    """Measure `copy_gb_s` with a buffer of `gib` GiB and `matmul_tflops` with `size`×`size` matrices."""
    return {"copy_gb_s": copy_bandwidth(device, gib=gib), "matmul_tflops": matmul_rate(device, dtype, size=size)}
