"""A model of the shape of R1-Distill-Qwen-7B, or of another of the family, that answers as the classroom model does.

`python -m helpers.authoring.model.widen TARGET [--shape 1.5B] [--random]` writes 15 GB (1.5B: 3.6 GB). On a machine
without the real weights it lets the notebooks run at the real size and speed; these are NOT DeepSeek's weights, and
TARGET says so.

How a small model sits in a large one without changing what it computes, up to the order of sums:

- Residual stream: each small dimension is held many times over, so that RMSNorm finds the same mean. Layers read the
  first copy and write all. Dimension 0 is held once doubled where it would be held four times: this frees three places.
- One free place holds a constant. The last norm enlarges it, and the tokens that the classroom's vocabulary lacks
  read it with a weight so negative that they are never chosen.
- Attention: the pairs of dimensions that rotate together go where the larger head rotates at the same frequency;
  the query makes up for the softmax's smaller scale; each query head stays with its KV head.
- What is left over computes on random numbers, and the result is multiplied by zero.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.config import CLASSROOM_MODEL_DIR
from helpers.errors import ModelError
from helpers.models import SEVEN_B_CONFIG
from helpers.models.files import ModelFiles, check_model, read_json
from helpers.models.fit import FAMILY

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

__all__ = ["widen"]

NOTE = "教学用：形状是 DeepSeek-R1-Distill-Qwen 那一家的，权重不是，里面是{}。由 helpers.authoring.model.widen 生成。"
COPIED = ("tokenizer.json", "chat_template.jinja", "generation_config.json")
CONSTANT = 2.0**-10  # adds 1e-6 to a sum of squares that is in the hundreds
ENLARGED = 2.0**10  # its weight in the last norm
NEVER = -(2.0**13)  # logit of a token that the classroom lacks, before division by the root mean square


def widen(
    target: Path | str, *, shape: Mapping[str, Any] = SEVEN_B_CONFIG, dtype: str = "bfloat16", random: bool = False
) -> ModelFiles:
    """Write the widened classroom model, one safetensors file a layer.

    Args:
        target: folder to write.
        shape: the keys of `config.json` that give the size, as in `SEVEN_B_CONFIG`: no number smaller than the
            classroom model's, and its width of a head a whole multiple.
        dtype: of the weights, as PyTorch spells it.
        random: fill the same shape with random numbers instead, for measurements of speed.

    Raises:
        ModelError: `hidden_size` does not hold the classroom model four times or more.
    """
    small, target = read_json(CLASSROOM_MODEL_DIR / "config.json"), Path(target)
    wide = {k: v for k, v in small.items() if k != "layer_types"} | dict(shape)
    wide |= {"dtype": dtype, "tutorial_note": NOTE.format("随机数" if random else "教室小模型")}
    if wide["hidden_size"] < 4 * small["hidden_size"] or wide["hidden_size"] % small["hidden_size"]:
        raise ModelError(f"hidden_size 要是 {small['hidden_size']} 的整数倍，至少 4 倍，现在是 {wide['hidden_size']}。")
    target.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(CLASSROOM_MODEL_DIR / name, target / name)
    tokenizer = read_json(CLASSROOM_MODEL_DIR / "tokenizer_config.json")
    tokenizer["model_max_length"] = wide["max_position_embeddings"]  # or a prompt beyond 2048 tokens brings a warning
    (target / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False), encoding="utf-8")
    (target / "README.md").write_text(wide["tutorial_note"] + "\n", encoding="utf-8")

    made = _Maker(small, wide, random=random)
    jobs = [partial(made.ends), *(partial(made.layer, i) for i in range(wide["num_hidden_layers"]))]
    files = [f"model-{number:05}-of-{len(jobs):05}.safetensors" for number in range(1, len(jobs) + 1)]
    with ThreadPoolExecutor() as pool:
        names = pool.map(lambda file, make: _save(target / file, make()), files, jobs)
        weight_map = {name: file for file, group in zip(files, names, strict=True) for name in group}
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (target / "config.json").write_text(json.dumps(wide, indent=2, ensure_ascii=False), encoding="utf-8")
    return check_model(target)


def _save(file: Path, tensors: Tensors) -> list[str]:
    from safetensors.torch import save_file

    save_file(tensors, file, metadata={"format": "pt"})
    return list(tensors)


class _Maker:
    """Makes the tensors of one layer at a time."""

    def __init__(self, small: Mapping[str, Any], wide: Mapping[str, Any], *, random: bool) -> None:
        import torch
        from safetensors.torch import load_file

        self.random, self.shape = random, wide
        self.dtype: torch.dtype = getattr(torch, wide["dtype"])
        weights = load_file(CLASSROOM_MODEL_DIR / "model.safetensors")
        self.weights = {name: tensor.to(self.dtype) for name, tensor in weights.items()}
        self.hidden, self.heads = wide["hidden_size"], wide["num_attention_heads"]
        self.head_dim = self.hidden // self.heads
        self.layers, self.small_hidden = small["num_hidden_layers"], small["hidden_size"]

        self.scale = torch.ones(self.hidden, dtype=self.dtype)  # of each place in the residual stream
        self.scale[0] = 2
        self.scale[-3 * self.small_hidden :: self.small_hidden] = 0
        self.free = self.hidden - self.small_hidden  # the place of the constant

        heads, kv = torch.arange(small["num_attention_heads"]), torch.arange(small["num_key_value_heads"])
        group, wide_group = len(heads) // len(kv), self.heads // wide["num_key_value_heads"]
        width = self.small_hidden // len(heads)
        half = torch.arange(width // 2) * (self.head_dim // width)
        rotary = torch.cat([half, half + self.head_dim // 2])  # where a small head's dimensions go
        self.used_heads = heads // group * wide_group + heads % group
        self.query_rows = (self.used_heads[:, None] * self.head_dim + rotary).flatten()
        self.kv_rows = (kv[:, None] * self.head_dim + rotary).flatten()
        self.query_factor = (self.head_dim / width) ** 0.5

    def layer(self, index: int) -> Tensors:
        shape, noise = self.shape, self._noise(index)
        queries, keys = self.heads * self.head_dim, shape["num_key_value_heads"] * self.head_dim
        prefix, inner = f"model.layers.{index}.", shape["intermediate_size"]
        made = {
            "input_layernorm.weight": self.scale.new_ones(self.hidden),
            "post_attention_layernorm.weight": self.scale.new_ones(self.hidden),
            "mlp.gate_proj.weight": noise(inner, self.hidden),
            "mlp.up_proj.weight": noise(inner, self.hidden),
        }
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            made[f"self_attn.{name}_proj.weight"] = noise(rows, self.hidden)
            made[f"self_attn.{name}_proj.bias"] = noise(rows)
        output = noise if self.random else self.scale.new_zeros
        made["self_attn.o_proj.weight"] = output(self.hidden, queries)
        made["mlp.down_proj.weight"] = output(self.hidden, inner)
        if index < self.layers and not self.random:
            self._embed(made, {name: self.weights[prefix + name] for name in made})
        return {prefix + name: tensor for name, tensor in made.items()}

    def _embed(self, made: Tensors, small: Tensors) -> None:
        """Put one layer of the classroom model into a layer that writes nothing to the residual stream."""
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            made[name] = self._norm(small[name])
        for name, read in (("weight", self._reading), ("bias", lambda bias: bias)):
            query, key, value = (f"self_attn.{letter}_proj.{name}" for letter in "qkv")
            made[query].view(self.heads, self.head_dim, -1)[self.used_heads] = 0
            made[query][self.query_rows] = read(small[query]) * self.query_factor
            made[key][self.kv_rows] = read(small[key])
            made[value][self.kv_rows] = read(small[value])
        made["self_attn.o_proj.weight"][:, self.query_rows] = self._writing(small["self_attn.o_proj.weight"])
        for name in ("mlp.gate_proj.weight", "mlp.up_proj.weight"):
            made[name][: len(small[name])] = self._reading(small[name])
        inner = small["mlp.down_proj.weight"].shape[1]
        made["mlp.down_proj.weight"][:, :inner] = self._writing(small["mlp.down_proj.weight"])

    def ends(self) -> Tensors:
        """What stands before the first layer and after the last."""
        noise, rows = self._noise(-1), self.shape["vocab_size"]
        embedding, norm = noise(rows, self.hidden), self.scale.new_ones(self.hidden)
        if self.random:
            head = noise(rows, self.hidden)
        else:
            small = self.weights["model.embed_tokens.weight"]  # the classroom uses it at both ends
            embedding[: len(small)] = self._writing(small.T).T
            embedding[:, self.free] = CONSTANT
            norm = self._norm(self.weights["model.norm.weight"])
            norm[self.free] = ENLARGED
            head = self.scale.new_zeros(rows, self.hidden)
            head[: len(small)] = self._reading(small)
            head[len(small) :, self.free] = NEVER
        return {"model.embed_tokens.weight": embedding, "model.norm.weight": norm, "lm_head.weight": head}

    def _noise(self, seed: int) -> Callable[..., torch.Tensor]:
        import torch

        generator = torch.Generator().manual_seed(2025 + seed)
        return lambda *size: self.scale.new_empty(size).normal_(0, 0.02, generator=generator)

    def _norm(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.repeat(self.hidden // self.small_hidden) * (self.scale != 0)

    def _reading(self, weight: torch.Tensor) -> torch.Tensor:
        """(out, small) → (out, hidden): from the first copy."""
        wide = weight.new_zeros(len(weight), self.hidden)
        wide[:, : self.small_hidden] = weight / self.scale[: self.small_hidden]
        return wide

    def _writing(self, weight: torch.Tensor) -> torch.Tensor:
        """(small, in) → (hidden, in): to every copy."""
        return weight.repeat(self.hidden // self.small_hidden, 1) * self.scale[:, None]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument(
        "--shape", type=str.upper, choices=FAMILY, default="7B", help="whose size (default: %(default)s)"
    )
    parser.add_argument("--random", action="store_true", help="random numbers instead of the classroom model")
    arguments = parser.parse_args()
    files = widen(arguments.target, shape=FAMILY[arguments.shape], random=arguments.random)
    print(f"{files.parameters:,} parameters, {files.weight_bytes / 1e9:.1f} GB in {files.path}")
