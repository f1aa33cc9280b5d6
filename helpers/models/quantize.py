"""Quantize the weights of a small model by rounding, in the format compressed-tensors. Introduced in notebook 10."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.models.files import ModelFiles, check_model

if TYPE_CHECKING:
    import torch

__all__ = ["quantize", "recipe", "to_int"]


def to_int(weight: torch.Tensor, *, bits: int, group: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix to whole numbers of `bits` bits.

    Args:
        weight: (rows, columns).
        bits: 8 or 4; symmetric, the largest number is 127 or 7.
        group: neighbours in a row that share a scale; None: the whole row.

    Returns:
        numbers, int8 (rows, groups, group); scale (rows, groups, 1). Their product is near the matrix.
    """
    import torch

    top = 2 ** (bits - 1) - 1
    parts = weight.reshape(len(weight), -1, group or weight.shape[1])
    scale = parts.abs().amax(dim=2, keepdim=True).clamp(min=1e-8) / top
    return (parts / scale).round().clamp(-top, top).to(torch.int8), scale


def recipe(bits: int, group: int | None) -> dict[str, Any]:
    """What `config.json` says of such a checkpoint, under `quantization_config`."""
    weights = {"num_bits": bits, "type": "int", "symmetric": True}
    inputs = None  # int4: they stay 16 bits; int8: they are rounded too, anew for each token
    if group:
        weights |= {"strategy": "group", "group_size": group}
    else:
        weights |= {"strategy": "channel"}
        inputs = {"num_bits": bits, "type": "int", "strategy": "token", "dynamic": True}
    layers = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if bits == 4 else "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": layers},
    }


def quantize(source: Path, target: Path, *, bits: int, group: int | None = None) -> ModelFiles:
    """Write a quantized copy of a model whose weights lie in one file; embedding, output layer and norms stay.

    Args:
        source: the model's folder.
        target: folder to write.
        bits: 8, or 4 with a group.
        group: see `to_int`.

    Raises:
        ModelError: the copy is not whole.
    """
    import torch
    from compressed_tensors.compressors import pack_to_int32  # type: ignore[import-untyped]
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target, dirs_exist_ok=True)
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight, layer = tensors.pop(name), name.removesuffix(".weight")
        numbers, scale = to_int(weight, bits=bits, group=group)
        numbers = numbers.reshape(weight.shape)
        tensors[f"{layer}.weight_scale"] = scale.squeeze(2)
        if bits == 4:  # eight of them in one int32
            tensors[f"{layer}.weight_packed"] = pack_to_int32(numbers, bits)
            tensors[f"{layer}.weight_shape"] = torch.tensor(weight.shape)
        else:
            tensors[name] = numbers
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = recipe(bits, group)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    return check_model(target)
