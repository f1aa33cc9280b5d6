"""One `vllm serve` of our own: claim the port, launch it under a keeper, wait until it answers, stop all of it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import httpx
from filelock import Timeout
from tqdm import tqdm

from helpers.config import REPO_ROOT, bin_first, no_proxy_for
from helpers.errors import ServerError
from helpers.machine import free_port, port_is_free, port_owner
from helpers.server import log as server_log
from helpers.server import state as states
from helpers.server.base import Server
from helpers.server.command import LOOPBACK, ServeCommand, readable
from helpers.server.state import STOP_TIMEOUT_S, Ident, State, StateFile, ident, living, members, start_keeper

__all__ = ["VLLMServer", "unexpected_end"]

LOG_DIR = REPO_ROOT / "build" / "logs"
POLL_S = 0.25
START_ABORT_S = 5.0  # a server that is still loading has nothing to finish
LOG_LINES = 12


class VLLMServer(Server):
    """One `vllm serve`: start it or attach to it, wait until it answers, stop it with everything it started.

    Args:
        command: the argv list, as `serve_command` returns it; host, port, model and name are read out of it.
        log_file: where its output goes; default `build/logs/server-<port>.log`.
        env: environment variables to add to this process's own, for example `profile.engine_env`.
        ready_timeout_s: longest wait for readiness, in seconds.
        api_key: the key that `/v1` will ask for; default: `VLLM_API_KEY` of the environment. Never in the command.
        expose: must be True for a `--host` other than 127.0.0.1, and then a key is needed.

    Attributes:
        base_url: `http://127.0.0.1:<port>`, without `/v1`.
        api_key: the key to call it with; `sk-xxx` where it asks for none, since clients insist on one.
        attached: True when `start` found the server already running.
        pid: process id of `vllm serve`; None when it does not run or is not of this course.
        ready_after_s: seconds from `start` to the first good answer; 0 when attached.

    Raises:
        ServerError: the command cannot be used; the message names the part and what is needed.
    """

    remote = False

    def __init__(
        self,
        command: Sequence[str],
        *,
        log_file: Path | None = None,
        env: Mapping[str, str] | None = None,
        ready_timeout_s: float = 600.0,
        api_key: str | None = None,
        expose: bool = False,
    ) -> None:
        self.command = ServeCommand(command)
        self.host, self.port = self.command.host, self.command.port
        self.env = dict(os.environ) | dict(env or {}) | ({"VLLM_API_KEY": api_key} if api_key else {})
        if self.host not in LOOPBACK and not (expose and self.env.get("VLLM_API_KEY")):
            raise ServerError(
                f"--host {self.host} 会让别的机器也能访问这个服务器。只给自己用，请写 --host 127.0.0.1；"
                "确实要对外，请同时给 expose=True 和 api_key=。"
            )
        self.base_url = f"http://{'127.0.0.1' if self.host in ('0.0.0.0', *LOOPBACK) else self.host}:{self.port}"
        self.api_key = self.env.get("VLLM_API_KEY") or "sk-xxx"
        self.log_file = Path(log_file or LOG_DIR / f"server-{self.port}.log")
        if not ready_timeout_s > 0:
            raise ServerError(f"ready_timeout_s 要大于 0（秒），现在是 {ready_timeout_s!r}。")
        self.ready_timeout_s = ready_timeout_s
        self.ready_after_s = 0.0
        self.attached = False
        self.state_file = StateFile(states.STATE_DIR / f"{self.port}.json")
        self._foreign = False

    def __repr__(self) -> str:
        return f"VLLMServer({self.command.name!r}, {self.base_url})"

    @property
    def pid(self) -> int | None:
        state = self.state_file.living()
        return state.pid if state else None

    def log_tail(self, *, lines: int = 20) -> str:
        """The last `lines` lines of the server's log; empty when there is no log."""
        return server_log.tail(self.log_file, lines=lines)

    def start(self) -> Self:
        """Start the server, or attach to one that already serves the same model here, and wait until it answers.

        Raises:
            ServerError: it did not become ready; the message says why, shows the log's end and names the next step.
                Nothing is left running. KeyboardInterrupt also ends what was started.
        """
        deadline = time.monotonic() + self.ready_timeout_s
        try:
            self.state_file.path.parent.mkdir(parents=True, exist_ok=True)
            with self.state_file.locked(timeout_s=self.ready_timeout_s):  # held while another notebook starts it
                if not self._attach():
                    self._launch(deadline)
        except Timeout:
            raise ServerError(f"等了 {self.ready_timeout_s:g} 秒，另一个笔记本还没有启动完这个服务器。") from None
        except OSError as error:
            raise ServerError(f"写不了文件 {error.filename}：{error.strerror}。请检查路径、权限和剩余空间。") from error
        return self

    def stop(self, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the server: TERM, up to `timeout_s` seconds of waiting, then KILL. Calling it again does nothing.

        A server that this course did not start, or that another notebook still uses, is left alone.
        """
        if self._foreign:
            print(f"{self.base_url} 上的服务器不是本课程启动的，没有停它。")
            return
        if not self.state_file.path.exists():
            print(f"{self.base_url} 上没有本课程的服务器在运行。")
            return
        with self.state_file.locked():
            if self._leave_to_others():
                return
            self.state_file.end(timeout_s=timeout_s)
        print(f"服务器已停止，端口 {self.port} 已空出。")

    def hand_over(self, user: Ident) -> None:
        """Let the server run for as long as `user` lives, instead of this process."""
        with self.state_file.locked():
            state = self.state_file.read()
            if state is None:
                raise ServerError(f"{self.base_url} 上的服务器已经结束了，日志在 {self.log_file}。")
            self.state_file.write(replace(state, users=[user]))

    def _leave_to_others(self) -> bool:
        """Give up our use of a server that other notebooks use too; False when it is nobody's but ours."""
        state = self.state_file.read()
        if state is None:
            return False
        if state.exit_code is not None:
            print(unexpected_end(state))
            return False
        others = [user for user in state.users if user != ident() and living(user)]
        if others:
            self.state_file.write(replace(state, users=others))
            print(f"还有别的笔记本在用这个服务器（pid {', '.join(str(pid) for pid, _ in others)}），先不停它。")
        return bool(others)

    def _attach(self) -> bool:
        """Join the server that runs already; clear away what a dead one left; False when the port is free."""
        state = self.state_file.read()
        if port_is_free(self.port, host=self.host):
            if state:  # it died, or its kernel did while it was loading
                print(unexpected_end(state))
                self.state_file.end(timeout_s=0)
            return False
        served = self._served()
        names = {str(card.get("id")): str(card.get("root")) for card in served}
        if not _same_path(names.get(self.command.name), self.command.model):
            raise ServerError(_port_taken(self.port, names, ours=self.pid is not None))
        self.attached, self.ready_after_s, self._foreign = True, 0.0, state is None
        print(f"{self.base_url} 上已经有这个模型的服务器在运行，直接使用。")
        if state:
            self.log_file = Path(state.log)
            self.state_file.write(replace(state, users=[*{*state.users, ident()}]))
            if state.command[1:] != self.command.words[1:]:
                print(f"注意：它启动时用的命令不同：\n{readable(state.command)}\n要用新的参数，请先停掉它，再启动。")
        return True

    def _launch(self, deadline: float) -> None:
        program = self.command.program(offline=self.env.get("HF_HUB_OFFLINE") == "1")
        env = self.env | bin_first(self.env) | no_proxy_for(self.env, *LOOPBACK) | {"PYTHONUNBUFFERED": "1"}
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        print(readable(self.command.words))
        if self.host not in LOOPBACK:
            print("注意：密钥只保护 /v1 下的接口。/invocations（也能推理）、/metrics、/tokenize 不要密钥，谁都能用。")
        began = time.monotonic()
        self.state_file.write(State(self.port, self.command.model, program, str(self.log_file), [ident()]))
        with self.log_file.open("wb") as log:
            keeper = start_keeper(self.state_file.path, env=env, log=log.fileno())
        try:
            self._wait(keeper, deadline)
            if state := self.state_file.read():
                known = [(member.pid, member.create_time()) for member in members(state)]
                self.state_file.write(replace(state, processes=[*dict.fromkeys([*state.processes, *known])]))
        except BaseException:
            state = self.state_file.read()
            if state and not state.processes and keeper.poll() is None:  # it has not come to write its own file yet
                self.state_file.write(replace(state, processes=[ident(keeper.pid)]))
            self.state_file.end(timeout_s=START_ABORT_S)
            keeper.wait()
            raise
        self.attached, self._foreign, self.ready_after_s = False, False, time.monotonic() - began

    def _wait(self, keeper: subprocess.Popen[bytes], deadline: float) -> None:
        with tqdm(bar_format="{elapsed} {desc}", file=sys.stdout) as bar:
            while time.monotonic() < deadline:
                bar.set_description_str(server_log.phase(server_log.tail(self.log_file)))
                if keeper.poll() is not None:
                    raise ServerError(self._why(f"服务器启动时退出了（退出码 {keeper.returncode}）。"))
                if self._healthy():
                    bar.set_description_str(f"就绪：{self.base_url}")
                    return
                time.sleep(POLL_S)
        raise ServerError(self._why(f"等了 {self.ready_timeout_s:g} 秒，服务器还没有就绪，已经停掉。"))

    def _why(self, what: str) -> str:
        known = server_log.diagnose(server_log.tail(self.log_file))
        reason, todo = known or ("", "看日志里第一个 Error；机器慢的话，把 ready_timeout_s 调大再试。")
        return f"{what}{reason}\n下一步：{todo}\n日志 {self.log_file} 的最后几行：\n{self.log_tail(lines=LOG_LINES)}"

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.base_url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _served(self) -> list[dict[str, object]]:
        try:
            answer = httpx.get(f"{self.base_url}/v1/models", headers=self.headers, timeout=5, trust_env=False)
            return [card for card in answer.json()["data"] if isinstance(card, dict)]
        except (httpx.HTTPError, ValueError, TypeError, LookupError):
            return []


def _same_path(root: str | None, model: str) -> bool:
    return root is not None and (root == model or Path(root).resolve() == Path(model).resolve())


def _port_taken(port: int, names: Mapping[str, str], *, ours: bool) -> str:
    owner = port_owner(port)
    who = "一个查不到的进程（可能属于别的用户，或者还在启动）"
    if owner:
        who = f"pid {owner.pid}（{shlex.join(owner.cmdline())[:100]}）"
    models = "、".join(f"{name}（{root}）" for name, root in names.items())
    what = f"，它是一个服务器，模型是 {models}" if models else ""
    end = "python -m helpers.server stop" if ours else f"kill {owner.pid}" if owner else "结束那个进程"
    return f"端口 {port} 已被占用：{who}{what}。\n下一步：换一个端口，例如 {free_port(port)}；或者先停掉它：{end}"


def unexpected_end(state: State) -> str:
    code = state.exit_code
    how = "" if code is None else f"（被信号 {-code} 杀死）" if code < 0 else f"（退出码 {code}）"
    return f"端口 {state.port} 上原来的服务器意外结束了{how}，日志在 {state.log}。残留的进程会一并清理。"
