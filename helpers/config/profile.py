"""Choose the profile of this machine and its settings.

`gpu` runs the member of DeepSeek-R1-Distill-Qwen that fits the CUDA card; `classroom` runs the small model that ships
with the course on vLLM's CPU build; `cpu` runs the real 1.5B on that build, for who asks for it. Every field can be
overridden by one environment variable (see `get_profile`).
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
from helpers.errors import ConfigError
from helpers.machine import cuda_gpus, cuda_memory_gib, installed_version

__all__ = ["Profile", "bin_first", "get_profile"]

ProfileName = Literal["gpu", "cpu", "classroom"]
PROFILES: tuple[ProfileName, ...] = ("gpu", "cpu", "classroom")
CPU_MODEL = "1.5B"
CPU_MAX_MODEL_LEN = 4096  # room for a thought; nine such requests fill the KV cache of 1 GiB


@dataclass(frozen=True)
class Profile:
    """The settings that every notebook reads. Introduced in notebook 01.

    Attributes:
        name: `gpu`, `cpu` or `classroom`.
        reason: why this profile was chosen and, on a card, this model and `max_model_len`: one sentence for the reader.
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
BUILD_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; every page is touched at start, so more costs time
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two engines at once must not sit on the same core
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one worker does not need a process of its own: starts sooner
}
CPU_ENV = BUILD_ENV | {  # a thread for each core; one that waits sleeps, for spinning ones slow a busy machine down
    "OMP_WAIT_POLICY": "PASSIVE",
}
CLASSROOM_ENV = BUILD_ENV | {
    "OMP_NUM_THREADS": "1",  # the model is tiny: a second thread only waits, and on a busy machine waits forever
}
DIRECT = ("localhost", "127.0.0.1")
# AutoDL reaches ModelScope directly; its accelerator (network_turbo) is for GitHub and Hugging Face, yet exempts only
# modelscope.com. Elsewhere the reader's proxy may be the only way out: there the list stays his.
DIRECT_ON_AUTODL = ("modelscope.cn", "aliyuncs.com")


def get_profile(environ: Mapping[str, str] = os.environ) -> Profile:
    """Choose the profile of this machine and apply the reader's overrides.

    The order is: `TUTORIAL_PROFILE`; the CPU build of vLLM is installed → `classroom`; a CUDA device answers →
    `gpu`; else `classroom`. Further variables: `TUTORIAL_MODEL` (`1.5b`, `7b`, `14b`, `32b` or `<owner>/<name>`;
    without it the card's memory decides), `TUTORIAL_MODEL_DIR` (a relative path begins at the course's folder),
    `TUTORIAL_DTYPE`, `TUTORIAL_MAX_MODEL_LEN` (tokens; `8k` is 8000 and `8K` 8192, as for vLLM; without it the
    card's memory decides), `TUTORIAL_GPU_MEMORY_UTILIZATION` (0–1), `TUTORIAL_PORT`; `TUTORIAL_BASE_URL` and
    `TUTORIAL_API_KEY` name a server that somebody else runs. Introduced in notebook 01.

    Raises:
        ConfigError: a variable holds a value that cannot be used; the message names it and what is allowed.
    """
    from helpers.config import model  # not above: helpers.models imports this package

    name, reason = _choose(environ)
    gpu, real, autodl = name == "gpu", name != "classroom", folders.AUTODL_DATA_DISK.is_dir()
    named = values.text(environ, "TUTORIAL_MODEL_DIR")
    folder = folders.named_folder(named, environ) if named else None
    dtype = values.text(environ, "TUTORIAL_DTYPE") or ("bfloat16" if real else "float32")
    utilization = values.fraction(environ, "TUTORIAL_GPU_MEMORY_UTILIZATION", 0.9 if gpu else 0.15)
    card_gib = cuda_memory_gib() if gpu else None
    how = {"bytes_per_weight": 4.0 if dtype in ("float32", "float") else 2.0, "utilization": utilization}
    model_id = "classroom/DeepSeek-R1-Classroom"
    if real:
        default = model.for_card(card_gib, **how) if gpu else CPU_MODEL
        model_id = model.choose_model(environ, folder, default=default)
        reason += f"；{model.told(model_id, default)}" if gpu else ""
    elif values.text(environ, "TUTORIAL_MODEL"):
        reason += "；TUTORIAL_MODEL 在这里用不到，要在 CPU 上运行真的 1.5B，就设 TUTORIAL_PROFILE=cpu"
    models = folders.AUTODL_DATA_DISK / "models" if real and autodl else folders.REPO_ROOT / "build" / "models"
    model_dir = folder or models / model_id
    shortest = CPU_MAX_MODEL_LEN if name == "cpu" else model.MAX_MODEL_LEN
    length = values.whole_number(environ, "TUTORIAL_MAX_MODEL_LEN", shortest, low=16, high=131072)
    if gpu and not values.text(environ, "TUTORIAL_MAX_MODEL_LEN"):
        length, why = model.context_for(model_id, model_dir, card_gib, **how)
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
        | (own_env if gpu else CPU_ENV if real else CLASSROOM_ENV)
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
        raise ConfigError(f"TUTORIAL_PROFILE={forced!r}：只能是 gpu、cpu 或 classroom，或者不设，让程序自己选")
    if installed_version("vllm-cpu"):
        return "classroom", "装的是 vLLM 的 CPU 版（vllm-cpu）"
    gpus = cuda_gpus()
    if gpus:
        return "gpu", f"找到 {len(gpus)} 块 CUDA 显卡"
    return "classroom", "没有找到可用的 CUDA 显卡"
