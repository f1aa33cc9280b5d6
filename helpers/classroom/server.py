"""One vLLM server for a whole class: nginx in front lets each learner in by a key of their own. For the instructor.

`python -m helpers.classroom.server keys 30` makes keys for thirty learners, `… start --host 0.0.0.0` serves them,
`… reload` takes over an edited keys file, `… status` and `… stop` do what they say. vLLM itself listens on 127.0.0.1,
with a key that nobody sees. The two watch each other: when one ends, for whatever reason, so does the other.
What nginx lets through, and how much of it, stands in `nginx.conf`.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
from filelock import FileLock, Timeout

from helpers.classroom.keys import add_keys, read_keys, write_conf, write_map
from helpers.config import REPO_ROOT, get_profile
from helpers.errors import ServerError, TutorialError
from helpers.machine import free_port, lan_address, port_is_free
from helpers.models import find_model
from helpers.server import VLLMServer, local, serve_command
from helpers.server import log as server_log
from helpers.server import state as processes
from helpers.server.local import end_server
from helpers.server.state import State

__all__ = ["main", "reload", "start", "stop"]

CLASS_DIR = REPO_ROOT / "build" / "class"
SBIN = "/usr/sbin"  # where Debian puts nginx, and what a plain user's PATH lacks
NGINX_TIMEOUT_S = 10.0  # to start, to reload, to stop
# Without these, one request could hold a thousand prompts or ask for thousands of answers, and no limit would see it.
ENGINE_LIMITS = {"VLLM_MAX_COMPLETION_PROMPTS": "8", "VLLM_MAX_N_SEQUENCES": "8"}


def start(*, host: str = "127.0.0.1", port: int = 6006) -> None:
    """Start vLLM and nginx; return once learners can come in at `host`:`port`.

    Raises:
        TutorialError: something is missing, taken or broken; the message says what to do. Nothing is left running.
    """
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{SBIN}")
    if nginx is None:
        raise ServerError("没有找到 nginx。请安装它：sudo apt-get update && sudo apt-get install -y nginx")
    write_map(CLASS_DIR)
    try:
        with FileLock(CLASS_DIR / "start.lock", timeout=0):
            if _living(CLASS_DIR / "nginx.json"):
                raise ServerError("班级服务器已经在运行。要换设置，先停掉它：python -m helpers.classroom.server stop")
            stop()  # what a killed one may have left
            if not port_is_free(port, host=host):
                raise ServerError(
                    f"{host}:{port} 用不了：端口已被占用，或者这台机器没有这个地址。请换一个 --port 或 --host。"
                )
            _start(nginx, host, port)
    except Timeout:
        raise ServerError("另一个 start 还没有做完，请等它结束。") from None


def stop() -> bool:
    """Stop nginx and vLLM, with requests in flight too; False where there was nothing to stop."""
    state = State.read(CLASS_DIR / "nginx.json")
    if state is None:
        return False
    engines = {file: engine for file in local.STATE_DIR.glob("*.json") if (engine := State.read(file))}
    end_server(state, CLASS_DIR / "nginx.json", timeout_s=NGINX_TIMEOUT_S)
    for file, engine in engines.items():
        if (engine.pid, engine.create_time) in state.users:
            with FileLock(file.with_suffix(".lock")):  # its keeper may be ending it by now: wait for that
                end_server(engine, file)
    return True


def reload() -> None:
    """Take over the keys file: from now on a removed key gets 401. Answers under way are finished.

    Raises:
        ServerError: the file cannot be used, or there is no class server.
    """
    write_map(CLASS_DIR)
    state = _living(CLASS_DIR / "nginx.json")
    if state is None:
        raise ServerError("班级服务器没有在运行。启动它：python -m helpers.classroom.server start")
    nginx = psutil.Process(state.pid)
    old = _workers(nginx)
    nginx.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + NGINX_TIMEOUT_S
    while old & _workers(nginx):
        if time.monotonic() > deadline:
            raise ServerError(f"nginx 没有接受新的密钥。请看日志 {state.log}。")
        time.sleep(0.05)


def _start(nginx: str, host: str, port: int) -> None:
    profile = get_profile()
    command = serve_command(profile, find_model(profile), port=free_port(port + 1))
    key, env = secrets.token_urlsafe(32), {**profile.engine_env, **ENGINE_LIMITS}
    vllm = VLLMServer(command, env=env, api_key=key, log_file=CLASS_DIR / "vllm.log").start()
    state_file, log_file, keeper = CLASS_DIR / "nginx.json", CLASS_DIR / "nginx.log", None
    try:
        write_conf(CLASS_DIR, host=host, port=port, upstream_port=vllm.port, upstream_key=key)
        engine = _living(local.STATE_DIR / f"{vllm.port}.json")
        if engine is None:
            raise ServerError(f"vLLM 刚启动就结束了。请看日志 {vllm.log_file}。")
        users = [(engine.pid, engine.create_time)]  # nginx ends when vLLM does …
        argv = [nginx, "-p", str(CLASS_DIR), "-c", "nginx.conf"]
        State(port, engine.model, engine.served_model_name, argv, str(log_file), users).write(state_file)
        with log_file.open("wb") as log:
            keeper = processes.start_keeper(state_file, env=dict(os.environ), log=log.fileno())
        front = _wait(keeper, state_file, f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/health")
        vllm.hand_over((front.pid, front.create_time))  # … and vLLM when nginx does
    except BaseException:
        if keeper:
            keeper.terminate()
            keeper.wait()
        state_file.unlink(missing_ok=True)
        vllm.stop()
        raise


def _workers(nginx: psutil.Process) -> set[int]:
    """The workers that take new requests; one that is only finishing old ones says so in its title."""
    found = psutil.process_iter(["ppid", "cmdline"])
    return {p.pid for p in found if p.info["ppid"] == nginx.pid and "shutting down" not in str(p.info["cmdline"])}


def _living(state_file: Path) -> State | None:
    state = State.read(state_file)
    return state if state and processes.living((state.pid, state.create_time)) else None


def _wait(keeper: subprocess.Popen[bytes], state_file: Path, url: str) -> State:
    deadline = time.monotonic() + NGINX_TIMEOUT_S
    while keeper.poll() is None and time.monotonic() < deadline:
        state = _living(state_file)
        try:
            if state and httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return state
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    log = server_log.tail(state_file.with_suffix(".log"), lines=5)
    raise ServerError(f"nginx 没有启动起来。它的日志：\n{log}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.classroom.server", description="一个 vLLM 服务器，全班一起用"
    )
    actions = parser.add_subparsers(dest="action", required=True)
    keys = actions.add_parser("keys", help="再给 N 个学员生成密钥，一人一个")
    keys.add_argument("count", type=int, choices=range(1, 501), metavar="N")
    starting = actions.add_parser("start", help="启动 vLLM 和它前面的 nginx")
    starting.add_argument("--host", type=ipaddress.IPv4Address, default="127.0.0.1", help="0.0.0.0：局域网里都能访问")
    starting.add_argument("--port", type=int, choices=range(1024, 65535), default=6006, metavar="PORT")
    for action, says in {"reload": "密钥文件改过了，让它生效", "status": "查看", "stop": "停止"}.items():
        actions.add_parser(action, help=says)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.action == "start":
            start(host=str(chosen.host), port=chosen.port)
        elif chosen.action == "stop":
            print("班级服务器已停止。" if stop() else "没有班级服务器在运行。")
        elif chosen.action == "reload":
            reload()
        elif chosen.action == "keys":
            for name, key in add_keys(CLASS_DIR, chosen.count).items():
                print(name, key)
            if _living(CLASS_DIR / "nginx.json"):
                reload()
        if chosen.action in ("start", "status", "reload"):
            print(_describe())
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _describe() -> str:
    state = _living(CLASS_DIR / "nginx.json")
    if state is None:
        return f"没有班级服务器在运行。以前的日志在 {CLASS_DIR}。"
    [(host, port)] = {c.laddr for c in psutil.Process(state.pid).net_connections("tcp") if c.status == "LISTEN"}
    plain = "" if host == "127.0.0.1" else "注意：密钥和内容在网络上不加密，只在信得过的局域网里用。\n"
    return (
        f"班级服务器在运行，认 {len(read_keys(CLASS_DIR))} 个密钥。密钥和日志在 {CLASS_DIR}。\n{plain}"
        "学员设这两个变量：\n"
        f"export TUTORIAL_BASE_URL=http://{lan_address() if host == '0.0.0.0' else host}:{port}\n"
        "export TUTORIAL_API_KEY=自己的密钥"
    )


if __name__ == "__main__":
    sys.exit(main())
