"""What listens on a port already: whether a notebook can use it, or else why not."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from helpers.errors import ServerError
from helpers.machine import port_owner
from helpers.server.command import ServeCommand
from helpers.server.state import State, living, members, state_files

__all__ = ["STOP_OURS", "Refusal", "listens", "refusal", "shared_port"]

STOP_OURS = f"{shlex.quote(sys.executable)} -m helpers.server stop"  # in any terminal, activated or not
ANSWER_S = 10.0  # a server under load answers late


@dataclass(frozen=True)
class Refusal:
    """Why what listens on a port cannot be used.

    Attributes:
        why: stands after `端口 8000 `.
        stop: the command that ends it, where it is a model server and so holds memory; else empty.
    """

    why: str
    stop: str = ""


def refusal(wanted: ServeCommand, state: State | None, *, base_url: str, key: str) -> Refusal | None:
    """Say why `wanted` cannot be had from what listens on its port; None: it can.

    Args:
        state: what is known of it, if it is a server of this course.
        key: the key that it must ask for; empty: it must ask for none.
    """
    owner = None if state else port_owner(wanted.port)
    words = state.command if state else _words(owner)
    pid = state.pid if state else owner.pid if owner else 0
    try:
        there = ServeCommand(words)
    except ServerError:
        who = f"pid {pid}，{shlex.join(words)[:60]}" if words else "查不到是哪一个，可能正在启动，或者属于别的用户"
        return Refusal(f"被别的程序占着（{who}）")
    what = _difference(wanted, there) or _key_difference(base_url, key)
    stop = STOP_OURS if state else f"kill {pid}"
    return Refusal(f"上的服务器（pid {pid}）{what}", stop) if what else None


def _words(owner: psutil.Process | None) -> list[str]:
    with suppress(psutil.Error):
        return owner.cmdline() if owner else []
    return []


def _difference(wanted: ServeCommand, there: ServeCommand) -> str:
    if (there.name, Path(there.model).resolve()) != (wanted.name, Path(wanted.model).resolve()):
        return f"是另一个模型：{there.name}（{there.model}）"
    if there.parser != wanted.parser:
        return f"开着推理解析器 {there.parser}" if there.parser else "没有开推理解析器（04 第 2 节手工启动的就是这样）"
    return ""


def _key_difference(base_url: str, key: str) -> str:
    """Ask for the models, without a key and then with ours."""
    open_to_all, lets_us_in = _models(base_url, ""), _models(base_url, key) if key else None
    if open_to_all not in (httpx.codes.OK, httpx.codes.UNAUTHORIZED):
        return "没有像样的回应"
    if not key:
        return "" if open_to_all == httpx.codes.OK else "要密钥，这里没有"
    if open_to_all == httpx.codes.OK:
        return "不要密钥，这里要的是带密钥的"
    return "" if lets_us_in == httpx.codes.OK else "要的是另一个密钥"


def _models(base_url: str, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        return httpx.get(f"{base_url}/v1/models", headers=headers, timeout=ANSWER_S, trust_env=False).status_code
    except httpx.HTTPError:
        return 0


def listens(state: State | None, port: int) -> bool:
    """Whether it is this server that has the port, and not another that came while it was starting."""
    owner = port_owner(port)
    return owner is None or (state is not None and owner in members(state))


def shared_port(wanted: ServeCommand, *, keyed: bool) -> int:
    """The port of a server of this course that does as well as `wanted`, wherever it listens; else the port wanted."""
    ports = []
    for state in filter(None, (file.read() for file in state_files())):
        with suppress(ServerError):
            alike = not _difference(wanted, ServeCommand(state.command))
            if alike and state.keyed == keyed and any(map(living, state.users)):
                ports.append(state.port)
    return wanted.port if wanted.port in ports or not ports else ports[0]
