"""Read vLLM's start-up log: which phase it is in, and which error ended it. The wording was recorded from vLLM 0.32."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

__all__ = ["PHASES", "diagnose", "last_error", "phase", "tail"]

TAIL_BYTES = 200_000
ERROR_LINES = 8
LINE_CHARACTERS = 300

CAUSES: list[dict[str, str]] = yaml.safe_load(Path(__file__).with_name("causes.yaml").read_text(encoding="utf-8"))
MISSING_PACKAGE = r"No module named '(?!vllm)([\w.]+)'"  # one of them

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

UP = "Application startup complete"  # whatever was said before did no harm
PROCESS = re.compile(r"^(?:[\w.-]+ +\| )?\((?P<name>[\w .:=-]+?) pid=\d+\) ")
STAMP = re.compile(r"^(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\b(?: \d\d-\d\d \d\d:\d\d:\d\d)?(?: \[[^\]]*\])? ?")
RAISED = re.compile(
    r"^(?:(?:[A-Za-z_]\w*\.)+[A-Z]\w*(?::|$)|"
    r"[A-Z]\w*(?:Error|Exception|Exit|Interrupt|TimeoutExpired|LimitExceeded)\b(?::|$))"
)
PLAIN = re.compile(
    r"^(?:Exception: |Failed: Cuda error|\s*Value error, |vllm[\w ]*: error: |Fatal Python error|terminate called|"
    r"what\(\): |Killed\b|Segmentation fault|Illegal instruction|Bus error)"
)
CHAINED = "The above exception was the direct cause", "During handling of the above exception"
# an error that only says that another one came before it
ECHOES = re.compile(
    r"See root cause above|See stack trace|EngineDeadError|EngineCore encountered|cancelled|KeyboardInterrupt|"
    r"SystemExit|"
    r"Connection (?:closed|reset) by peer|Broken pipe|DistStoreError|DistNetworkError: failed to recv|leaked|"
    r"Exception: WorkerProc initialization failed"
)
DEAD_BY_SIGNAL = re.compile(r"Failed core proc\(s\): \{[^}]*: (-\d+)")


def phase(log: str) -> str:
    """Name the start-up phase that the log has reached, in words for the progress bar."""
    return max(PHASES, key=lambda entry: log.rfind(entry[0]) if entry[0] else -0.5)[1]


def last_error(log: str) -> str:
    """The error that ended the start, as the engine, a worker or the command itself reported it.

    Returns:
        Its line and those that belong to it, without prefixes, cut where they are long; empty where the log holds none.
        An error that only points to another ("See root cause above") is left out, and so is everything before a
        finished start.
    """
    found = _errors(log)
    return "\n".join(line[:LINE_CHARACTERS] for line in found[-1][0].splitlines()) if found else ""


def diagnose(log: str) -> tuple[str, str] | None:
    """Say what went wrong and what to do; None where the error that ended the start is not a known one."""
    found = _errors(log)
    chain = [found[-1][0], *found[-1][1]] if found else []
    for depth, error in enumerate(chain):
        for cause in CAUSES:
            known = re.search(cause["error"], error, re.IGNORECASE)
            if known and not (cause["error"] == MISSING_PACKAGE and depth):  # tried and done without
                groups = [group or "" for group in known.groups()]
                return cause["what"].format(*groups), cause["todo"].format(*groups)
    if not chain and (died := DEAD_BY_SIGNAL.search(log)):
        return _signal(-int(died[1]))
    return None


def _errors(log: str) -> list[tuple[str, list[str]]]:
    """Every error in the log that may have ended it, oldest first: its text, and what it was raised from."""
    lines = [_stripped(line) for line in log[log.rfind(UP) + 1 :].splitlines()]
    found: list[tuple[str, list[str]]] = []
    chain: list[str] = []
    for number, (process, level, text) in enumerate(lines):
        if text.startswith(CHAINED):
            if found:
                chain = [found[-1][0], *found[-1][1]]
        elif level not in ("DEBUG", "INFO", "WARNING") and (RAISED.match(text) or PLAIN.match(text)):
            block = [text]
            for follower, its_level, more in lines[number + 1 : number + ERROR_LINES]:
                if (follower, its_level) != (process, level) or more.startswith(("Traceback", *CHAINED)):
                    break
                if RAISED.match(more) or (PLAIN.match(more) and not more.startswith(" ")):
                    break
                block.append(more)
            error = "\n".join(block).strip()
            echo = ECHOES.search(block[0]) or (found and "failed to be inspected" in error)
            if not echo and not _handled(lines, number):
                found.append((error, chain))
            chain = []
    return found


def _handled(lines: list[tuple[str, str, str]], number: int) -> bool:
    """Whether the traceback that ends at this line was only logged: its first line says that something is skipped."""
    for _, _, text in reversed(lines[max(0, number - 200) : number]):
        if text.startswith("Traceback"):
            continue
        if not text.startswith((" ", *CHAINED)) and text and not RAISED.match(text):
            return bool(
                re.search(r"Failed to (?:load|import)|falling back|unavailable|skipp|ignor", text, re.IGNORECASE)
            )
    return False


def _stripped(line: str) -> tuple[str, str, str]:
    """(process, level, text) of a line; the level is empty where the line has none."""
    process = PROCESS.match(line)
    rest = line[process.end() :] if process else line
    stamp = STAMP.match(rest)
    return (
        process["name"] if process else "",
        stamp["level"] if stamp else "",
        rest[stamp.end() :].rstrip() if stamp else rest.rstrip(),
    )


def _signal(number: int) -> tuple[str, str] | None:
    return {
        4: (
            "引擎进程用了这个 CPU 没有的指令（SIGILL）。",
            "看 CPU 支不支持 AVX2（lscpu | grep avx2），不支持就换一台机器。",
        ),
        6: (
            "引擎进程自己中止了（SIGABRT）。",
            "原因在日志里最后几行，多半是驱动或显卡库报的错：运行体检（make doctor）。",
        ),
        7: (
            "引擎进程写不进共享内存（SIGBUS），多半是 /dev/shm 太小。",
            "容器加 --shm-size=8g（或 --ipc=host）再启动。",
        ),
        9: (
            "引擎进程被系统杀死了（SIGKILL），多半是内存不够。",
            "用 free -h 看内存，关掉别的程序，或换内存更大的机器；容器要看内存上限。",
        ),
        11: ("引擎进程崩溃了（段错误，SIGSEGV）。", "运行体检（make doctor）看版本和驱动是否配套，再重新安装环境。"),
    }.get(number)


def tail(file: Path, *, lines: int | None = None) -> str:
    """The last `lines` lines of a log (None: all of its last 200 kB); empty where it cannot be read."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - TAIL_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text if lines is None else "\n".join(text.splitlines()[-lines:] if lines > 0 else [])
