"""The files of a class server, which only the instructor may read: a key for each learner, and nginx's settings."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import sys
from importlib import resources
from itertools import count, islice
from pathlib import Path
from string import Template

from helpers.errors import ServerError

__all__ = ["COMMAND", "KEYS_FILE", "add_keys", "read_keys", "write_conf", "write_map"]

KEYS_FILE = "keys.txt"
COMMAND = f"{shlex.quote(sys.executable)} -m helpers.classroom.server"  # in any terminal, activated or not


class _Conf(Template):
    delimiter = "%"


def read_keys(folder: Path) -> dict[str, str]:
    """Read `folder`/keys.txt: one `name key` a line; a line that begins with `#` does not count.

    Returns:
        Name → key.

    Raises:
        ServerError: the file cannot be read, or a line cannot be used; the message names the line, not the key.
    """
    file = folder / KEYS_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ServerError(
            f"读不了密钥文件 {file}（{type(error).__name__}）。下一步，生成密钥：{COMMAND} keys 30"
        ) from None
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"([\w.-]{1,40})\s+([A-Za-z0-9_-]{16,80})", line.strip())
        if not found:
            raise ServerError(f"{file} 第 {number} 行不对：一行写“名字 密钥”，密钥是 16 个以上的字母和数字。")
        name, key = found.groups()
        if name in keys or key in keys.values():
            raise ServerError(f"{file} 第 {number} 行的名字或密钥和前面的重复了。")
        keys[name] = key
    return keys


def add_keys(folder: Path, how_many: int) -> dict[str, str]:
    """Add keys for `how_many` more learners to `folder`/keys.txt; return these alone, name → key.

    Raises:
        ServerError: as `read_keys`, where the file exists already.
    """
    file = folder / KEYS_FILE
    taken = read_keys(folder) if file.exists() else {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = islice((name for n in count(1) if (name := f"learner-{n:02d}") not in taken), how_many)
    new = {name: secrets.token_urlsafe(16) for name in names}
    _write(file, "\n".join([*lines, *(f"{name} {key}" for name, key in new.items()), ""]))
    return new


def write_map(folder: Path) -> tuple[list[str], list[str]]:
    """Write the keys as nginx reads them, Authorization header → name.

    Returns:
        The names with a key that was not in the file before, and those with one that is no longer in it.

    Raises:
        ServerError: as `read_keys`.
    """
    file = folder / "learners.conf"
    lines = {f'"~^(?i:Bearer) {key}$" "{name}";\n': name for name, key in read_keys(folder).items()}
    old = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    _write(file, "".join(lines))
    return [name for line, name in lines.items() if line not in old], [
        line.split('"')[3] for line in old if line not in lines
    ]


def write_conf(folder: Path, *, host: str, port: int, upstream_port: int, upstream_key: str) -> None:
    """Write nginx's settings: listen at `host`:`port`, pass on to 127.0.0.1:`upstream_port` with `upstream_key`."""
    conf = _Conf(resources.files("helpers.classroom").joinpath("nginx.conf").read_text(encoding="utf-8"))
    values = {"host": host, "port": port, "upstream_port": upstream_port, "upstream_key": upstream_key}
    _write(folder / "nginx.conf", conf.substitute(values))
    (folder / "tmp").mkdir(exist_ok=True)


def _write(file: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
        new.write(text)
    draft.replace(file)
