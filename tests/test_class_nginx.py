"""The real nginx with the class server's real settings, before a stand-in that says what it was sent."""

from __future__ import annotations

import http.server
import json
import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from class_kit import CLOSED, DEADLINE_S, NO_KEY, TOO_LARGE, a_port, bearer, calls, raw, until

from helpers.classroom.keys import add_keys, read_keys, write_conf, write_map
from helpers.machine import port_is_free

pytestmark = pytest.mark.extra

UPSTREAM_KEY = "the-internal-key"


class Upstream(http.server.BaseHTTPRequestHandler):
    """Says what it was sent; a prompt of "stream" gets one event now and one when `go_on` is set."""

    go_on = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        if b"stream" in body:
            self.wfile.write(b"data: 1\n\n")
            assert self.go_on.wait(DEADLINE_S)
            self.wfile.write(b"data: 2\n\n")
        else:
            self.wfile.write(json.dumps([self.path, dict(self.headers), len(body)]).encode())

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *args: object) -> None:
        pass


@dataclass
class Front:
    port: int
    keys: dict[str, str]
    folder: Path

    def post(self, learner: str, body: object = "", **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}/v1/completions"
        sent = bearer(self.keys[learner]) | {"Content-Type": "application/json"} | headers
        return httpx.post(url, content=content, headers=sent, trust_env=False, timeout=DEADLINE_S)


@pytest.fixture
def front(class_dir: Path, nginx: str) -> Iterator[Front]:
    """The real nginx with its real settings before `Upstream`."""
    port = a_port()
    add_keys(class_dir, 3)
    write_map(class_dir)
    Upstream.go_on.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        write_conf(
            class_dir, host="127.0.0.1", port=port, upstream_port=upstream.server_port, upstream_key=UPSTREAM_KEY
        )
        with (class_dir / "nginx.log").open("wb") as log:
            running = subprocess.Popen([nginx, "-p", str(class_dir), "-c", "nginx.conf"], stderr=log)
        until(lambda: not port_is_free(port))
        yield Front(port, read_keys(class_dir), class_dir)
        Upstream.go_on.set()
        running.terminate()
        running.wait(DEADLINE_S)
        upstream.shutdown()


def test_the_engine_is_told_nothing_but_the_request(front: Front) -> None:
    path, headers, size = front.post("learner-01", {"prompt": "1"}, **{"X-Request-Id": "7", "Cookie": "c"}).json()
    assert (path, size) == ("/v1/completions", len('{"prompt": "1"}'))
    assert headers.pop("Authorization") == f"Bearer {UPSTREAM_KEY}"
    assert set(headers) == {"Host", "Connection", "Content-Type", "Content-Length"}
    path, *_ = httpx.get(f"http://127.0.0.1:{front.port}/health", trust_env=False).json()  # without a key
    assert path == "/health"


def test_a_stream_arrives_event_by_event(front: Front) -> None:
    headers = bearer(front.keys["learner-01"])
    url = f"http://127.0.0.1:{front.port}/v1/chat/completions"
    with httpx.stream("POST", url, content=b"stream", headers=headers, trust_env=False, timeout=DEADLINE_S) as answer:
        events = answer.iter_raw()
        assert next(events) == b"data: 1\n\n"
        Upstream.go_on.set()  # only now is the second one sent
        assert b"".join(events) == b"data: 2\n\n"


def test_a_large_body_is_refused_however_it_is_sent(front: Front) -> None:
    assert front.post("learner-01", b"x" * (256 * 1024)).json()[2] == 256 * 1024
    refused = front.post("learner-01", b"x" * (256 * 1024 + 1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (TOO_LARGE, TOO_LARGE)
    url = f"http://127.0.0.1:{front.port}/v1/completions"
    chunks = (b"x" * 1024 for _ in range(257))
    answer = httpx.post(url, content=chunks, headers=bearer(front.keys["learner-01"]), trust_env=False)
    assert answer.status_code == TOO_LARGE


def test_the_rate_of_one_learner_is_limited_and_of_no_other(front: Front) -> None:
    request = f"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {front.keys['learner-01']}\r\n"
    many = f"{request}\r\n" * 299 + f"{request}Connection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", front.port), timeout=DEADLINE_S) as connection:
        connection.sendall(many.encode())  # one after another on one connection: no limit but the rate
        answers = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    count = Counter(re.findall(r"HTTP/1\.1 (\d+)", answers))
    assert count["200"] >= 60 and count["429"] > 0 and count.total() == 300
    assert "Retry-After: 1\r\n" in answers and '"type":"rate_limit_error"' in answers
    assert front.post("learner-02").status_code == 200


def test_an_engine_that_is_gone_is_told_in_json(front: Front, nginx: str) -> None:
    write_conf(front.folder, host="127.0.0.1", port=front.port, upstream_port=a_port(), upstream_key=UPSTREAM_KEY)
    subprocess.run([nginx, "-p", str(front.folder), "-c", "nginx.conf", "-s", "reload"], check=True)
    answers: list[httpx.Response] = []
    until(lambda: answers.append(front.post("learner-01")) or answers[-1].status_code == 502)
    assert answers[-1].json()["error"]["type"] == "server_error"


@pytest.mark.parametrize("spelling", ["{0}", "basic {0}", "Bearer  {0}", "Bearer {0}x", "Bearer x{0}",
                                      "Bearer {1}", "Bearer", "", "Bearer .*", "Token {0}"])  # fmt: skip
def test_only_the_whole_key_counts(front: Front, spelling: str) -> None:
    key = next(key for key in front.keys.values() if key.swapcase() != key)
    header = spelling.format(key, key.swapcase())
    status, body = raw(front.port, "GET", "/v1/models", {"Authorization": header})
    assert (status, json.loads(body)["error"]["type"]) == (NO_KEY, "authentication_error")


def test_garbage_is_refused_and_no_key_is_logged(front: Front) -> None:
    key = front.keys["learner-01"]
    for request in [
        f"{key}\r\n\r\n",
        f"GET /{key} HTTP/1.1\r\n\r\n",
        f"GET / HTTP/9.9\r\nAuthorization: {key}\r\n\r\n",
    ]:
        with socket.create_connection(("127.0.0.1", front.port), timeout=DEADLINE_S) as connection:
            connection.sendall(f"{request}\r\n\r\n".encode())
            assert b" 200 " not in connection.recv(4096)
    for target in [f"/{key}", f"/v1/models?key={key}", f"/v1/{key}/models"]:
        assert raw(front.port, "GET", target, bearer(key))[0] == CLOSED
    assert front.post("learner-01", b"x" * 300_000, Cookie=key).status_code == TOO_LARGE
    assert raw(front.port, "GET", "/v1/models", {"Authorization": key, "User-Agent": key})[0] == NO_KEY
    until(lambda: len(calls(front.folder)) >= 7)
    logs = (front.folder / "access.log").read_text() + (front.folder / "nginx.log").read_text()
    assert key not in logs and UPSTREAM_KEY not in logs
