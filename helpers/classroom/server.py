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
from collections.abc import Callable, Sequence
from contextlib import suppress

import httpx
import psutil
from filelock import Timeout

from helpers.classroom.keys import COMMAND, add_keys, read_keys, write_conf, write_map
from helpers.config import REPO_ROOT, get_profile
from helpers.errors import ServerError, TutorialError
from helpers.machine import free_port, lan_address, port_is_free
from helpers.models import find_model
from helpers.server import VLLMServer, serve_command
from helpers.server import log as server_log
from helpers.server.state import State, StateFile, start_keeper, state_files

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
    front = _front()
    try:
        with front.locked(timeout_s=0):
            if front.living():
                raise ServerError(f"班级服务器已经在运行。要换设置，先停掉它：{COMMAND} stop")
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
    front = _front()
    state = front.read()
    if state is None:
        return False
    engines = _engines(state)
    front.end(timeout_s=NGINX_TIMEOUT_S)
    for file, _ in engines:
        with file.locked():  # its keeper may be ending it by now: wait for that
            file.end()
    return True


def reload() -> str:
    """Take over the keys file: from now on a removed key gets 401. Answers under way are finished.

    Returns:
        What has changed, one sentence for the instructor.

    Raises:
        ServerError: the file cannot be used, or there is no class server.
    """
    state = _front().living()
    if state is None:
        raise ServerError(f"班级服务器没有在运行。启动它：{COMMAND} start --host 0.0.0.0")
    new, gone = write_map(CLASS_DIR)
    nginx = psutil.Process(state.pid)
    old = _workers(nginx)
    nginx.send_signal(signal.SIGHUP)
    if not _until(lambda: not old & _workers(nginx)):
        raise ServerError(f"nginx 没有接受新的密钥。请看日志 {state.log}。")
    changes = [f"{word} {'、'.join(names)}" for word, names in (("新增", new), ("作废", gone)) if names]
    return f"{'；'.join(changes) or '密钥没有变化'}。现在认 {len(read_keys(CLASS_DIR))} 个密钥。"


def _front() -> StateFile:
    return StateFile(CLASS_DIR / "nginx.json")


def _engines(front: State) -> list[tuple[StateFile, State]]:
    """The vLLM behind this nginx, in a list: it may be gone."""
    known = [(file, engine) for file in state_files() if (engine := file.read())]
    return [(file, engine) for file, engine in known if (engine.pid, engine.create_time) in front.users]


