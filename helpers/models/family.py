"""The family's names on ModelScope, and how large a model is that may not be on this machine yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.errors import ModelError
from helpers.models.files import read_json
from helpers.models.fit import FAMILY
from helpers.models.size import GIB, ModelSize, model_size

__all__ = ["family_id", "known_shape", "known_size", "member_by_name", "member_in"]

SHAPE = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_key_value_heads")  # no two members share these


def family_id(name: str) -> str:
    """`<owner>/<name>` of a key of `FAMILY`."""
    return f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{name}"


def member_by_name(model_id: str) -> str:
    """The key of `FAMILY` whose name a model bears, quantized copies too; empty: none."""
    found = re.search(r"R1-Distill-Qwen-([\d.]+B)", model_id, re.IGNORECASE)
    return found[1].upper() if found and found[1].upper() in FAMILY else ""


def member_in(folder: Path) -> str:
    """The key of `FAMILY` whose shape the `config.json` in a folder has; empty: none, or there is no such file."""
    try:
        shape = read_json(folder / "config.json")
    except ModelError:
        return ""
    same = [name for name, config in FAMILY.items() if all(shape.get(key) == config[key] for key in SHAPE)]
    return "".join(same)


def known_shape(model_id: str, folder: Path) -> Mapping[str, Any]:
    """The `config.json` in a folder; until that is there, the published shape, if the model's name tells it.

    Raises:
        ModelError: neither is known.
    """
    try:
        return read_json(folder / "config.json")
    except ModelError:
        if name := member_by_name(model_id):
            return FAMILY[name]
        raise


def known_size(model_id: str, folder: Path, *, bytes_per_weight: float = 2.0) -> ModelSize:
    """How large a model is, by `known_shape`; the weights of a quantized one are as large as its files.

    Raises:
        ModelError: no shape is known, or one that `model_size` does not understand.
    """
    shape = known_shape(model_id, folder)
    size = model_size(shape, bytes_per_weight=bytes_per_weight)
    if "quantization_config" not in shape:
        return size
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return replace(size, weights_gib=weights / GIB)
