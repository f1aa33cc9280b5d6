"""Checks of the machine: disk, memory, processor, network settings, port and processes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # missing in typeshed

from helpers.config import REPO_ROOT, no_proxy_for, unusable_proxies
from helpers.doctor.check import PYTHON_HERE, Check, failed, ok, warned
from helpers.models.size import GIB

__all__ = [
    "Listener", "VllmProcess", "check_compiler", "check_cpu", "check_disk",
    "check_leftovers", "check_port", "check_proxy", "check_ram", "check_shm", "looks_like_vllm",
]  # fmt: skip

DISK, PROXY, PORT, SHM, CPU, RAM = "磁盘", "代理", "端口", "共享内存", "CPU", "内存"
COMPILER, LEFTOVERS = "C 编译器", "遗留的 vLLM 进程"
TURBO_PORT: Final = ":12798"  # of the proxy that AutoDL's `source /etc/network_turbo` sets
ENGINE_GIB: Final = 1.2  # measured: server and engine of the classroom model, without the KV cache, at the peak
REAL_ENGINE_GIB: Final = 2.2  # the same of the 1.5B, without its weights too: 6.5 in all
UNREADABLE: Final = re.compile(r"[^!-~]|^(?!\w+://).*\[|:.*/\d")  # in NO_PROXY; httpx then makes no client at all


@dataclass(frozen=True)
class Listener:
    """Who listens on a port; `pid` is None when this user may not see it."""

    pid: int | None
    name: str


@dataclass(frozen=True)
class VllmProcess:
    """A process of vLLM; `owner` is what looks after it: `course`, `keeper`, `notebook`, `terminal` or
    `unknown`; `about` tells it from others: port, folder, age."""

    pid: int
    name: str
    owner: str
    about: str = ""


def check_disk(
    path: Path, *, free_bytes: int, needed_gib: float, data_disk: Path | None, trash: Mapping[Path, int]
) -> Check:
    """Is there room where the model goes, and is that the data disk?

    Args:
        data_disk: AutoDL's, None elsewhere.
        trash: what was deleted in JupyterLab or on the desktop and still lies on that disk: folder → bytes.
    """
    free = free_bytes / GIB
    if free < needed_gib:
        fix = "du -xh --max-depth=2 ~ | sort -h | tail（看看哪里能清理）"
        if data_disk and not path.is_relative_to(data_disk):
            fix = f"export TUTORIAL_MODEL_DIR={data_disk}/models/{path.name}"
        if trash:
            folders = " ".join(shlex.quote(str(folder)) for folder in trash)
            fix = f"回收站里有 {sum(trash.values()) / GIB:.1f} GiB，不要了的话清空它：rm -rf {folders}\n{fix}"
        return failed(DISK, f"{path} 还剩 {free:.1f} GiB，要 {needed_gib:.1f} GiB", fix)
    if data_disk and not path.is_relative_to(data_disk):
        found = f"{path} 在系统盘上（只有 30 GB）；模型应放到数据盘 {data_disk}"
        return warned(DISK, found, f"export TUTORIAL_MODEL_DIR={data_disk}/models/{path.name}")
    return ok(DISK, f"{path} 还剩 {free:.1f} GiB，要 {needed_gib:.1f} GiB")


def check_proxy(environ: Mapping[str, str]) -> Check:
    """Can httpx be used at all, and would a request to localhost or 127.0.0.1 be sent to a proxy?"""
    broken = unusable_proxies(environ)
    if broken:
        found = "；".join(f"{name} {problem}" for name, problem in broken.items())
        return failed(PROXY, f"{found}，httpx 和 OpenAI SDK 连 localhost 也用不了；笔记本里会自己去掉它"
                      "（还要代理的话，改写成 http://主机:端口）", f"unset {' '.join(broken)}")  # fmt: skip
    unread = [entry for entry in re.split(r"[,\s]+", f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}")
              if UNREADABLE.search(entry)]  # fmt: skip
    value = shlex.quote(no_proxy_for(environ, "localhost", "127.0.0.1")["NO_PROXY"])
    mended = f"export NO_PROXY={value} no_proxy={value}"
    if unread:
        found = f"NO_PROXY 里的 {'、'.join(dict.fromkeys(unread))} 让 httpx 和 OpenAI SDK 出错（Invalid port）；"
        return warned(PROXY, f"{found}笔记本会自己去掉它，终端里的程序不会", mended)
    if turbo := _turbo(environ):
        found = "AutoDL 的学术加速（network_turbo）还开着：它只为 GitHub 和 Hugging Face；"
        slow = "魔搭（modelscope.cn）、清华源也走它，会变慢，甚至连不上"
        return warned(PROXY, found + slow, f"unset {' '.join(turbo)}")
    proxies: dict[str, str] = {}
    for name in sorted(environ):  # upper case sorts first, so that lower case wins, as in urllib and curl
        scheme, _, kind = name.lower().rpartition("_")
        if kind == "proxy" and environ[name]:
            proxies[scheme] = environ[name]
    used = proxies.get("http") or proxies.get("all")
    if not used:
        return ok(PROXY, "没有设代理")
    bypass = {"no": proxies.get("no", "")}
    swallowed = [host for host in ("localhost", "127.0.0.1") if not proxy_bypass_environment(host, bypass)]
    if swallowed:
        found = f"发给 {'、'.join(swallowed)} 的请求会被送到代理；笔记本会自己绕开，终端里的 curl 不会"
        return warned(PROXY, found, mended)
    return ok(PROXY, "设了代理，localhost 已经绕开")


def _turbo(environ: Mapping[str, str]) -> list[str]:
    """The variables through which AutoDL's accelerator is on."""
    return [name for name in environ if name.lower().endswith("_proxy") and TURBO_PORT in environ[name]]


