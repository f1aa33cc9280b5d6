"""Choose the profile of this machine and its settings.

`gpu` runs DeepSeek-R1-Distill-Qwen-7B on a CUDA card; `classroom` runs the small model that ships with the
course on vLLM's CPU build. Every field can be overridden by one environment variable (see `get_profile`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from helpers.config import folders, values
from helpers.config.proxies import no_proxy_for, private_host, unusable_proxies
from helpers.errors import ConfigError, ModelError
from helpers.machine import cuda_gpus, cuda_memory_gib, installed_version

__all__ = ["Profile", "bin_first", "get_profile"]

ProfileName = Literal["gpu", "classroom"]
PROFILES: tuple[ProfileName, ...] = ("gpu", "classroom")
MAX_MODEL_LEN = 2048  # of the classroom model, and of a card that holds no more or does not tell its size


@dataclass(frozen=True)
class Profile:
    """The settings that every notebook reads. Introduced in notebook 01.

    Attributes:
        name: `gpu` or `classroom`.
        reason: why this profile was chosen and, on a card, this `max_model_len`: one sentence for the reader.
        model_id: `<owner>/<name>` on ModelScope (or on the course's own mirror).
        model_dir: folder that holds, or will hold, the model files; absolute.
        model_dir_is_named: the reader named it with `TUTORIAL_MODEL_DIR`.
        served_model_name: the name that clients put into `"model"`.
        dtype: dtype of weights and activations, as vLLM spells it.
        max_model_len: most tokens of prompt plus output in one request.
        gpu_memory_utilization: vLLM's share of the whole card: it must be free at the start, and what weights and
            computing leave of it becomes KV cache at once. On a CPU it does nothing, for `VLLM_CPU_KVCACHE_SPACE` in
            `engine_env` says how large the KV cache is.
        enforce_eager: skip compilation, CUDA graphs and the warm-up of kernels: on a CPU compilation costs a minute
            and gains nothing here.
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
CLASSROOM_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; every page is touched at start, so more costs time
    "OMP_NUM_THREADS": "1",  # the model is tiny: a second thread only waits, and on a busy machine waits forever
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two engines at once must not sit on the same core
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one worker does not need a process of its own: starts sooner
}
DIRECT = ("localhost", "127.0.0.1")
# AutoDL reaches ModelScope directly; its accelerator (network_turbo) is for GitHub and Hugging Face, yet exempts only
# modelscope.com. Elsewhere the reader's proxy may be the only way out: there the list stays his.
DIRECT_ON_AUTODL = ("modelscope.cn", "aliyuncs.com")


def get_profile(environ: Mapping[str, str] = os.environ) -> Profile:
    """Choose the profile of this machine and apply the reader's overrides.

    The order is: `TUTORIAL_PROFILE`; the CPU build of vLLM is installed → `classroom`; a CUDA device answers →
    `gpu`; else `classroom`. Further variables: `TUTORIAL_MODEL_DIR` (a relative path begins at the course's folder),
    `TUTORIAL_DTYPE`, `TUTORIAL_MAX_MODEL_LEN` (tokens; `8k` is 8000 and `8K` 8192, as for vLLM; without it the
    card's memory decides), `TUTORIAL_GPU_MEMORY_UTILIZATION` (0–1), `TUTORIAL_PORT`; `TUTORIAL_BASE_URL` and
    `TUTORIAL_API_KEY` name a server that somebody else runs. Introduced in notebook 01.

    Raises:
        ConfigError: a variable holds a value that cannot be used; the message names it and what is allowed.
    """
    name, reason = _choose(environ)
    gpu, autodl = name == "gpu", folders.AUTODL_DATA_DISK.is_dir()
    models = folders.AUTODL_DATA_DISK / "models" if gpu and autodl else folders.REPO_ROOT / "build" / "models"
    model_id = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B" if gpu else "classroom/DeepSeek-R1-Classroom"
    named = values.text(environ, "TUTORIAL_MODEL_DIR")
    model_dir = folders.named_folder(named, environ) if named else models / model_id
    dtype = values.text(environ, "TUTORIAL_DTYPE") or ("bfloat16" if gpu else "float32")
    utilization = values.fraction(environ, "TUTORIAL_GPU_MEMORY_UTILIZATION", 0.9 if gpu else 0.15)
    length = values.whole_number(environ, "TUTORIAL_MAX_MODEL_LEN", MAX_MODEL_LEN, low=16, high=131072)
    if gpu and not values.text(environ, "TUTORIAL_MAX_MODEL_LEN"):
        length, why = _context(model_dir, dtype=dtype, utilization=utilization)
        reason += f"；{why}"
    base_url = values.base_url(environ)
    gpu_env = GPU_ENV | (WSL_ENV if folders.in_wsl() else {})
    own_env = {variable: environ.get(variable) or value for variable, value in gpu_env.items()}
    direct = [*DIRECT, *private_host(base_url), *(DIRECT_ON_AUTODL if autodl else ())]
    return Profile(
        name=name,
        reason=reason,
        model_id=model_id,
        model_dir=model_dir,
        model_dir_is_named=bool(named),
        served_model_name="r1",
        dtype=dtype,
        max_model_len=length,
        gpu_memory_utilization=utilization,
        enforce_eager=not gpu,
        port=values.whole_number(environ, "TUTORIAL_PORT", 8000, low=1024, high=65535),
        engine_env=COMMON_ENV
        | (own_env if gpu else CLASSROOM_ENV)
        | bin_first(environ)
        | dict.fromkeys(unusable_proxies(environ), "")  # the lessons only talk to this machine or the class server
        | no_proxy_for(environ, *direct),
        base_url=base_url,
        api_key=values.api_key(environ),
    )


def bin_first(environ: Mapping[str, str]) -> dict[str, str]:
    """`PATH` with the folder of this Python first: what the engine starts by name (`vllm`, `ninja`) lies there."""
    here = str(Path(sys.executable).parent)
    rest = [folder for folder in (environ.get("PATH") or os.defpath).split(os.pathsep) if folder != here]
    return {"PATH": os.pathsep.join([here, *rest])}


def _choose(environ: Mapping[str, str]) -> tuple[ProfileName, str]:
    forced = values.text(environ, "TUTORIAL_PROFILE").lower()
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


def _context(model_dir: Path, *, dtype: str, utilization: float) -> tuple[int, str]:
    """The `max_model_len` for this card and the model that lies here (the 7B, if none does yet), and why."""
    from helpers.models.files import read_json  # not above: helpers.models imports this package
    from helpers.models.size import SEVEN_B_CONFIG, context_that_fits, model_size

    card_gib = cuda_memory_gib()
    if card_gib is None:
        return MAX_MODEL_LEN, f"读不到显存大小，max_model_len 取 {MAX_MODEL_LEN}"
    bytes_per_weight = 4.0 if dtype in ("float32", "float") else 2.0
    try:
        shape = read_json(model_dir / "config.json")
        size = model_size(shape, bytes_per_weight=bytes_per_weight)
    except ModelError:
        shape, size = SEVEN_B_CONFIG, model_size(SEVEN_B_CONFIG, bytes_per_weight=bytes_per_weight)
    fits = context_that_fits(card_gib, size, utilization=utilization)
    length = min(fits or MAX_MODEL_LEN, shape.get("max_position_embeddings", MAX_MODEL_LEN))
    why = "这样长的请求放得下两个" if fits else "更长的请求放不下两个"
    return length, f"显存有 {card_gib:.1f} GiB，max_model_len 取 {length}，{why}"