def _start(nginx: str, host: str, port: int) -> None:
    profile = get_profile()
    command = serve_command(profile, find_model(profile), port=free_port(port + 1))
    key, env = secrets.token_urlsafe(32), {**profile.engine_env, **ENGINE_LIMITS}
    vllm = VLLMServer(command, env=env, api_key=key, log_file=CLASS_DIR / "vllm.log").start()
    front, log_file, keeper = _front(), CLASS_DIR / "nginx.log", None
    try:
        write_conf(CLASS_DIR, host=host, port=port, upstream_port=vllm.port, upstream_key=key)
        engine = vllm.state_file.living()
        if engine is None:
            raise ServerError(f"vLLM 刚启动就结束了。请看日志 {vllm.log_file}。")
        users = [(engine.pid, engine.create_time)]  # nginx ends when vLLM does …
        argv = [nginx, "-p", str(CLASS_DIR), "-c", "nginx.conf"]
        front.write(State(port, engine.model, argv, str(log_file), users))
        with log_file.open("wb") as log:
            keeper = start_keeper(front.path, env=dict(os.environ), log=log.fileno())
        _wait(keeper, f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/health")
        state = front.living()
        if state is None:
            raise ServerError(f"nginx 刚启动就结束了。请看日志 {log_file}。")
        vllm.hand_over((state.pid, state.create_time))  # … and vLLM when nginx does
    except BaseException:
        if keeper:
            keeper.terminate()
            keeper.wait()
        front.path.unlink(missing_ok=True)
        vllm.stop()
        raise


def _until(done: Callable[[], bool]) -> bool:
    """Wait for nginx; False after `NGINX_TIMEOUT_S` seconds."""
    deadline = time.monotonic() + NGINX_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _workers(nginx: psutil.Process) -> set[int]:
    """The workers that take new requests; one that is only finishing old ones says so in its title."""
    found = psutil.process_iter(["ppid", "cmdline"])
    return {p.pid for p in found if p.info["ppid"] == nginx.pid and "shutting down" not in str(p.info["cmdline"])}


def _wait(keeper: subprocess.Popen[bytes], url: str) -> None:
    def answers() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK
        return False

    _until(lambda: keeper.poll() is not None or answers())
    if keeper.poll() is not None or not answers():
        raise ServerError(f"nginx 没有启动起来。它的日志：\n{server_log.tail(CLASS_DIR / 'nginx.log', lines=5)}")


def _whole(low: int, high: int) -> Callable[[str], int]:
    """A type for argparse: a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and low <= int(text[:9]) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"要 {low} 到 {high} 之间的整数，现在是 {text[:20]!r}")

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.classroom.server", description="一个 vLLM 服务器，全班一起用"
    )
    actions = parser.add_subparsers(dest="action", required=True)
    keys = actions.add_parser("keys", help="再给 N 个学员生成密钥，一人一个")
    keys.add_argument("count", type=_whole(1, 500), metavar="N")
    starting = actions.add_parser("start", help="启动 vLLM 和它前面的 nginx")
    starting.add_argument("--host", type=ipaddress.IPv4Address, default="127.0.0.1", help="0.0.0.0：局域网里都能访问")
    starting.add_argument("--port", type=_whole(1024, 65534), default=6006, metavar="PORT")
    for action, says in {"reload": "密钥文件改过了，让它生效", "status": "查看", "stop": "停止"}.items():
        actions.add_parser(action, help=says)
    chosen = parser.parse_args(arguments)
    try:
        match chosen.action:
            case "keys":
                _hand_out(chosen.count)
            case "start":
                start(host=str(chosen.host), port=chosen.port)
                print(_describe())
            case "reload":
                print(reload())
            case "status":
                print(_describe())
            case "stop":
                print("班级服务器已停止。" if stop() else "没有班级服务器在运行。")
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _hand_out(count: int) -> None:
    for name, key in add_keys(CLASS_DIR, count).items():
        print(name, key)
    if _front().living():
        reload()


def _describe() -> str:
    state = _front().living()
    listening = psutil.Process(state.pid).net_connections("tcp") if state else []
    address = next((c.laddr for c in listening if c.status == psutil.CONN_LISTEN), None)
    if state is None:
        return f"没有班级服务器在运行。以前的日志在 {CLASS_DIR}。"
    if address is None:  # it is just starting or ending
        return (
            f"班级服务器的 nginx（pid {state.pid}）在运行，但没有在听端口。过几秒再看；还是这样，就看日志 {state.log}。"
        )
    inner = "".join(
        f"它后面的 vLLM 在 127.0.0.1:{engine.port}：只有这台机器上的人连得到，可那里有的接口不要密钥。\n"
        for _, engine in _engines(state)
    )
    plain = "" if address.ip == "127.0.0.1" else "注意：密钥和内容在网络上不加密，只在信得过的局域网里用。\n"
    anywhere = address.ip == "0.0.0.0"
    return (
        f"班级服务器在运行，认 {len(read_keys(CLASS_DIR))} 个密钥。密钥和日志在 {CLASS_DIR}。\n{inner}{plain}"
        f"学员设这两个变量{'（连不上这个地址，就换 hostname -I 列出的别的地址）' if anywhere else ''}：\n"
        f"export TUTORIAL_BASE_URL=http://{lan_address() if anywhere else address.ip}:{address.port}\n"
        "export TUTORIAL_API_KEY=自己的密钥"
    )


if __name__ == "__main__":
    sys.exit(main())