def check_port(port: int, listener: Listener | None, *, course_server: bool, free_port: int) -> Check:
    """Can the server listen on its port? `free_port`: one to take instead."""
    if listener is None:
        return ok(PORT, f"{port} 空闲")
    if course_server:
        return ok(PORT, f"{port}：本课程的服务正在运行（PID {listener.pid}）")
    who = f"{listener.name}（PID {listener.pid}）" if listener.pid else "别的用户的进程"
    found = f"{port} 被 {who} 占着：笔记本会改用下一个空闲的端口"
    return warned(PORT, found, f"想固定下来的话：export TUTORIAL_PORT={free_port}")


def check_shm(total_bytes: int | None, *, container: bool) -> Check:
    """/dev/shm: vLLM's processes hand tensors to each other there; Docker gives 64 MiB unless told otherwise.

    Args:
        container: only who starts a container can give it more; nothing can be mounted inside.
    """
    if total_bytes is None:
        return warned(SHM, "没有 /dev/shm", "在 Linux（或 WSL2、Docker）里运行本课程")
    size = total_bytes / GIB
    found = f"/dev/shm 共 {size:.0f} GiB" if size >= 1 else f"/dev/shm 只有 {total_bytes / 1024**2:.0f} MiB"
    if total_bytes >= GIB:
        return ok(SHM, found)
    fix = "sudo mount -o remount,size=2g /dev/shm"
    if container:
        fix = "只用一张卡就不用管；要多卡：容器是自己用 docker 启动的，加上 --shm-size=2g 重新启动；租来的，换一台"
    return warned(SHM, f"{found}：一张卡够用，多进程、多卡时可能不够", fix)


