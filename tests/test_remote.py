"""Client mode: `connect` with a server that somebody else runs, and the `client` installation's imports."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import get_profile, server
from helpers.errors import ServerError
from helpers.server import VLLMServer, connect, state

KEY = "right-key-0123456789"


class Front(http.server.BaseHTTPRequestHandler):
    """A stand-in for somebody's server; `answers` holds path → (status, body)."""

    answers: dict[str, tuple[int, object]]

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, {}))
        if self.path == "/v1/models" and self.headers.get("Authorization") != f"Bearer {KEY}":
            status, body = 401, {"error": "Unauthorized"}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def base_url() -> Iterator[str]:
    Front.answers = {"/health": (200, ""), "/v1/models": (200, {"data": [{"id": "r1"}]})}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{front.server_port}"
        front.shutdown()


def client(base_url: str, key: str = KEY) -> server.RemoteServer:
    found = connect(get_profile({"TUTORIAL_BASE_URL": base_url, "TUTORIAL_API_KEY": key}))
    assert isinstance(found, server.RemoteServer)
    return found


def test_the_server_of_somebody_else_is_used_and_never_stopped(
    base_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with client(f"{base_url}/v1/") as one:
        assert one.remote and one.base_url == base_url
        assert (one.api_key, one.headers) == (KEY, {"Authorization": f"Bearer {KEY}"})
    shown = capsys.readouterr().out
    assert base_url in shown and "没有停它" in shown
    assert KEY not in shown + repr(one)


@pytest.mark.parametrize(("key", "says"), [("wrong-key", "不认识这个密钥"), ("", "请设 TUTORIAL_API_KEY")])
def test_a_wrong_or_missing_key_is_told_and_not_shown(base_url: str, key: str, says: str) -> None:
    with pytest.raises(ServerError, match=says) as caught:
        client(base_url, key)
    assert "wrong-key" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "answer", "says"),
    [
        ("/health", (503, ""), "/health 返回 503"),
        ("/v1/models", (200, {"data": [{"id": "qwen"}]}), "没有叫 r1 的模型，只有：qwen"),
        ("/v1/models", (200, {"hello": 1}), "不是模型列表"),
        ("/v1/models", (200, {"data": [7]}), "不是模型列表"),
        ("/v1/models", (404, {}), "HTTP 404"),
    ],
)
def test_a_server_that_will_not_do_is_told(base_url: str, path: str, answer: tuple[int, object], says: str) -> None:
    Front.answers[path] = answer
    with pytest.raises(ServerError, match=says):
        client(base_url)


def test_a_gateway_without_health_is_used(base_url: str) -> None:
    del Front.answers["/health"]
    client(base_url).check()


@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:7891/", "socks5://127.0.0.1:7891", "http://proxy.corp:port"])
def test_a_proxy_variable_that_cannot_be_read_is_told(
    base_url: str, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ServerError, match=r"代理变量.*unset ALL_PROXY"):
        client(base_url)


def test_an_unreachable_server_is_told() -> None:
    with pytest.raises(ServerError, match=r"连不上 http://127.0.0.1:9.*TUTORIAL_BASE_URL"):
        client("http://127.0.0.1:9")


def test_what_a_proxy_answers_itself_is_told(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", base_url)
    monkeypatch.setenv("no_proxy", "localhost")
    Front.answers["http://class.example:8000/health"] = (502, "")
    with pytest.raises(ServerError, match=r"代理 127\.0\.0\.1:\d+.*把 class\.example 加进 NO_PROXY"):
        client("http://class.example:8000")


def test_an_address_that_is_only_for_listening_is_told() -> None:
    with pytest.raises(ServerError, match=r"0\.0\.0\.0 只是监听时的写法"):
        client("http://0.0.0.0:9")


def test_without_a_base_url_our_own_server_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr(VLLMServer, "start", lambda one: one)
    monkeypatch.setattr(state, "STATE_DIR", tmp_path)  # no server that runs beside the tests is joined
    profile = replace(get_profile({"TUTORIAL_PROFILE": "classroom"}), port=8123)
    one = connect(profile)
    assert isinstance(one, VLLMServer)
    assert (one.remote, one.base_url, one.api_key) == (False, "http://127.0.0.1:8123", "sk-xxx")
    assert one.env["VLLM_CPU_KVCACHE_SPACE"] == profile.engine_env["VLLM_CPU_KVCACHE_SPACE"]
