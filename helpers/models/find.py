"""Where the model lies on this machine. Introduced in notebook 02."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from helpers.config import CLASSROOM_MODEL_DIR, Profile
from helpers.errors import ModelError
from helpers.models.files import FIX, check_model, entries, snapshots

__all__ = ["find_model", "locate"]


def find_model(profile: Profile) -> Path:
    """Find the folder that the engine should load: the first whole one of the places below.

    `profile.model_dir`, or what lies below it as a cache of ModelScope or Hugging Face keeps it; ModelScope's cache
    (`MODELSCOPE_CACHE`, `~/.cache/modelscope`, the folders above `model_dir`) in its old and new layouts; on the
    `classroom` profile, the model that ships with the course. A folder that the reader named with
    `TUTORIAL_MODEL_DIR` and that holds files is taken, or refused, alone; where another one is taken, that is said.

    Raises:
        ModelError: there is no whole model; the message says where it looked and what is wrong there.
    """
    found = locate(profile)
    if profile.model_dir_is_named and found != profile.model_dir:
        why = "里没有完整的模型" if entries(profile.model_dir) else "里没有文件"
        print(f"注意：TUTORIAL_MODEL_DIR 指的文件夹 {profile.model_dir} {why}，现在用的是 {found}。")
    return found


def locate(profile: Profile) -> Path:
    """As `find_model`, without a word."""
    places, also = [profile.model_dir, *_below(profile.model_dir, profile)], ""
    if not (profile.model_dir_is_named and entries(profile.model_dir)):
        places += [place for root in _cache_roots(profile) for place in _below(root, profile)]
        also = f"；ModelScope 的缓存 {_cache_roots(profile)[0]}，和 {profile.model_dir} 的上级文件夹"
        places += [CLASSROOM_MODEL_DIR] if profile.name == "classroom" else []
    problems = []
    for place in dict.fromkeys(places):
        try:
            return check_model(place).path
        except ModelError as error:
            problems += [f"\n{error}"] if entries(place) else []
    fix = "".join(problems) or f"\n{FIX}"
    raise ModelError(f"没有找到完整的模型 {profile.model_id}。找过：{profile.model_dir}{also}。{fix}")


def _cache_roots(profile: Profile) -> list[Path]:
    root = Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope").expanduser()
    return [root, *profile.model_dir.parents[:3]]  # `cache_dir=` is often one of the folders above model_dir


def _below(root: Path, profile: Profile) -> Iterator[Path]:
    """Yield where SDKs of today (ModelScope since 1.38, Hugging Face) and of before keep this model below `root`."""
    owner, _, name = profile.model_id.partition("/")
    yield from snapshots(root)
    for folder in (
        root / "models" / f"{owner}--{name}",
        *(base / f"models--{owner}--{name}" for base in (root, root / "hub")),
    ):
        yield from snapshots(folder)
    for base in (root, root / "models", root / "hub", root / "hub" / "models"):
        yield from (base / owner / name, base / owner / name.replace(".", "___"))  # old SDKs wrote no dots
