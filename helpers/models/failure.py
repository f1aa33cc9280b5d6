"""A failed download as the rules see it: what was raised, from the outside in. For `explain_download_error`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from helpers.models.address import asked_proxy, place_of

__all__ = ["AGAIN", "ENDPOINT", "Failure", "chain", "endpoint"]

AGAIN = "再运行一次这一格：会接着下。"
ENDPOINT = "MODELSCOPE_ENDPOINT"


@dataclass(frozen=True)
class Failure:
    """One failed file, or the whole call: what was raised, from the outside in, and what that says."""

    file: str
    folder: str
    errors: tuple[BaseException, ...]
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", " | ".join(str(error) for error in self.errors))

    def of(self, *names: str) -> BaseException | None:
        """The outermost error that is, or inherits from, a class with one of these names."""
        return next((e for e in self.errors if {base.__name__ for base in type(e).__mro__} & set(names)), None)

    def attribute(self, name: str) -> object:
        return next((value for error in self.errors if (value := getattr(error, name, None)) is not None), None)

    @property
    def url(self) -> str:
        """The address that was asked; what the SDK does not tell stands in its text, or is the default."""
        told = [
            getattr(error, "url", "") or getattr(getattr(error, "request", None), "url", "") for error in self.errors
        ]
        found = re.search(r"(HTTPS?)Connection(?:Pool)?\(host='([^']+)', port=(\d+)", self.text)
        told += ["{}://{}:{}".format(found[1].lower(), *found.groups()[1:])] if found else []
        return next((url for url in map(str, told) if "://" in url), endpoint())

    @property
    def site(self) -> str:
        return place_of(self.url)

    @property
    def via(self) -> str:
        """A sentence about the proxy that the request went through; empty where there is none."""
        proxy = asked_proxy(self.url)
        return f"这次经过了代理 {proxy[1]}（环境变量 {proxy[0]}），也可能是它的问题。" if proxy else ""


def chain(error: BaseException) -> tuple[BaseException, ...]:
    """The error and all that it wraps: causes, contexts, `reason` and arguments."""
    found: dict[int, BaseException] = {}
    todo: list[object] = [error]
    while todo:
        inner = todo.pop(0)
        if isinstance(inner, BaseException) and id(inner) not in found:
            found[id(inner)] = inner
            context = None if inner.__suppress_context__ else inner.__context__
            todo += [inner.__cause__, context, getattr(inner, "reason", None), *inner.args]
    return tuple(found.values())


def endpoint() -> str:
    return os.environ.get(ENDPOINT, "").strip() or "https://www.modelscope.cn"
