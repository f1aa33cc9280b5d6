"""Which model of the family fits on which card, and how much KV cache it leaves. Introduced in notebook 10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from helpers.models.size import GIB, SEVEN_B_CONFIG, kv_budget_gib, model_size, quantized_gib

__all__ = ["CARDS_GIB", "FAMILY", "PRECISIONS", "Fit", "advice", "fits"]

# The published shapes of DeepSeek-R1-Distill-Qwen-…: what differs from the 7B's.
FAMILY: Final[dict[str, dict[str, Any]]] = {
    "1.5B": SEVEN_B_CONFIG
    | {
        "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "7B": SEVEN_B_CONFIG,
    "14B": SEVEN_B_CONFIG
    | {
        "num_hidden_layers": 48, "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
    "32B": SEVEN_B_CONFIG
    | {
        "num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 27648, "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
}  # fmt: skip

# GB as the shop counts → GiB as CUDA does. By card and driver it is 0.1 more or less, and with ECC memory (T4, A10, L4,
# L40S) about a fifteenth less.
CARDS_GIB: Final[dict[int, float]] = {8: 7.6, 12: 11.6, 16: 15.6, 24: 23.6, 48: 47.4, 80: 79.2}

# Arguments of `fits`. Int8 has one scale for each row of a matrix; int4 one for 128 weights, as is usual.
PRECISIONS: Final[dict[str, dict[str, int]]] = {"bf16": {}, "int8": {"bits": 8}, "int4": {"bits": 4, "group": 128}}
ENOUGH = 2048  # tokens of KV cache below which a card is no place for a model


@dataclass(frozen=True)
class Fit:
    """What a model takes on its card or cards, and what is left.

    Attributes:
        weights_gib: of all cards together.
        kv_gib: left for the KV cache, of all cards together; below 0, the weights do not fit.
        tokens: that the KV cache holds; 0: the model does not fit.
    """

    weights_gib: float
    kv_gib: float
    tokens: int


def fits(
    config: Mapping[str, Any], card_gib: float, *, bits: int = 16, group: int | None = None, kv_bits: int = 16,
    cards: int = 1,
) -> Fit:  # fmt: skip
    """Work out what a card holds: nine tenths of it, less the weights and the rest, are KV cache.

    Args:
        config: the content of a `config.json`, for example out of `FAMILY`.
        card_gib: one card, as CUDA counts it.
        bits: of a weight in the layers' matrices: 16, 8 or 4.
        group: weights that share a scale; see `quantized_gib`.
        kv_bits: of a number in the KV cache: 16, or 8 for `--kv-cache-dtype fp8`.
        cards: of the same size, that share weights and KV cache by tensor parallelism.
    """
    weights_gib = quantized_gib(config, bits=bits, group=group)
    kv_gib = cards * kv_budget_gib(card_gib, weights_gib / cards)
    token_bytes = model_size(config).kv_bytes_per_token * kv_bits / 16
    return Fit(weights_gib, kv_gib, max(0, int(kv_gib * GIB / token_bytes)))


def advice(card_gib: float, *, cards: int = 1) -> str:
    """Say in one sentence what the largest model of the family is that fits at each precision.

    Args:
        card_gib: one card, as CUDA counts it.
        cards: of the same size, used together.
    """
    found = []
    for precision, options in PRECISIONS.items():
        tokens = {name: fits(config, card_gib, cards=cards, **options).tokens for name, config in FAMILY.items()}
        largest = [name for name in FAMILY if tokens[name] >= ENOUGH][-1:]
        found += [
            f"{precision} 最大放得下 {name}（KV 缓存约 {tokens[name] / 10_000:.1f} 万 token）" for name in largest
        ]
    many = f"{cards} 块 " if cards > 1 else ""
    rest = "；".join(found) or "这一家的模型一个也放不下"
    return f"{many}CUDA 看得见 {card_gib:.1f} GiB 的卡：{rest}。"
