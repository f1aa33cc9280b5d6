"""Is a model folder whole? Read from file names, JSON and safetensors headers alone: no torch, no weights in memory."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import ModelError

__all__ = ["FIX", "LEFTOVER", "ModelFiles", "check_model", "entries", "read_json", "snapshots"]

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
FIX = "请重新运行 02 号笔记本的下载单元格：已经下好的文件不会重下，缺的、坏的会补上。"
# What download programs keep while a file is not whole. A `.lock` means no such thing: it stays for ever. Of endings
# that other programs use too, only those behind the name of a model's file count.
OWN = r".*\.(incomplete|parallel_tmp|\w+_\d+_\d+)"  # ModelScope's; a part of a large file: `name_<first>_<last byte>`
OTHERS = (
    r".*\.(aria2(__temp)?|lftp-pget-status|filepart|partial|part\d*|crdownload|opdownload|fdmdownload|downloading"
    r"|unfinished|!\w+|[bj]c!|(xl)?td(\.cfg)?)"  # from browsers, BitTorrent and Xunlei
    r"|.+\.(safetensors|json|jinja|bin|txt|model)\.(tmp|temp|download|st)|\..+\.(safetensors|json)\.\w{6}"  # rsync
)
LEFTOVER = re.compile(f"{OWN}|{OTHERS}", re.IGNORECASE)


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
        raise ModelError(_dead_link(path) or f"没有模型文件夹 {path}。{FIX}")
    for file in entries(path):
        if LEFTOVER.fullmatch(file.name):
            own = re.fullmatch(OWN, file.name, re.IGNORECASE)
            fix = (
                f"{FIX}要是补完后它还在，就删掉它。"
                if own
                else f"下一步：让那个程序下完，或删掉它和同名的模型文件。{FIX}"
            )
            raise ModelError(f"{file} 是没下完的临时文件{'' if own else '：同名的文件大小对了，里面也可能有洞'}。{fix}")
    if not entries(path):
        raise ModelError(f"文件夹 {path} 是空的，什么也没有下到。下一步：核对模型名、版本和 MODELSCOPE_ENDPOINT。{FIX}")
    if not (path / "config.json").exists() and (inside := snapshots(path)):
        raise ModelError(f"{path} 是缓存的上层文件夹，模型在它下面。下一步：改用 {inside[0]}。")
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
        broken = f"权重文件 {file} 是空的或坏了（{size} 字节，读不出 safetensors 文件头）。{FIX}"
        raise ModelError(_something_else(file) or broken) from None
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
        raise ModelError(_something_else(file) or f"{file} 不是完整的 JSON。{FIX}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file} 里应是一个 JSON 对象。{FIX}")
    return content


def _cannot_read(file: Path, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError(_dead_link(file) or f"缺文件 {file}。{FIX}")
    return ModelError(f"读不了 {file}（{error.strerror or error}）。下一步：检查它的权限和磁盘，或者删掉它。{FIX}")


def _dead_link(path: Path) -> str:
    """What to say of a link to something that is gone; empty: it is none."""
    try:
        target = os.readlink(path)
    except (OSError, ValueError):
        return ""
    return f"{path} 是失效的链接：它指的 {target} 不在了（复制缓存时，链接指的文件也要复制：cp -rL）。{FIX}"


def _something_else(file: Path) -> str:
    """What to say of a file that is not even the right kind of file; empty: nothing is known."""
    with file.open("rb") as stream:
        start = stream.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return (
            f"{file} 只是 git-lfs 的指针，不是文件本身（git clone 时没有装 git-lfs）。下一步：git lfs pull，或者：{FIX}"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"{file} 是一个网页，不是模型文件（比如要登录的网页）。下一步：删掉它。{FIX}"
    return ""


def snapshots(folder: Path) -> list[Path]:
    """Return the revisions in a cache folder of ModelScope or Hugging Face: `main` or `master`, then the newest."""
    main = ""
    for name in ("main", "master"):
        with suppress(OSError, ValueError):
            main = main or (folder / "refs" / name).read_text(encoding="utf-8").strip()
    found = [place for place in entries(folder / "snapshots") if place.is_dir()]
    found.sort(key=lambda place: -place.stat().st_mtime)
    return sorted(found, key=lambda place: place.name not in (main, "master", "main"))


def entries(folder: Path) -> list[Path]:
    """Return the sorted content of a folder; nothing if it is missing, unreadable or no folder."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []
