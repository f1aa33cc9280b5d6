"""Start, find and stop the `vllm serve` of this course, or use one that somebody else runs. Introduced in notebook 04.

`python -m helpers.server status` lists the servers that the course started, `… stop` ends them.
"""

from __future__ import annotations

from helpers.config import Profile
from helpers.models import find_model
from helpers.server.base import Server
from helpers.server.command import serve_command
from helpers.server.local import VLLMServer
from helpers.server.remote import RemoteServer

__all__ = ["Server", "VLLMServer", "connect", "serve_command"]


def connect(profile: Profile) -> Server:
    """The server that the calling notebooks talk to: the one that `profile.base_url` names, else one of our own.

    Our own is started, or joined where it runs already, with `serve_command(profile, find_model(profile))`.
    Introduced in notebook 05.

    Raises:
        ModelError: there is no whole model to serve.
        ServerError: no server can be used; the message says why and what to do.
    """
    if profile.base_url:
        return RemoteServer(profile).start()
    return VLLMServer(serve_command(profile, find_model(profile)), env=profile.engine_env).start()