def check_cpu(machine: str, flags: Collection[str]) -> Check:
    """Does the processor have what vLLM's CPU build was compiled for? `flags`: from /proc/cpuinfo."""
    if machine in ("aarch64", "arm64"):
        return ok(CPU, f"{machine}，vLLM 的 CPU 版支持")
    if machine not in ("x86_64", "AMD64"):
        return failed(CPU, f"{machine}：vLLM 的 CPU 版没有这种处理器的安装包", "换一台 x86-64 的机器")
    if not flags:
        return warned(
            CPU, f"{machine}，读不到 /proc/cpuinfo，不知道有没有 AVX2", "在 Linux（或 WSL2、Docker）里运行本课程"
        )
    if "avx2" not in flags:
        return failed(
            CPU,
            "没有 AVX2 指令：vLLM 的 CPU 版跑不起来",
            "换一台 2015 年以后的 x86-64 机器；虚拟机：打开 CPU 直通（host-passthrough）",
        )
    return ok(CPU, "有 AVX-512" if "avx512f" in flags else "有 AVX2（没有 AVX-512，会慢一些）")


def check_ram(*, total_bytes: int, available_bytes: int, kv_gib: float | None, weights_gib: float = 0.0) -> Check:
    """Is there enough free RAM?

    Args:
        kv_gib: what the CPU engine takes for its KV cache at start, `VLLM_CPU_KVCACHE_SPACE`; with it set,
            `gpu_memory_utilization` does nothing, and the engine starts also where memory is short: the system ends
            it later. None: a GPU does the work.
        weights_gib: of a real model on the CPU engine; 0: the classroom model, too small to count.
    """
    total, available = total_bytes / GIB, available_bytes / GIB
    free = f"空闲 {available:.1f} GiB（共 {total:.1f}）"
    close = "ps aux --sort=-rss | head（关掉占内存最多的程序）"
    needed = (kv_gib or 0.0) + (weights_gib + REAL_ENGINE_GIB if weights_gib else ENGINE_GIB)
    if kv_gib is not None and available < needed:
        parts = f"权重 {weights_gib:.1f}，" if weights_gib else ""
        found = f"{free}，CPU 引擎要 {needed:.1f} GiB（其中{parts}KV 缓存 {kv_gib:g}）"
        return failed(RAM, f"{found}，不够时会被系统杀死", close)
    if available < 4:
        return warned(RAM, f"{free}，偏少", close)
    return ok(RAM, free)


def check_compiler(path: str | None, *, gpu: bool) -> Check:
    """Triton (GPU) and torch.compile build small kernels while vLLM starts. `path`: of the C compiler."""
    if path:
        return ok(COMPILER, path)
    fix = "apt-get update && apt-get install -y build-essential（不是 root：前面加 sudo）"
    if gpu:
        return failed(COMPILER, "没有 gcc：启动时会报 Failed to find C compiler", fix)
    return warned(COMPILER, "没有 gcc：只能带 --enforce-eager 运行（本课程在 CPU 上正是这样）", fix)


def check_leftovers(processes: Sequence[VllmProcess]) -> Check:
    """vLLM processes that nobody looks after hold memory and ports."""
    strangers = [process for process in processes if process.owner == "unknown"]
    if strangers:
        found = "、".join(
            f"{process.name}（{'，'.join(filter(None, [f'PID {process.pid}', process.about]))}）"
            for process in strangers
        )
        fix = f"cd {shlex.quote(str(REPO_ROOT))} && {PYTHON_HERE} -m helpers.server stop；还在，又不再用它的话：kill "
        return warned(
            LEFTOVERS, f"{found}：没有笔记本、终端或本课程的服务在管", fix + " ".join(str(p.pid) for p in strangers)
        )
    if processes:
        return ok(LEFTOVERS, f"没有；正在用的有 {len(processes)} 个进程")
    return ok(LEFTOVERS, "没有")


def looks_like_vllm(name: str, command: Sequence[str]) -> bool:
    """Is this a vLLM server, engine or worker? Never enough to end a process, only to mention it."""
    if name.startswith("VLLM::") or (command and command[0].startswith("VLLM::")):
        return True
    words = [Path(word).name for word in command[:4]]
    if not words or not words[0].startswith(("python", "vllm")):  # a shell or `timeout` around it ends with it
        return False
    serve = any(pair == ("vllm", "serve") for pair in pairwise(words))
    return serve or any("vllm.entrypoints" in word for word in command[:4])
