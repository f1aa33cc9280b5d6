"""One engine after another in one kernel, and what each wrote into its log. Introduced in notebook 10."""

from __future__ import annotations

import gc
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from vllm import LLM

__all__ = ["EngineLog", "release"]


class EngineLog(logging.Handler):
    """Collect what vLLM logs in this process while the `with` block runs.

    Attributes:
        lines: the messages, in order, without level, time and file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        from vllm import logger
        from vllm.config.logging import LoggingConfig

        logger.configure_logging_if_needed(LoggingConfig())  # the first engine would do so, and drop our handler
        logger._print_info_once.cache_clear()  # a line that an earlier engine wrote is written again
        vllm = logging.getLogger("vllm")
        self._level_before = vllm.level
        vllm.setLevel(logging.INFO)
        vllm.addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        vllm = logging.getLogger("vllm")
        vllm.removeHandler(self)
        vllm.setLevel(self._level_before)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def about(self, *words: str) -> list[str]:
        """The lines that hold one of the words."""
        return [line for line in self.lines if any(word in line for word in words)]


def release(llm: LLM | None) -> None:
    """Shut an engine of this process down and give its memory back; the name that held it must then hold None."""
    from vllm.distributed import cleanup_dist_env_and_memory

    if llm is not None:
        llm.llm_engine.engine_core.shutdown()
        del llm
    gc.collect()
    cleanup_dist_env_and_memory()
