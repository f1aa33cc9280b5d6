"""How large a model is, and what fits on a card beside it: arithmetic from its `config.json`. Notebooks 01 and 02."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from helpers.errors import ModelError
from helpers.models.files import read_json

__all__ = [
    "CARD_24GB_GIB", "CONTEXTS", "GIB", "RUNTIME_GIB", "SEVEN_B_CONFIG", "ModelSize", "context_that_fits",
    "kv_budget_gib", "model_size", "quantized_gib",
]  # fmt: skip

GIB: Final = 1024**3
# What vLLM takes beside a 7B's weights and KV cache: 2.1 on an H100 with the settings of a 24 GB card, 2.8 with its own
# (bench/gpu.json, `memory`). Another card takes a little more or less: the log decides.
RUNTIME_GIB: Final = 2.0
CARD_24GB_GIB: Final = 23.6  # what CUDA has of a 24 GB card: 23.5 to 23.7 by card and driver, under nvidia-smi's 24.0
CONTEXTS: Final = (32768, 16384, 8192, 4096, 2048)  # tokens
REQUESTS: Final = 2  # of full length that should fit at once, or nobody can ask while another one is served

# The published shape of DeepSeek-R1-Distill-Qwen-7B (its config.json), so that any machine can do its arithmetic.
SEVEN_B_CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class ModelSize:
    """What a model needs, computed from its `config.json`."""

    parameters: int
    weights_gib: float
    kv_bytes_per_token: int
    weights_in_layers: int  # in the layers' matrices: what every token of a prompt is multiplied with


def model_size(config: Mapping[str, Any] | Path, *, bytes_per_weight: float = 2.0) -> ModelSize:
    """Compute parameters and memory of a Qwen2 model from its shape.

    Args:
        config: the content of `config.json`, or the path of the model folder.
        bytes_per_weight: 2 for bfloat16 and float16, 4 for float32; used for weights and KV cache.

    Raises:
        ModelError: not a Qwen2 config, or a number is missing or not positive; the message names it.
    """
    if isinstance(config, (str, Path)):
        config = read_json(Path(config) / "config.json")
    if not isinstance(config, Mapping) or config.get("model_type", "qwen2") != "qwen2":
        raise ModelError("model_size 只会算 Qwen2 结构的模型：要 config.json 的内容，或模型文件夹的路径。")
    if not isinstance(bytes_per_weight, (int, float)) or not bytes_per_weight > 0:
        raise ModelError(f"bytes_per_weight 应是正数（bfloat16 为 2，float32 为 4），现在是 {bytes_per_weight!r}。")

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key, default)
        if type(value) is not int or value <= 0:
            raise ModelError(f"config.json 里的 {key} 应是正整数，现在是 {value!r}。")
        return value

    layers, hidden, heads = number("num_hidden_layers"), number("hidden_size"), number("num_attention_heads")
    kv_heads, head_dim = number("num_key_value_heads", heads), number("head_dim", hidden // heads)
    q, kv = heads * head_dim, kv_heads * head_dim  # width of one token's query; of its key, and of its value

    embedding = number("vocab_size") * hidden
    attention = 2 * hidden * q + 2 * hidden * kv  # Q and output, K and V
    mlp = 3 * hidden * number("intermediate_size")  # gate, up, down
    small = q + 2 * kv + 2 * hidden  # Q, K and V have a bias, the output has none; two RMSNorms
    lm_head = 0 if config.get("tie_word_embeddings", False) else embedding
    parameters = embedding + layers * (attention + mlp + small) + hidden + lm_head  # hidden: the last RMSNorm

    return ModelSize(
        parameters=parameters,
        weights_gib=parameters * bytes_per_weight / GIB,
        kv_bytes_per_token=int(2 * layers * kv * bytes_per_weight),  # one key and one value per layer
        weights_in_layers=layers * (attention + mlp),
    )


def quantized_gib(config: Mapping[str, Any] | Path, *, bits: int, group: int | None = None) -> float:
    """Memory of a quantized checkpoint in GiB: only the layers' matrices shrink, the rest stays in bfloat16.

    Embedding and output layer are left alone by the usual recipes (llm-compressor, GPTQ, AWQ).

    Args:
        config: see `model_size`.
        bits: of a weight in the layers' matrices: 4 or 8.
        group: weights that share one scale of 16 bits, 128 as a rule for 4 bits; None: a scale for each row of a
            matrix, which is too little to count.

    Raises:
        ModelError: see `model_size`.
    """
    size = model_size(config)
    scales = size.weights_in_layers / group if group else 0.0
    left_alone = size.parameters - size.weights_in_layers
    return (size.weights_in_layers * bits / 8 + (left_alone + scales) * 2) / GIB


def kv_budget_gib(card_gib: float, weights_gib: float, *, utilization: float = 0.9) -> float:
    """GiB that vLLM has left for the KV cache: its share of the card, less weights and rest. Not above 0: no room.

    Args:
        card_gib: the whole card as CUDA counts it (`helpers.machine.cuda_memory_gib`), not as nvidia-smi does.
        weights_gib: of the model, on this card.
        utilization: vLLM's share of the whole card, `gpu_memory_utilization`.
    """
    return card_gib * utilization - weights_gib - RUNTIME_GIB


def context_that_fits(card_gib: float, size: ModelSize, *, utilization: float = 0.9) -> int | None:
    """The largest of `CONTEXTS` of which the KV cache holds two requests at once; None: not even the smallest.

    Arguments as for `kv_budget_gib`.
    """
    tokens = kv_budget_gib(card_gib, size.weights_gib, utilization=utilization) * GIB / size.kv_bytes_per_token
    return next((length for length in CONTEXTS if REQUESTS * length <= tokens), None)
