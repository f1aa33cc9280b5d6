"""Read the reader's variables; what cannot be used is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from helpers.errors import ConfigError

__all__ = ["api_key", "base_url", "fraction", "text", "whole_number"]

UNITS = {"": 1, "k": 1000, "K": 1024}  # as vLLM reads numbers


def text(environ: Mapping[str, str], variable: str) -> str:
    """The value without the spaces and the quotes around it, which .env files and copied lines leave there."""
    return environ.get(variable, "").strip().strip("\"'“”‘’").strip()


def base_url(environ: Mapping[str, str]) -> str:
    """`TUTORIAL_BASE_URL` without `/v1`, empty where it is not set."""
    given = text(environ, "TUTORIAL_BASE_URL")
    base = given.rstrip("/").removesuffix("/v1").rstrip("/")
    with suppress(ValueError):
        url = urlsplit(base)
        plain = url.scheme in ("http", "https") and url.hostname and url.netloc.isascii() and "@" not in url.netloc
        if not given or (plain and url.port != 0 and not re.search(r"[\s?#]", base)):
            return base
    raise ConfigError("TUTORIAL_BASE_URL 不是可用的地址：写成 http://10.0.0.5:6006 这样，不带用户名、问号和井号")


def api_key(environ: Mapping[str, str]) -> str:
    """`TUTORIAL_API_KEY`; the message never repeats it."""
    key = text(environ, "TUTORIAL_API_KEY")
    if not re.fullmatch(r"[!-~]*", key):
        raise ConfigError("TUTORIAL_API_KEY 里有空格或者不是英文的字符：请把密钥重新完整地复制一遍")
    return key


def whole_number(environ: Mapping[str, str], variable: str, default: int, *, low: int, high: int) -> int:
    """A whole number between `low` and `high`; `8k` is 8000 and `8K` 8192."""
    given = text(environ, variable)
    found = re.fullmatch(r"([0-9]{1,9})([kK]?)", given)
    value = int(found[1]) * UNITS[found[2]] if found else -1 if given else default
    if not low <= value <= high:
        raise ConfigError(f"{variable}={given!r}：要一个 {low} 到 {high} 之间的整数")
    return value


def fraction(environ: Mapping[str, str], variable: str, default: float) -> float:
    """A number from 0.01 to 1."""
    given = text(environ, variable)
    try:
        value = float(given) if given else default
    except ValueError:
        value = float("nan")
    if not 0.01 <= value <= 1:
        raise ConfigError(f"{variable}={given!r}：要一个 0.01 到 1 之间的数")
    return value
