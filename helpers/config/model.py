"""Which model, and which context: what the reader names, what lies in his folder, or what fits the card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from helpers.config import values
from helpers.errors import ConfigError, ModelError
from helpers.models.family import family_id, known_shape, known_size, member_by_name, member_in
from helpers.models.fit import FAMILY
from helpers.models.size import GIB, RUNTIME_GIB, context_that_fits, kv_budget_gib, model_size

__all__ = ["MAX_MODEL_LEN", "choose_model", "context_for", "for_card", "told"]

MAX_MODEL_LEN = 2048  # of the classroom model, and of a card that holds no more or does not tell its size
ROOM = 16384  # tokens of KV cache that the 7B must leave on a card to be chosen for it
LARGER, SMALLER = "7B", "1.5B"


def choose_model(environ: Mapping[str, str], folder: Path | None, *, default: str) -> str:
    """The model's `<owner>/<name>`.

    Args:
        folder: the one that the reader named, None: none.
        default: the key of `FAMILY` to take where neither `TUTORIAL_MODEL` nor what lies in `folder` tells.

    Raises:
        ConfigError: `TUTORIAL_MODEL` is neither a size nor `<owner>/<name>`, or `folder` holds another one; or it is
            one of R1's Llama distills, whose tokenizer loses the spaces when transformers 5 loads it from a folder.
    """
    for variable in ("TUTORIAL_MODEL", "TUTORIAL_MODEL_DIR"):
        if found := re.search(r"R1-Distill-Llama-(\d*)", values.text(environ, variable), re.IGNORECASE):
            other = "" if variable == "TUTORIAL_MODEL" else "unset TUTORIAL_MODEL_DIR；"
            raise ConfigError(
                f"{variable} 指的是 R1 的 Llama 版：transformers 5 从文件夹加载它的分词器，会丢空格和汉字，不能用。"
                f"下一步：{other}export TUTORIAL_MODEL={'32b' if found[1] == '70' else '7b'}"
            )
    given, there = values.text(environ, "TUTORIAL_MODEL"), member_in(folder) if folder else ""
    sizes = "、".join(FAMILY).lower()
    if given.upper() in FAMILY:
        given = family_id(given.upper())
    elif given and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", given, re.ASCII):
        raise ConfigError(f"TUTORIAL_MODEL={given!r}：写 {sizes} 中的一个，或者魔搭上的全名 <所有者>/<名字>")
    if there and member_by_name(given) not in ("", there):
        raise ConfigError(
            f"TUTORIAL_MODEL 要的是 {given}，TUTORIAL_MODEL_DIR 指的文件夹 {folder} 里却是 {there}。"
            "下一步：unset TUTORIAL_MODEL，或者 unset TUTORIAL_MODEL_DIR"
        )
    return given or family_id(there or default)


def for_card(card_gib: float | None, *, bytes_per_weight: float, utilization: float) -> str:
    """The larger of the 7B and the 1.5B that leaves `ROOM` on a card; the 7B where its size is not known."""
    size = model_size(FAMILY[LARGER], bytes_per_weight=bytes_per_weight)
    needed = ROOM * size.kv_bytes_per_token / GIB
    if card_gib is None or kv_budget_gib(card_gib, size.weights_gib, utilization=utilization) >= needed:
        return LARGER
    return SMALLER


def told(model_id: str, fitting: str) -> str:
    """The choice in words. `fitting`: what `for_card` gave."""
    name = member_by_name(model_id) or model_id
    short = f"{LARGER} 留不出 {ROOM} 个 token 的 KV 缓存，" if name == fitting == SMALLER else ""
    return f"{short}模型取 {name}"


def context_for(
    model_id: str, folder: Path, card_gib: float | None, *, bytes_per_weight: float, utilization: float
) -> tuple[int, str]:
    """The `max_model_len` of a model on a card, and the arithmetic as a sentence.

    Args:
        folder: where its files are, or will be.
        card_gib: None: not known.
    """
    if card_gib is None:
        return MAX_MODEL_LEN, f"读不到显存大小，max_model_len 取 {MAX_MODEL_LEN}"
    try:
        longest = known_shape(model_id, folder).get("max_position_embeddings", MAX_MODEL_LEN)
        size = known_size(model_id, folder, bytes_per_weight=bytes_per_weight)
    except ModelError:
        return MAX_MODEL_LEN, f"还不知道 {model_id} 有多大，max_model_len 取 {MAX_MODEL_LEN}"
    left = kv_budget_gib(card_gib, size.weights_gib, utilization=utilization)
    fits = context_that_fits(card_gib, size, utilization=utilization)
    length = min(fits or MAX_MODEL_LEN, longest)
    sum_ = f"显存 {card_gib:.1f} GiB × {utilization:g} − 权重 {size.weights_gib:.1f} − 其余约 {RUNTIME_GIB:g}"
    why = "这样长的请求放得下两个" if fits else "更长的请求放不下两个" if left > 0 else "恐怕放不下"
    return length, f"{sum_} = {left:.1f} GiB 给 KV 缓存，max_model_len 取 {length}，{why}"
