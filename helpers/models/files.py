"""Is a model folder whole? Read from file names, JSON and safetensors headers alone: no torch, no weights in memory."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import ModelError

__all__ = ["FIX", "LEFTOVER", "ModelFiles", "check_model", "entries", "read_json"]

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
FIX = "请重新运行 02 号笔记本的下载单元格：已经下好的文件不会重下，缺的、坏的会补上。"
# What ModelScope leaves when it is stopped; the last form is a part of a large file, `name_<first byte>_<last byte>`.
LEFTOVER = re.compile(r".*(\.incomplete|\.parallel_tmp|\.\w+_\d+_\d+)")


@dataclass(frozen=True)
class ModelFiles:
    """What `check_model` counted in a whole model folder.

    Attributes:
        path: the folder.
        weight_files: safetensors files, sorted by name.
        weight_bytes: bytes of all tensors, without the files' headers.
        parameters: numbers stored in all tensors, read from the headers.
    """

    path: Path
    weight_files: tuple[Path, ...]
    weight_bytes: int
    parameters: int


def check_model(path: Path | str) -> ModelFiles:
    """Refuse a model folder that the engine could not load, before the engine sees it.

    Raises:
        ModelError: a file is missing, empty, cut short, unreadable or left over from an unfinished download; the
            message names the file and the fix.
    """
    if not isinstance(path, (str, os.PathLike)) or path == "":
        raise ModelError(f"要一个模型文件夹的路径，收到的是 {path!r}。")
    path = Path(path)
    if not os.path.isdir(path):
        raise ModelError(f"没有模型文件夹 {path}。{FIX}")
    for file in entries(path):
        if LEFTOVER.fullmatch(file.name):
            raise ModelError(f"{file} 是没下完的临时文件。{FIX}要是补完后它还在，就删掉它。")
    read_json(path / "config.json")
    read_json(path / "tokenizer_config.json")
    read_json(path / "tokenizer.json")

    index = path / "model.safetensors.index.json"
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index} 里没有 weight_map。{FIX}")
        weight_files = tuple(path / name for name in sorted({str(name) for name in weight_map.values()}))
    else:
        weight_files = (path / "model.safetensors",)
    counts = [_tensor_counts(file) for file in weight_files]
    return ModelFiles(path, weight_files, sum(c[0] for c in counts), sum(c[1] for c in counts))


def _tensor_counts(file: Path) -> tuple[int, int]:
    """Return bytes and numbers of a file's tensors; its header must agree with its size (format: safetensors docs)."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (header_bytes,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(header_bytes, MAX_HEADER_BYTES)))
        tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
        data_bytes = max(int(tensor["data_offsets"][1]) for tensor in tensors)  # no tensor at all: ValueError
        numbers = sum(math.prod(tensor["shape"]) for tensor in tensors)
    except OSError as error:
        raise _cannot_read(file, error) from None
    except (struct.error, ValueError, AttributeError, LookupError, TypeError):
        raise ModelError(f"权重文件 {file} 是空的或坏了（{size} 字节，读不出 safetensors 文件头）。{FIX}") from None
    if size != 8 + header_bytes + data_bytes:
        raise ModelError(f"权重文件 {file} 大小不对：应有 {8 + header_bytes + data_bytes} 字节，实有 {size}。{FIX}")
    return data_bytes, numbers


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ModelError if it is missing or anything else."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise _cannot_read(file, error) from None
    except (ValueError, RecursionError):
        raise ModelError(f"{file} 不是完整的 JSON。{FIX}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} 里应是一个 JSON 对象。{FIX}")
    return content


def _cannot_read(file: Path, error: OSError) -> ModelError:
    return ModelError(
        f"缺文件 {file}。{FIX}" if isinstance(error, FileNotFoundError) else f"读不了 {file}（{error}）。"
    )


def entries(folder: Path) -> list[Path]:
    """Return the sorted content of a folder; nothing if it is missing, unreadable or no folder."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []
