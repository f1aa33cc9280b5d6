"""How large a model is, by arithmetic from its `config.json`. Introduced in notebook 02."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from helpers.errors import ModelError
from helpers.models.files import read_json

__all__ = ["GIB", "RUNTIME_GIB", "SEVEN_B_CONFIG", "ModelSize", "model_size"]

GIB: Final = 1024**3
RUNTIME_GIB: Final = 1.5  # estimate: CUDA context, activations and CUDA graphs of a 7B model

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
    attention = (hidden * q + q) + 2 * (hidden * kv + kv) + q * hidden  # Q, K and V have a bias, the output has none
    mlp = 3 * hidden * number("intermediate_size")  # gate, up, down
    layer = attention + mlp + 2 * hidden  # two RMSNorms
    lm_head = 0 if config.get("tie_word_embeddings", False) else embedding
    parameters = embedding + layers * layer + hidden + lm_head  # hidden: the last RMSNorm

    return ModelSize(
        parameters=parameters,
        weights_gib=parameters * bytes_per_weight / GIB,
        kv_bytes_per_token=int(2 * layers * kv * bytes_per_weight),  # one key and one value per layer
    )
