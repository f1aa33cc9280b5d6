"""The log of one start of a server, and what to tell: of the paths that it opens, and when it failed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from helpers.config import REPO_ROOT
from helpers.server import log as server_log
from helpers.server.neighbour import Refusal

__all__ = ["GUARDED", "OPEN_PATHS", "new_log", "why"]

LOG_DIR = REPO_ROOT / "build" / "logs"
KEPT_LOGS = 5  # a port
LOG_LINES = 12
GUARDED = "/v1、/v2、/inference、/cohere"
OPEN_PATHS = (
    f"注意：密钥只管 {GUARDED} 开头的路径，别的谁都能用：/invocations、/generative_scoring 也能推理"
    "，还有管理用的 /scale_elastic_ep，和 /metrics、/tokenize。前面要放反向代理，只放行 /v1/models、/v1/completions、"
    "/v1/chat/completions。"
)
UNKNOWN = (
    "在日志里从下往上找 Error。如果那一行只说 Engine core initialization failed. See root cause above，就再往上，"
    "找引擎进程（EngineCore 或 Worker）自己报的那一行，拿它去搜；一行都没有，多半是进程被系统杀死了，先看内存。"
)


def new_log(port: int) -> Path:
    """A log file of its own for each start, so that the next one does not wipe out what the last one said."""
    LOG_DIR.mkdir(parents=True, exist_ok=True)
    for old in sorted(LOG_DIR.glob(f"server-{port}-*.log"))[: 1 - KEPT_LOGS]:
        old.unlink(missing_ok=True)
    return LOG_DIR / f"server-{port}-{datetime.now():%Y%m%d-%H%M%S-%f}.log"


def why(what: str, log_file: Path, passed: Refusal | None) -> str:
    """Tell why a start failed, and what to do.

    Args:
        what: what was seen of it.
        passed: the server that kept us from the port asked for: it may also keep the memory.
    """
    log = server_log.tail(log_file)
    reason, todo = server_log.diagnose(log) or ("", UNKNOWN)
    if passed:
        todo += f"\n先前的端口{passed.why}，它也占着内存或显存。不用它的话，在终端里停掉它：{passed.stop}"
    shown = server_log.excerpt(log, lines=LOG_LINES)
    return f"{what}{reason}\n下一步：{todo}\n这次的日志留在 {log_file}。其中要紧的几行：\n{shown}"
