"""`port_is_free`: a server that has the port but does not listen yet, and one that has just stopped."""

import random
import socket

from helpers.machine import free_port, port_is_free


def test_a_port_that_is_bound_but_not_listened_on_is_taken() -> None:
    """As vLLM does while it loads its model."""
    port = free_port(random.randrange(30000, 32000))
    with socket.socket() as loading:
        loading.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        loading.bind(("127.0.0.1", port))
        assert not port_is_free(port)
        assert free_port(port) > port
    assert port_is_free(port)


def test_a_port_whose_server_has_just_stopped_is_free() -> None:
    """The side that closes first keeps the address for a minute (TIME_WAIT)."""
    port = free_port(random.randrange(30000, 32000))
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as client:
        accepted, _ = server.accept()
        accepted.close()
        assert client.recv(1) == b""
    assert port_is_free(port)
