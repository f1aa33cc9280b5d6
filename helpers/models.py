"""Where the model lies, how large it is, and why a download failed. Introduced in notebook 02."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config import CLASSROOM_MODEL_DIR, Profile
from helpers.errors import ModelError
from helpers.model_files import FIX, ModelFiles, check_model, entries, read_json

__all__ = [
    "SEVEN_B_CONFIG", "ModelFiles", "ModelSize", "check_model", "explain_download_error", "find_model", "model_size",
]  # fmt: skip

GIB = 1024**3

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


def find_model(profile: Profile, *, environ: Mapping[str, str] = os.environ) -> Path:
    """Find the folder that the engine should load: the first whole one of the places below.

    `profile.model_dir`; ModelScope's cache (`MODELSCOPE_CACHE`, `~/.cache/modelscope`, the folders above
    `model_dir`) in its old and new layouts; on the `classroom` profile, the model that ships with the course.
    A folder that the reader named with `TUTORIAL_MODEL_DIR` and that holds files is taken, or refused, alone.

    Raises:
        ModelError: there is no whole model; the message says where it looked and what is wrong there.
    """
    places, also = [profile.model_dir], ""
    if not (environ.get("TUTORIAL_MODEL_DIR") and entries(profile.model_dir)):
        places += _cached(profile, environ)
        also = f"；ModelScope 的缓存 {_cache_roots(profile, environ)[0]}，和 {profile.model_dir} 的上级文件夹"
        places += [CLASSROOM_MODEL_DIR] if profile.name == "classroom" else []
    problems = []
    for place in dict.fromkeys(places):
        try:
            return check_model(place).path
        except ModelError as error:
            problems += [f"\n{error}"] if entries(place) else []
    fix = "".join(problems) or f"\n{FIX}"
    raise ModelError(f"没有找到完整的模型 {profile.model_id}。找过：{profile.model_dir}{also}。{fix}")


def explain_download_error(error: BaseException) -> str:
    """Say in one or two sentences what stopped `snapshot_download` and what to do; its tracebacks have 40 to 100 lines.

    ModelScope collects the errors of single files in `failed_files`; the first one is explained.
    """
    failed = getattr(error, "failed_files", None) or {}
    file, cause = next(iter(failed.items()), ("", error))
    text, kind = str(cause).splitlines()[0] if str(cause) else "", type(cause).__name__
    if getattr(cause, "errno", None) == errno.ENOSPC:
        return f"磁盘满了，{file or '模型'} 没有下完。用 df -h 看剩余空间，把模型放到数据盘上，再运行一次：会接着下。"
    if kind in ("FileIntegrityError", "FileSizeMismatchError"):
        return f"{file} 校验不对：收到的内容和服务器公布的 SHA-256 或大小不一致，坏文件已经丢掉。请再运行一次。"
    if kind == "CacheNotFound":
        return "本地没有这个模型，而 local_files_only=True 不许联网。去掉它再运行一次，或检查 cache_dir、local_dir。"
    if kind in ("HTTPError", "NotExistError"):
        return f"服务器说没有这个模型、版本或文件，或没有权限。请核对模型名（<owner>/<name>）和 revision。原话：{text}"
    if isinstance(cause, (ConnectionError, TimeoutError)):
        address = re.search(r"host='([^']+)', port=(\d+)", text)
        hub = "{}:{}".format(*address.groups()) if address else "下载服务器"
        return f"连不上 {hub}。请检查网络、代理和 MODELSCOPE_ENDPOINT，再运行一次：会接着下。"
    return f"下载失败（{kind}）：{text}"


def _cache_roots(profile: Profile, environ: Mapping[str, str]) -> list[Path]:
    root = Path(environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope").expanduser()
    return [root, *profile.model_dir.parents[:3]]  # `cache_dir=` is often one of the folders above model_dir


def _cached(profile: Profile, environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the folders in which SDKs of today (1.38 and later) and of before keep this model."""
    owner, _, name = profile.model_id.partition("/")
    for root in _cache_roots(profile, environ):
        snapshots = entries(root / "models" / f"{owner}--{name}" / "snapshots")
        yield from sorted(snapshots, key=lambda folder: folder.name not in ("master", "main"))
        for below in (root, root / "models", root / "hub", root / "hub" / "models"):
            yield from (below / owner / name, below / owner / name.replace(".", "___"))  # old SDKs wrote no dots
