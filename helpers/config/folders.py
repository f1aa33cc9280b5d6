"""The folders of the course, and the one that the reader names."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from helpers.errors import ConfigError

__all__ = ["AUTODL_DATA_DISK", "CLASSROOM_MODEL_DIR", "REPO_ROOT", "in_wsl", "named_folder"]

REPO_ROOT = Path(__file__).resolve().parents[2]
CLASSROOM_MODEL_DIR = REPO_ROOT / "helpers" / "classroom" / "model"
AUTODL_DATA_DISK = Path("/root/autodl-tmp")


def in_wsl() -> bool:
    """Whether this is Linux inside Windows, found out as vLLM does."""
    return "microsoft" in platform.release().lower()


def named_folder(text: str, environ: Mapping[str, str]) -> Path:
    """The folder that `TUTORIAL_MODEL_DIR` means: `~`, `$HOME`, a Windows path on WSL and Hugging Face's cache too."""
    windows = re.fullmatch(r"([A-Za-z]):[\\/](.*)", text)
    if windows and in_wsl():
        text = f"/mnt/{windows[1].lower()}/" + windows[2].replace("\\", "/")
    elif windows or text.startswith("\\\\"):
        raise ConfigError(f"TUTORIAL_MODEL_DIR={text!r}：这是 Windows 的路径，这里要 Linux 的，例如 /data/models/r1")
    try:
        path = REPO_ROOT / Path(Template(text).safe_substitute(os.environ | dict(environ))).expanduser()
    except RuntimeError:
        raise ConfigError(f"TUTORIAL_MODEL_DIR={text!r}：没有这个用户的文件夹，请写完整的路径") from None
    if os.path.isfile(path):
        raise ConfigError(f"TUTORIAL_MODEL_DIR={text!r}：这是一个文件，要写它所在的文件夹：{path.parent}")
    snapshots = sorted(path.glob("snapshots/*")) if path.name.startswith("models--") else []
    return snapshots[0] if len(snapshots) == 1 else path
