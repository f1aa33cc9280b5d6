"""What the calling notebooks use of a server, whoever runs it."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

__all__ = ["Server"]


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

    def stop(self) -> None:
        """Stop the server, if it is ours to stop."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
