"""The profile: which model, which engine settings and which paths this machine uses.

`gpu` runs DeepSeek-R1-Distill-Qwen-7B on a CUDA card; `classroom` runs the small model that ships with the
course on vLLM's CPU build. Every field can be overridden by one environment variable (see `get_profile`).
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Literal
from urllib.parse import urlsplit

from helpers.errors import ConfigError
from helpers.machine import cuda_gpus, installed_version

__all__ = ["AUTODL_DATA_DISK", "CLASSROOM_MODEL_DIR", "REPO_ROOT", "Profile", "get_profile"]

REPO_ROOT = Path(__file__).resolve().parent.parent
CLASSROOM_MODEL_DIR = Path(__file__).resolve().parent / "classroom" / "model"
AUTODL_DATA_DISK = Path("/root/autodl-tmp")
ProfileName = Literal["gpu", "classroom"]
PROFILES: tuple[ProfileName, ...] = ("gpu", "classroom")
UNITS = {"": 1, "k": 1000, "K": 1024}  # as vLLM reads numbers


@dataclass(frozen=True)
class Profile:
    """The settings that every notebook reads. Introduced in notebook 01.

    Attributes:
        name: `gpu` or `classroom`.
        reason: why this profile was chosen, one sentence for the reader.
        model_id: `<owner>/<name>` on ModelScope (or on the course's own mirror).
        model_dir: folder that holds, or will hold, the model files; absolute.
        model_dir_is_named: the reader named it with `TUTORIAL_MODEL_DIR`.
        served_model_name: the name that clients put into `"model"`.
        dtype: dtype of weights and activations, as vLLM spells it.
        max_model_len: most tokens of prompt plus output in one request.
        gpu_memory_utilization: fraction of device memory (CPU engine: of host RAM) that vLLM may take.
        enforce_eager: skip compilation and CUDA graphs: on a CPU they cost a minute and gain nothing here.
        port: TCP port of the server on 127.0.0.1.
        engine_env: environment variables that the engine needs, for `os.environ.update`.
        base_url: `http://<host>:<port>`, without `/v1`, of a server that somebody else runs; empty: run our own.
        api_key: the key for that server; never shown.
    """

    name: ProfileName
    reason: str
    model_id: str
    model_dir: Path
    model_dir_is_named: bool
    served_model_name: str
    dtype: str
    max_model_len: int
    gpu_memory_utilization: float
    enforce_eager: bool
    port: int
    engine_env: Mapping[str, str] = field(default_factory=dict)
    base_url: str = ""
    api_key: str = field(default="", repr=False)


COMMON_ENV = {
    "HF_HUB_OFFLINE": "1",  # the model lies on disk: never ask Hugging Face
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_COLOR": "0",  # no escape codes in log files
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # PyTorch's notes to its developers
    "TORCH_LOGS": "-all",
}
GPU_ENV = {
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # compiled at the first start, with nvcc and ninja: minutes, for no more speed
}
WSL_ENV = {
    "VLLM_WSL2_ENABLE_PIN_MEMORY": "1",  # or every start ends with "UVA is not available": off by default on WSL2
}
PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # what httpx reads, in either case
CLASSROOM_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; every page is touched at start, so more costs time
    "OMP_NUM_THREADS": "1",  # the model is tiny: a second thread only waits, and on a busy machine waits forever
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two engines at once must not sit on the same core
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one worker does not need a process of its own: starts sooner
}


def get_profile(environ: Mapping[str, str] = os.environ) -> Profile:
    """Choose the profile of this machine and apply the reader's overrides.

    The order is: `TUTORIAL_PROFILE`; the CPU build of vLLM is installed → `classroom`; a CUDA device answers →
    `gpu`; else `classroom`. Further variables: `TUTORIAL_MODEL_DIR` (a relative path begins at the course's folder),
    `TUTORIAL_DTYPE`, `TUTORIAL_MAX_MODEL_LEN` (tokens; `8k` is 8000 and `8K` 8192, as for vLLM),
    `TUTORIAL_GPU_MEMORY_UTILIZATION` (0–1), `TUTORIAL_PORT`; `TUTORIAL_BASE_URL` and `TUTORIAL_API_KEY` name a server
    that somebody else runs. Introduced in notebook 01.

    Raises:
        ConfigError: a variable holds a value that cannot be used; the message names it and what is allowed.
    """
    name, reason = _choose(environ)
    gpu = name == "gpu"
    models = AUTODL_DATA_DISK / "models" if gpu and AUTODL_DATA_DISK.is_dir() else REPO_ROOT / "build" / "models"
    model_id = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B" if gpu else "classroom/DeepSeek-R1-Classroom"
    named = _text(environ, "TUTORIAL_MODEL_DIR")
    base_url = _base_url(environ)
    gpu_env = GPU_ENV | (WSL_ENV if in_wsl() else {})
    own_env = {variable: environ.get(variable) or value for variable, value in gpu_env.items()}
    return Profile(
        name=name,
        reason=reason,
        model_id=model_id,
        model_dir=_folder(named, environ) if named else models / model_id,
        model_dir_is_named=bool(named),
        served_model_name="r1",
        dtype=_text(environ, "TUTORIAL_DTYPE") or ("bfloat16" if gpu else "float32"),
        max_model_len=_whole_number(environ, "TUTORIAL_MAX_MODEL_LEN", 2048, low=16, high=131072),
        gpu_memory_utilization=_fraction(environ, "TUTORIAL_GPU_MEMORY_UTILIZATION", 0.9 if gpu else 0.15),
        enforce_eager=not gpu,
        port=_whole_number(environ, "TUTORIAL_PORT", 8000, low=1024, high=65535),
        engine_env=COMMON_ENV
        | (own_env if gpu else CLASSROOM_ENV)
        | bin_first(environ)
        | dict.fromkeys(unusable_proxies(environ), "")  # the lessons only talk to this machine or the class server
        | no_proxy_for(environ, "localhost", "127.0.0.1", *_private_host(base_url)),
        base_url=base_url,
        api_key=_api_key(environ),
    )


def bin_first(environ: Mapping[str, str]) -> dict[str, str]:
    """`PATH` with the folder of this Python first: what the engine starts by name (`vllm`, `ninja`) lies there."""
    here = str(Path(sys.executable).parent)
    rest = [folder for folder in (environ.get("PATH") or os.defpath).split(os.pathsep) if folder != here]
    return {"PATH": os.pathsep.join([here, *rest])}


def no_proxy_for(environ: Mapping[str, str], *hosts: str) -> dict[str, str]:
    """`NO_PROXY` with `hosts` added to what stands there: a proxy (AutoDL's network_turbo) must not swallow them."""
    there = re.split(r"[,\s]+", f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}")
    plain = [entry.strip("[]") for entry in there if not re.search(r"[^!-~]|::.*/|\]:", entry)]  # what httpx can read
    value = ",".join(dict.fromkeys(filter(None, [*plain, *hosts])))
    return {"NO_PROXY": value, "no_proxy": value}


def in_wsl() -> bool:
    """Whether this is Linux inside Windows, found out as vLLM does."""
    return "microsoft" in platform.release().lower()


def unusable_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy variables with which httpx makes no client at all, not even for localhost: name → what is wrong."""
    found = {name: _proxy_problem(value) for name, value in environ.items() if name.lower() in PROXIES and value}
    return {name: problem for name, problem in found.items() if problem}


def _proxy_problem(value: str) -> str:
    scheme, mark, rest = value.partition("://")
    if mark and scheme.lower().startswith("socks"):
        return f"是 SOCKS 代理（{scheme.lower()}://）"
    if re.search(r"[^!-~]|['\"]", value):
        return "里有空格、引号或全角字符"
    with suppress(ValueError):
        url = urlsplit(value if mark else f"http://{value}")
        if url.scheme in ("http", "https") and url.hostname and url.port != 0 and not (mark and not rest):
            return ""
    return "写得不对：应像 http://主机:端口，端口是数字"


def _choose(environ: Mapping[str, str]) -> tuple[ProfileName, str]:
    forced = _text(environ, "TUTORIAL_PROFILE").lower()
    for name in PROFILES:
        if forced == name:
            return name, f"环境变量 TUTORIAL_PROFILE={forced}"
    if forced:
        raise ConfigError(f"TUTORIAL_PROFILE={forced!r}：只能是 gpu 或 classroom，或者不设，让程序自己选")
    if installed_version("vllm-cpu"):
        return "classroom", "装的是 vLLM 的 CPU 版（vllm-cpu）"
    gpus = cuda_gpus()
    if gpus:
        return "gpu", f"找到 {len(gpus)} 块 CUDA 显卡"
    return "classroom", "没有找到可用的 CUDA 显卡"


def _text(environ: Mapping[str, str], variable: str) -> str:
    """The value without the spaces and the quotes around it, which .env files and copied lines leave there."""
    return environ.get(variable, "").strip().strip("\"'“”‘’").strip()


def _folder(text: str, environ: Mapping[str, str]) -> Path:
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


def _base_url(environ: Mapping[str, str]) -> str:
    text = _text(environ, "TUTORIAL_BASE_URL")
    base = text.rstrip("/").removesuffix("/v1").rstrip("/")
    with suppress(ValueError):
        url = urlsplit(base)
        plain = url.scheme in ("http", "https") and url.hostname and url.netloc.isascii() and "@" not in url.netloc
        if not text or (plain and url.port != 0 and not re.search(r"[\s?#]", base)):
            return base
    raise ConfigError("TUTORIAL_BASE_URL 不是可用的地址：写成 http://10.0.0.5:6006 这样，不带用户名、问号和井号")


def _api_key(environ: Mapping[str, str]) -> str:
    key = _text(environ, "TUTORIAL_API_KEY")
    if not re.fullmatch(r"[!-~]*", key):
        raise ConfigError("TUTORIAL_API_KEY 里有空格或者不是英文的字符：请把密钥重新完整地复制一遍")
    return key


def _private_host(base_url: str) -> list[str]:
    """The host of a server in the same building, which is reached directly; none where it is a public one."""
    host = urlsplit(base_url).hostname or ""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_private:
            return [host]
    return []


def _whole_number(environ: Mapping[str, str], variable: str, default: int, *, low: int, high: int) -> int:
    text = _text(environ, variable)
    found = re.fullmatch(r"([0-9]{1,9})([kK]?)", text)
    value = int(found[1]) * UNITS[found[2]] if found else -1 if text else default
    if not low <= value <= high:
        raise ConfigError(f"{variable}={text!r}：要一个 {low} 到 {high} 之间的整数")
    return value


def _fraction(environ: Mapping[str, str], variable: str, default: float) -> float:
    text = _text(environ, variable)
    try:
        value = float(text) if text else default
    except ValueError:
        value = float("nan")
    if not 0.01 <= value <= 1:
        raise ConfigError(f"{variable}={text!r}：要一个 0.01 到 1 之间的数")
    return value
