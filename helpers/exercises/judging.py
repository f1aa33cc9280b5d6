"""What the checks are made of: reading an answer, calling a learner's function, and saying what is wrong."""

from __future__ import annotations

import math
import re
import signal
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

__all__ = [
    "Judge", "NotJudged", "TooLong", "Wrong", "call", "choices", "first_line", "gone", "kind", "letter", "number",
    "same", "short", "time_limit", "unanswered",
]  # fmt: skip

Judge = Callable[..., None]  # takes the answers; returns when they are right, else raises `Wrong` or `NotJudged`

KINDS = {
    "str": "字符串", "int": "整数", "float": "小数", "bool": "布尔值", "list": "列表",
    "tuple": "元组", "dict": "字典", "set": "集合", "function": "函数",
}  # fmt: skip


NO_ENGINE = r"EngineDeadError|EngineCore|parallel group is not initialized|has no attribute '(llm_engine|chat)'"
NO_SERVER = {"APIConnectionError", "ConnectError", "ConnectTimeout", "ReadError", "RemoteProtocolError"}


class Wrong(Exception):
    """The answer is wrong; the message says in what, not what would be right. `hint` fits just this mistake."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class NotJudged(Exception):
    """There is nothing to judge, or no means to: the message says why. It does not count as a try."""


class TooLong(BaseException):
    """The time is up. Not an `Exception`: the answer's own `except Exception` must not swallow it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End what runs inside with `TooLong`; without effect outside the main thread, where no signal arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # and again each second: a bare `except:` swallows one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def gone(error: BaseException | None) -> NotJudged | None:
    """What to say when it was the engine or the server that failed, not the answer."""
    while error is not None:
        name = type(error).__name__
        if re.search(NO_ENGINE, f"{name}: {error}"):
            return NotJudged("没有检查成：引擎坏了，或者已经释放。重新运行第 2 节建引擎的那一格，再运行这一格。")
        if name in NO_SERVER:
            return NotJudged("没有检查成：连不上服务器。看看函数里的地址；地址没错，就重新运行启动服务器的那一格。")
        error = error.__cause__ or error.__context__
    return None


def unanswered(answer: object) -> bool:
    """Whether the placeholder `...` still stands in the answer."""
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    return answer is ... or (isinstance(answer, list | tuple) and any(unanswered(part) for part in answer))


def kind(value: object) -> str:
    """The kind of a value in plain words, to stand after a Chinese word: a name in Latin letters brings its space."""
    return KINDS.get(type(value).__name__) or (" None" if value is None else f" {type(value).__name__}")


def short(value: object, *, width: int = 60) -> str:
    """A value on one line, cut to `width` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().split("\n")[0][:120] or "没有说明"


def number(answer: object) -> float:
    """Read a number: `515`, `515.0`, `"515"`, `"1,024 个"`."""
    if isinstance(answer, str):
        found = re.match(r"[-+]?\d[\d,]*(\.\d+)?", unicodedata.normalize("NFKC", answer).strip())
        if not found:
            raise Wrong(f"要一个数，得到的是 {short(answer)}。")
        return float(found[0].replace(",", ""))
    if isinstance(answer, bool) or not isinstance(answer, Real) or not math.isfinite(answer):
        raise Wrong(f"要一个数，得到的是{kind(answer)}。")
    return float(answer)


def letter(value: object) -> str:
    """A letter as it was meant: upper case, half width, no blanks."""
    return unicodedata.normalize("NFKC", str(value)).strip().upper()


def choices(answer: object, *, keys: Sequence[object], letters: str) -> dict[object, str]:
    """Read a mapping from each key (a number or its text) to one of `letters`, in either case."""
    if not isinstance(answer, Mapping):
        raise Wrong(f"要一个字典，得到的是{kind(answer)}。")
    read = {str(key).strip(): letter(value) for key, value in answer.items()}
    missing = [str(key) for key in keys if str(key) not in read]
    if missing:
        raise Wrong(f"还少 {'、'.join(missing)}。")
    odd = [str(key) for key in keys if len(read[str(key)]) != 1 or read[str(key)] not in letters]
    if odd:
        raise Wrong(f"{'、'.join(odd)} 要填 {letters[0]} 到 {letters[-1]} 里的一个字母。")
    return {key: read[str(key)] for key in keys}


def call(function: object, *args: Any, about: str, **kwargs: Any) -> Any:
    """Call the learner's function; what it raises is told in one sentence. `about` names the case."""
    if not callable(function):
        raise Wrong(f"要交一个函数，得到的是{kind(function)}。交函数名本身，后面不要加括号。")
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        if reason := gone(error):
            raise reason from None
        raise Wrong(f"{about}，函数抛出了 {type(error).__name__}：{first_line(error)}") from None
    if unanswered(value):
        raise NotJudged("还没有作答：写完函数，再运行这一格。")
    return value


def same(value: object, wanted: object, *, about: str, note: str = "") -> None:
    """Compare what the learner's function returned with what it should."""
    if value is None and wanted is not None:
        raise Wrong(f"{about}，函数返回了 None。是不是漏了 return？")
    if value != wanted:
        raise Wrong(f"{about}，函数返回 {short(value)}。{note}")
