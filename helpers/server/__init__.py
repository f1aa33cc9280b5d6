"""Start, find and stop the `vllm serve` of this course, or use one that somebody else runs. Introduced in notebook 04.

`python -m helpers.server status` lists the servers that the course started, `… stop` ends them.
"""

from __future__ import annotations

import os

from helpers.config import Profile
from helpers.models import find_model
from helpers.server.base import Server
from helpers.server.command import ServeCommand, serve_command
from helpers.server.local import VLLMServer
from helpers.server.neighbour import shared_port
from helpers.server.remote import RemoteServer

__all__ = ["Server", "VLLMServer", "connect", "serve_command"]


def connect(profile: Profile) -> Server:
    """The server that the calling notebooks talk to: the one that `profile.base_url` names, else one of our own.

    Our own is `serve_command(profile, find_model(profile))`. It is joined where another notebook runs it already, on
    whichever port; else it is started, on `profile.port` or the next port that is free. Introduced in notebook 05.

    Raises:
        ModelError: there is no whole model to serve.
        ServerError: no server can be used; the message says why and what to do.
    """
    if profile.base_url:
        return RemoteServer(profile).start()
    command = ServeCommand(serve_command(profile, find_model(profile)))
    port = shared_port(command, keyed=bool(os.environ.get("VLLM_API_KEY")))
    return VLLMServer(command.at_port(port).words, env=profile.engine_env).start()
