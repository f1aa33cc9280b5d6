"""Read vLLM's start-up log: which phase it is in, and why it died. The wording was recorded from vLLM 0.32."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import yaml

from helpers.server.ending import Error, ending, errors

__all__ = ["PHASES", "diagnose", "excerpt", "last_error", "phase", "tail"]

TAIL_BYTES = 1_000_000
ERROR_LINES, ERROR_COLUMNS = 8, 300

# (what the log says, what is going on from there); the one that occurs last in the log counts
PHASES = [
    ("", "启动 Python，导入 vLLM"),
    ("non-default args", "读取模型配置"),
    ("Resolved architecture", "启动引擎进程"),
    ("Starting to load model", "加载权重"),
    ("Loading weights took", "分配 KV cache"),
    ("torch.compile cache", "编译计算图"),
    ("KV cache size", "预热"),
    ("Capturing CUDA graph", "捕获 CUDA graph"),
    ("Supported tasks", "启动 HTTP 服务"),
]


def _causes(file: Path) -> list[dict[str, str]]:
    """The causes of `file`, with their steps filled in; what is left in braces are the groups of the error."""
    known = yaml.safe_load(file.read_text(encoding="utf-8"))
    steps = known["steps"] | {"python": shlex.quote(sys.executable)}

    def filled(text: str) -> str:
        return re.sub(r"\{([a-z]+)\}", lambda step: filled(steps[step[1]]), text)

    return [cause | {"todo": filled(cause["todo"])} for cause in known["causes"]]


CAUSES = _causes(Path(__file__).with_name("causes.yaml"))
MISSING_PACKAGE = "缺少 Python 包 {0}。"  # what one of them says

NO_RAM = (
    "用 free -h 看内存，关掉别的程序，或换内存更大的机器；容器要看内存上限和 --shm-size。"
    "WSL2：内存的上限写在 Windows 的 %UserProfile%\\.wslconfig 里（[wsl2] 下面一行 memory=24GB），"
    "改完在 PowerShell 里运行 wsl --shutdown。"
)
DOCTOR = (
    f"在仓库里执行 {shlex.quote(sys.executable)} -m helpers.doctor，看驱动和几个包的版本配不配套，"
    "再按 README 重新安装环境。"
)
SIGNALS = {
    4: ("引擎进程用了这个 CPU 没有的指令（SIGILL）。", "在终端执行 lscpu | grep avx2，没有输出就要换一台机器。"),
    6: ("引擎进程自己中止了（SIGABRT）。", DOCTOR),
    7: ("引擎进程写不进共享内存（SIGBUS），多半是 /dev/shm 太小。", "容器加 --shm-size=8g（或 --ipc=host）再启动。"),
    9: ("引擎进程被系统杀死了（SIGKILL），多半是内存不够。", NO_RAM),
    11: ("引擎进程崩溃了（段错误，SIGSEGV）。", DOCTOR),
}
VANISHED = (
    "引擎进程没有留下报错就没了，多半是被系统杀死的：内存或 /dev/shm 不够，或者有人停了它。",
    f"{NO_RAM}再启动一次，同时在另一个终端里用 free -h 看着。WSL2 上还要设 VLLM_WSL2_ENABLE_PIN_MEMORY=1。",
)
SIGNAL = re.compile(r"(?:Failed core proc\(s\): \{[^}]*: |exit code:? )(?:-(\d+)|(13[1-9])\b)")
# (somebody says that this process failed, a line that it wrote before, what it writes when it fails by itself)
LAST_WORDS = [
    ("WorkerProc initialization failed", "(EngineCore", "WorkerProc failed to start"),
    ("Engine core initialization failed", "(EngineCore", "EngineCore failed to start"),
]
# Tools that were started write what went wrong themselves; the error only says that they failed.
TOOL = re.compile(r"CalledProcessError|[Nn]inja|nvcc|gcc|compil|NCCL|Nccl", re.ASCII)
DUMP = re.compile(r"\[type=\w+, input_value=[^\n]*")  # all the settings, behind a wrong one
OF_TOOL = re.compile(r"fatal error: |cannot find -l|NCCL WARN|nvcc fatal|: not found|g?cc1?\w*: error|ptxas")


def phase(log: str) -> str:
    """Name the start-up phase that the log has reached, in words for the progress bar."""
    return max(PHASES, key=lambda entry: log.rfind(entry[0]) if entry[0] else -0.5)[1]


def last_error(log: str) -> str:
    """The error that ended the start, as the engine, a worker or the command itself reported it.

    Returns:
        Its line and those that belong to it, without prefixes; empty where the log holds none. An error that only
        points to another ("See root cause above") is left out, and so is everything before a finished start.
    """
    end = ending(log)
    return "\n".join(_short(end.text.splitlines()[:ERROR_LINES])) if end else ""


def excerpt(log: str, *, lines: int = 12) -> str:
    """What to show of the log of a failed start: its own last error and what stands above it, else its last lines."""
    end = ending(log)
    if end is None:
        said = [line for line in log.splitlines() if line.strip()]
        if _vanished(log):  # what the API server says at last only points to the engine
            said = [line for line in said if "(EngineCore" in line or "(Worker" in line]
        return "\n".join(_short(said[-lines:] if lines > 0 else []))
    return "\n".join([*_short(list(end.above)), last_error(log)])


def diagnose(log: str) -> tuple[str, str] | None:
    """Say what went wrong and what to do; None where the error that ended the start is not a known one.

    Only the error that ended the start is looked at, and what it was raised from: nothing else in the log can be
    taken for the cause. A process that a signal ended left no error, so its exit code is looked for.
    """
    end = ending(log)
    told = _known(log, [(_with_code(end), True), *end.causes]) if end else None
    if told or (end and not end.weak):
        return told
    for number in (int(minus) if minus else int(high) - 128 for minus, high in SIGNAL.findall(log)):
        if number in SIGNALS:
            return SIGNALS[number]
    weak = (_known(log, [(error.text, True)]) for error in reversed(errors(log)))
    return next((one for one in weak if one), VANISHED if not end and _vanished(log) else None)


def _known(log: str, chain: list[tuple[str, bool]]) -> tuple[str, str] | None:
    for said, meant in chain:
        text = DUMP.sub("", said)
        if TOOL.search(text):
            text = "\n".join([text, *(line for line in log.splitlines() if OF_TOOL.search(line))])
        for cause in CAUSES:
            known = re.search(cause["error"], text, re.IGNORECASE)
            if known and (meant or cause["what"] != MISSING_PACKAGE):  # else: tried, and done without
                groups = [(group or "").strip() for group in known.groups()]
                return cause["what"].format(*groups).replace("（）", ""), cause["todo"].format(*groups)
    return None


def _vanished(log: str) -> bool:
    return any(failed in log and before in log and word not in log for failed, before, word in LAST_WORDS)


def _with_code(error: Error) -> str:
    """The error; the line of code that raised it is added to one that says nothing, such as an assert."""
    code = [line for line in error.above if line.strip(" ^~") and not line.lstrip().startswith("File ")]
    return error.text if ":" in error.text or not code else f"{error.text}: {code[-1].strip()}"


def _short(lines: list[str]) -> list[str]:
    return [line if len(line) <= ERROR_COLUMNS else line[:ERROR_COLUMNS] + "…" for line in lines]


def tail(file: Path, *, lines: int | None = None) -> str:
    """The last `lines` lines of a log (None: all of its last megabyte); empty where it cannot be read."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - TAIL_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text if lines is None else "\n".join(text.splitlines()[-lines:] if lines > 0 else [])
