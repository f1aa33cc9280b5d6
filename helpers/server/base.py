"""What the calling notebooks use of a server, whoever runs it."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

import httpx

from helpers.errors import ServerError

__all__ = ["Server"]

CHECK_TIMEOUT_S = 10.0
# 200 says that the start is over and that the engine has not reported its death; one that hangs still gives 200.
HEALTHY = (httpx.codes.OK, httpx.codes.NOT_FOUND)  # a gateway may have no /health


class Server(Protocol):
    """A server that answers, until `stop`; also usable as `with` block.

    Attributes:
        base_url: `http://<host>:<port>`, without `/v1`.
        api_key: the key to call it with; `sk-xxx` where it asks for none, since clients insist on one.
        remote: True: somebody else runs it, and only `/health`, `/v1/models`, `/v1/completions` and
            `/v1/chat/completions` can be counted on.
    """

    base_url: str
    api_key: str
    remote: bool

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP header that carries the key."""
        return {"Authorization": f"Bearer {self.api_key}"}

    def start(self) -> Self:
        """Return once the server answers. Raises ServerError: it does not; the message says what to do."""

    def check(self) -> None:
        """Return if the server is still there: somebody may have stopped it since. Introduced in notebook 04.

        An engine that hangs is not noticed: only a request that asks for a token would show it.

        Raises:
            ServerError: it is not; the message is one sentence and the next step.
        """
        try:
            health = httpx.get(f"{self.base_url}/health", timeout=CHECK_TIMEOUT_S, trust_env=self.remote)
            what = "" if health.status_code in HEALTHY else f"上的引擎停了（/health 返回 {health.status_code}）"
        except httpx.TimeoutException:
            what = f"过了 {CHECK_TIMEOUT_S:g} 秒还没有回应"
        except (httpx.HTTPError, httpx.InvalidURL):
            what = "上没有服务器了：它停了，或者还没有启动"
        if what:
            raise ServerError(f"{self.base_url} {what}。下一步：从 server = … 那一格起，重新运行到这里。")

    def stop(self) -> None:
        """Stop the server, if it is ours to stop."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
