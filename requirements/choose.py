"""Which set of packages this machine needs: `classroom` (CPU), `gpu` (CUDA 13) or `gpu-cu129` (an older driver).

Asked by the Makefile before anything is installed, so it imports only what Python brings. `classroom` or `gpu` as
argument decides by hand; `cpu`, the real 1.5B without a card, takes the packages of `classroom`. Prints the set; what
is worth knowing about the choice goes to stderr.
"""

from __future__ import annotations

import subprocess
import sys

QUERY = "--query-gpu=name,memory.total,compute_cap,driver_version"
MIN_MIB = 7000  # the 1.5B with 16 K tokens of KV cache
MIN_CAPABILITY = 7.5  # CUDA 13 knows nothing older
CUDA_13, CUDA_12 = 580, 525  # drivers


def choose(answer: str) -> tuple[str, str]:
    """Set and reason, by what `nvidia-smi` answered; the best of several cards counts."""
    rows = [row.split(", ") for row in answer.splitlines()]
    judged = [judge(*row) for row in rows if len(row) == 4]
    return max(judged, default=("classroom", ""), key=lambda found: (found[0] != "classroom", found[0] == "gpu"))


def judge(name: str, memory_mib: str, capability: str, driver: str) -> tuple[str, str]:
    try:
        mib, level, major = int(memory_mib), float(capability), int(driver.split(".")[0])
    except ValueError:
        return "classroom", f"看不懂 nvidia-smi 说的 {name}，改装 CPU 版。确认卡能用，就加上 PROFILE=gpu"
    if level < MIN_CAPABILITY:
        return "classroom", f"{name} 的计算能力是 {capability}，vLLM 0.32 要 {MIN_CAPABILITY} 以上，改装 CPU 版"
    if mib < MIN_MIB:
        return "classroom", f"{name} 只有 {mib} MiB 显存，最小的 1.5B 也放不下，改装 CPU 版"
    if major < CUDA_12:
        return "classroom", f"驱动 {driver} 太旧，要 {CUDA_13} 以上（至少 {CUDA_12}），改装 CPU 版；升级驱动以后再 make"
    return ("gpu", "") if major >= CUDA_13 else ("gpu-cu129", f"驱动是 {driver}，装 CUDA 12.9 的那一套")


def main(forced: str = "") -> None:
    if forced not in ("", "classroom", "cpu", "gpu"):
        sys.exit(f"PROFILE={forced}：只能是 classroom、cpu 或 gpu，或者不写，让程序自己选")
    forced = "classroom" if forced == "cpu" else forced
    try:
        smi = subprocess.run(
            ["nvidia-smi", QUERY, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        smi = ""
    chosen, why = choose(smi)
    if forced and not chosen.startswith(forced):
        chosen, why = forced, ""
    print(chosen)
    if why:
        print(why, file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
