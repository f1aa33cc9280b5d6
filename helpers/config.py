"""The profile: which model, which engine settings and which paths this machine uses.

`gpu` runs DeepSeek-R1-Distill-Qwen-7B on a CUDA card; `classroom` runs the small model that ships with the
course on vLLM's CPU build. Every field can be overridden by one environment variable (see `get_profile`).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from helpers.errors import ConfigError
from helpers.machine import cuda_gpus, installed_version

__all__ = ["AUTODL_DATA_DISK", "CLASSROOM_MODEL_DIR", "REPO_ROOT", "Profile", "get_profile"]

REPO_ROOT = Path(__file__).resolve().parent.parent
CLASSROOM_MODEL_DIR = Path(__file__).resolve().parent / "classroom" / "model"
AUTODL_DATA_DISK = Path("/root/autodl-tmp")


@dataclass(frozen=True)
class Profile:
    """The settings that every notebook reads. Introduced in notebook 01.

    Attributes:
        name: `gpu` or `classroom`.
        reason: why this profile was chosen, one sentence for the reader.
        model_id: `<owner>/<name>` on ModelScope (or on the course's own mirror).
        model_dir: folder that holds, or will hold, the model files.
        served_model_name: the name that clients put into `"model"`.
        dtype: dtype of weights and activations, as vLLM spells it.
        max_model_len: most tokens of prompt plus output in one request.
        gpu_memory_utilization: fraction of device memory (CPU engine: of host RAM) that vLLM may take.
        enforce_eager: whether to skip compilation and CUDA graphs: ready sooner, slower on a GPU.
        port: TCP port of the server on 127.0.0.1.
        engine_env: environment variables that the engine needs, for `os.environ.update`.
        base_url: `http://<host>:<port>`, without `/v1`, of a server that somebody else runs; empty: run our own.
        api_key: the key for that server; never shown.
    """

    name: str
    reason: str
    model_id: str
    model_dir: Path
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
    "NO_PROXY": "localhost,127.0.0.1",  # a proxy (AutoDL's network_turbo) must not swallow localhost
    "no_proxy": "localhost,127.0.0.1",
    "VLLM_LOGGING_COLOR": "0",  # no escape codes in log files
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # PyTorch's notes to its developers
    "TORCH_LOGS": "-all",
}
CLASSROOM_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; every page is touched at start, so more costs time
    "OMP_NUM_THREADS": "1",  # the model is tiny: a second thread only waits, and on a busy machine waits forever
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two engines at once must not sit on the same core
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one worker does not need a process of its own: starts sooner
}


def get_profile(environ: Mapping[str, str] = os.environ) -> Profile:
    """Choose the profile of this machine and apply the reader's overrides.

    The order is: `TUTORIAL_PROFILE`; the CPU build of vLLM is installed → `classroom`; a CUDA device answers →
    `gpu`; else `classroom`. Further variables: `TUTORIAL_MODEL_DIR`, `TUTORIAL_DTYPE`,
    `TUTORIAL_MAX_MODEL_LEN` (tokens), `TUTORIAL_GPU_MEMORY_UTILIZATION` (0–1), `TUTORIAL_PORT`;
    `TUTORIAL_BASE_URL` and `TUTORIAL_API_KEY` name a server that somebody else runs.
    Introduced in notebook 01.

    Raises:
        ConfigError: a variable holds a value that cannot be used; the message names it and what is allowed.
    """
    name, reason = _choose(environ)
    gpu = name == "gpu"
    models = AUTODL_DATA_DISK / "models" if gpu and AUTODL_DATA_DISK.is_dir() else REPO_ROOT / "build" / "models"
    model_id = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B" if gpu else "classroom/DeepSeek-R1-Classroom"
    base_url = _base_url(environ)
    return Profile(
        name=name,
        reason=reason,
        model_id=model_id,
        model_dir=Path(environ.get("TUTORIAL_MODEL_DIR") or models / model_id),
        served_model_name="r1",
        dtype=environ.get("TUTORIAL_DTYPE") or ("bfloat16" if gpu else "float32"),
        max_model_len=int(_number(environ, "TUTORIAL_MAX_MODEL_LEN", 2048, low=16, high=131072)),
        gpu_memory_utilization=_number(
            environ, "TUTORIAL_GPU_MEMORY_UTILIZATION", 0.9 if gpu else 0.15, low=0.01, high=1
        ),
        enforce_eager=not gpu,
        port=int(_number(environ, "TUTORIAL_PORT", 8000, low=1024, high=65535)),
        engine_env=(COMMON_ENV if gpu else COMMON_ENV | CLASSROOM_ENV) | _no_proxy(base_url),
        base_url=base_url,
        api_key=_api_key(environ),
    )


def _choose(environ: Mapping[str, str]) -> tuple[str, str]:
    forced = environ.get("TUTORIAL_PROFILE", "")
    if forced not in ("", "gpu", "classroom"):
        raise ConfigError(f"TUTORIAL_PROFILE={forced!r}：只能是 gpu 或 classroom，或者不设，让程序自己选")
    if forced:
        return forced, f"环境变量 TUTORIAL_PROFILE={forced}"
    if installed_version("vllm-cpu"):
        return "classroom", "装的是 vLLM 的 CPU 版（vllm-cpu）"
    gpus = cuda_gpus()
    if gpus:
        return "gpu", f"找到 {len(gpus)} 块 CUDA 显卡"
    return "classroom", "没有找到可用的 CUDA 显卡"


def _base_url(environ: Mapping[str, str]) -> str:
    text = environ.get("TUTORIAL_BASE_URL", "").strip()
    base = text.rstrip("/").removesuffix("/v1").rstrip("/")
    with suppress(ValueError):
        url = urlsplit(base)
        plain = url.scheme in ("http", "https") and url.hostname and url.netloc.isascii() and "@" not in url.netloc
        if not text or (plain and url.port != 0 and not re.search(r"[\s?#]", base)):
            return base
    raise ConfigError("TUTORIAL_BASE_URL 不是可用的地址：写成 http://10.0.0.5:6006 这样，不带用户名、问号和井号")


def _api_key(environ: Mapping[str, str]) -> str:
    key = environ.get("TUTORIAL_API_KEY", "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise ConfigError("TUTORIAL_API_KEY 里有空格或者不是英文的字符：请把密钥重新完整地复制一遍")
    return key


def _no_proxy(base_url: str) -> dict[str, str]:
    """A server in the same building is reached directly, whatever proxy the environment names."""
    host = urlsplit(base_url).hostname or ""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_private:
            return {name: f"{COMMON_ENV[name]},{host}" for name in ("NO_PROXY", "no_proxy")}
    return {}


def _number(environ: Mapping[str, str], variable: str, default: float, *, low: float, high: float) -> float:
    text = environ.get(variable, "")
    try:
        value = float(text) if text else float(default)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ConfigError(f"{variable}={text!r}：要一个 {low:g} 到 {high:g} 之间的数")
    return value
