"""One `vllm serve` of our own: claim the port, launch it under a keeper, wait until it answers, stop all of it."""

from __future__ import annotations

import os
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

from helpers.config import bin_first, no_proxy_for
from helpers.errors import ServerError
from helpers.machine import port_is_free
from helpers.server import log as server_log
from helpers.server import state as states
from helpers.server.base import Server
from helpers.server.command import LOOPBACK, ServeCommand, readable
from helpers.server.neighbour import Refusal, listens, refusal
from helpers.server.startup import OPEN_PATHS, new_log, why
from helpers.server.state import STOP_TIMEOUT_S, Ident, State, StateFile, ident, members, start_keeper

__all__ = ["VLLMServer"]

POLL_S = 0.25
START_ABORT_S = 5.0  # a server that is still loading has nothing to finish


class VLLMServer(Server):
    """One `vllm serve`: start it or attach to it, wait until it answers, stop it with everything it started.

    Args:
        command: the argv list, as `serve_command` returns it; host, port, model and name are read out of it.
        log_file: where its output goes; default `build/logs/server-<port>-<time>.log`, the last few of which are kept.
        env: environment variables to add to this process's own, for example `profile.engine_env`.
        ready_timeout_s: longest wait for readiness, in seconds.
        api_key: the key that clients must bring; default: `VLLM_API_KEY` of the environment. Never in the command.
        expose: must be True for a `--host` other than 127.0.0.1, and then a key is needed.

    Attributes:
        port, base_url: where it listens, `base_url` without `/v1`; `start` may have to take a later port.
        api_key: the key to call it with; `sk-xxx` where it asks for none, since clients insist on one.
        attached: True when `start` found the server already running.
        pid: process id of `vllm serve`; None when it does not run or is not of this course.
        ready_after_s: seconds from `start` to the first 200 of `/health`; 0 when attached.

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
        self.host = self.command.host
        if self.command.holds_key:
            raise ServerError(
                "不要把密钥写进命令：ps 会让同一台机器上的人都看到。请用 api_key= 或环境变量 VLLM_API_KEY。"
            )
        self.env = dict(os.environ) | dict(env or {}) | ({"VLLM_API_KEY": api_key} if api_key else {})
        if self.host not in LOOPBACK and not (expose and self.env.get("VLLM_API_KEY")):
            raise ServerError(
                f"--host {self.host} 会让别的机器也能访问这个服务器。只给自己用，请写 --host 127.0.0.1；"
                "确实要对外，请同时给 expose=True 和 api_key=。"
            )
        self._key = self.env.get("VLLM_API_KEY", "")
        self._key_was_there = not api_key and os.environ.get("VLLM_API_KEY") == self._key != ""
        self.api_key = self._key or "sk-xxx"
        self._log_is_named = log_file is not None
        self.log_file = Path(log_file or os.devnull)
        if not ready_timeout_s > 0:
            raise ServerError(f"ready_timeout_s 要大于 0（秒），现在是 {ready_timeout_s!r}。")
        self.ready_timeout_s = ready_timeout_s
        self.ready_after_s = 0.0
        self.attached = False
        self._foreign = False
        self._passed: Refusal | None = None
        self._listen_on(self.command.port)

    def _listen_on(self, port: int) -> None:
        self.command, self.port = self.command.at_port(port), port
        self.base_url = f"http://{'127.0.0.1' if self.host in ('0.0.0.0', *LOOPBACK) else self.host}:{port}"
        self.state_file = StateFile(states.STATE_DIR / f"{port}.json")

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
        """Start the server, or join one that already serves the same here, and wait until `/health` gives 200.

        Where something else holds the port, take the next one, and say so.

        Raises:
            ServerError: it did not become ready; the message says why, shows the log's end and names the next step.
                Nothing is left running. KeyboardInterrupt also ends what was started.
        """
        deadline = time.monotonic() + self.ready_timeout_s
        try:
            self.state_file.path.parent.mkdir(parents=True, exist_ok=True)
            while refused := self._start_here(deadline):
                self._passed = refused if refused.stop else self._passed
                print(f"端口 {self.port} {refused.why}，改用 {self.port + 1}。")
                self._listen_on(self.port + 1)
        except Timeout:
            raise ServerError(f"等了 {self.ready_timeout_s:g} 秒，另一个笔记本还没有启动完这个服务器。") from None
        except OSError as error:
            raise ServerError(f"写不了文件 {error.filename}：{error.strerror}。请检查路径、权限和剩余空间。") from error
        return self

    def _start_here(self, deadline: float) -> Refusal | None:
        """Join what runs on the port, or launch; or say why not."""
        with self.state_file.locked_patiently(timeout_s=self.ready_timeout_s):
            state = self.state_file.cleared(listening=not port_is_free(self.port, host=self.host))
            if not port_is_free(self.port, host=self.host):
                refused = refusal(self.command, state, base_url=self.base_url, key=self._key)
                outdated = refused or (state and state.command[1:] != self.command.words[1:])
                if not (state and outdated and not state.others()):  # nobody but this kernel uses it
                    if not refused:
                        self._join(state)
                    return refused
                self._program()  # or there would be no server at all
                print("这个笔记本先前启动的服务器，参数或密钥和现在的不同：先停掉它。")
                self.state_file.end()
            try:
                self._launch(deadline)
            except ServerError:
                if port_is_free(self.port, host=self.host):
                    raise
                return Refusal("在启动的时候被别的程序占了")
        return None

    def _program(self) -> list[str]:
        return self.command.program(offline=self.env.get("HF_HUB_OFFLINE") == "1")

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
            print(state.ending())
            return False
        others = state.others()
        if others:
            self.state_file.write(replace(state, users=others))
            print(f"还有别的笔记本在用这个服务器（pid {', '.join(str(pid) for pid, _ in others)}），先不停它。")
        return bool(others)

    def _join(self, state: State | None) -> None:
        self.attached, self.ready_after_s, self._foreign = True, 0.0, state is None
        print(f"{self.base_url} 上已经有这个模型的服务器在运行，直接使用。")
        if state:
            self.log_file = Path(state.log)
            if state.others():
                print("别的笔记本也在用它。08 正在测速的话，等它测完，再往下做。")
            self.state_file.write(replace(state, users=[*{*state.users, ident()}]))
            if state.command[1:] != self.command.words[1:]:
                print(f"注意：它启动时用的命令不同：\n{readable(state.command)}\n要用新的参数，请先停掉它，再启动。")

    def _launch(self, deadline: float) -> None:
        program = self._program()
        env = self.env | bin_first(self.env) | no_proxy_for(self.env, *LOOPBACK) | {"PYTHONUNBUFFERED": "1"}
        if not self._log_is_named:
            self.log_file = new_log(self.port)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        print(readable(self.command.words))
        if self.host not in LOOPBACK:
            print(OPEN_PATHS)
        if self._key_was_there:
            print("环境变量 VLLM_API_KEY 已经设了，所以这个服务要密钥：不带密钥的请求会得到 401。")
        began = time.monotonic()
        start = State(self.port, self.command.model, program, str(self.log_file), [ident()], keyed=bool(self._key))
        self.state_file.write(start)
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
                    raise ServerError(
                        why(f"服务器启动时退出了（退出码 {keeper.returncode}）。", self.log_file, self._passed)
                    )
                if self._healthy():
                    if not listens(self.state_file.read(), self.port):
                        raise ServerError(f"端口 {self.port} 在启动的时候被别的程序占了。")
                    bar.set_description_str(f"就绪：{self.base_url}")
                    return
                time.sleep(POLL_S)
        what = f"等了 {self.ready_timeout_s:g} 秒，服务器还没有就绪，已经停掉。机器慢就把 ready_timeout_s 调大。"
        raise ServerError(why(what, self.log_file, self._passed))

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.base_url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
