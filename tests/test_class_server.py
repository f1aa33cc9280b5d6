"""The class server with the real nginx; from `klass` on, with the real vLLM behind it. Everything on 127.0.0.1.

A machine without nginx skips these tests, except where TUTORIAL_CI is set.
"""

from __future__ import annotations

import asyncio
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nbformat
import openai
import psutil
import pytest

from helpers.classroom import server as class_server
from helpers.classroom.keys import add_keys, read_keys, write_conf, write_map
from helpers.config import CLASSROOM_MODEL_DIR, REPO_ROOT
from helpers.errors import ServerError
from helpers.machine import free_port
from helpers.server import local as server
from helpers.server import serve_command
from helpers.server import state as processes
from helpers.server.state import State

FAKE = [sys.executable, str(Path(__file__).parent / "fakes" / "fake_vllm.py")]
UPSTREAM_KEY = "the-internal-key"
DEADLINE_S = 120.0
CLOSED, NO_KEY, TOO_LARGE, TOO_MANY = 404, 401, 413, 429
OPEN = {("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions")}
LEARNERS = 30
AT_ONCE = 32  # requests of one learner that may run at the same time
GREEDY = 60  # requests that one sends at once
LESSONS = ["05_call_with_curl", "06_call_with_openai_sdk", "07_benchmark"]  # what runs without an engine
CLIENT_NOTEBOOKS = LESSONS + [f"solutions/{name}" for name in LESSONS]


@pytest.fixture(scope="module")
def nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:{class_server.SBIN}")
    if found is None and os.environ.get("TUTORIAL_CI"):
        pytest.fail("nginx is missing: .ci/run installs it")
    return found or pytest.skip("nginx is not installed: sudo apt-get install nginx")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """State, logs and keys of this test alone."""
    monkeypatch.setattr(class_server, "CLASS_DIR", tmp_path / "class")
    monkeypatch.setattr(server, "STATE_DIR", tmp_path / "servers")
    return tmp_path / "class"


def a_port() -> int:
    return free_port(random.randrange(20000, 30000))


def until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def raw(port: int, method: str, target: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """One request whose target is sent as it stands, whatever its spelling."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result


def calls(folder: Path) -> list[dict[str, Any]]:
    *lines, _unfinished = (folder / "access.log").read_text().split("\n")
    return [json.loads(line) for line in lines]


def alive(everything: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a keeper that ended is a zombie until pytest, its parent, ends too."""
    return [process for process in everything if processes.living((process.pid, process.create_time()))]


def nothing_left(folder: Path, everything: list[psutil.Process], *ports: int) -> None:
    until(lambda: not alive(everything))
    assert all(processes.port_is_free(port) for port in ports)
    assert not (folder / "nginx.json").exists()
    assert not list(server.STATE_DIR.glob("*.json"))


# ---------------------------------------------------------------- keys and arguments: neither nginx nor engine


def test_keys_are_private_and_only_the_new_ones_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert class_server.main(["keys", "30"]) == 0
    first = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(first)[::29] == ["learner-01", "learner-30"]
    assert len(set(first.values())) == 30 and min(map(len, first.values())) >= 22
    assert read_keys(folder) == first
    assert stat.S_IMODE((folder / "keys.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    text = (folder / "keys.txt").read_text().replace("learner-02 ", "安娜\t") + "# a note"
    (folder / "keys.txt").write_text(text)
    assert class_server.main(["keys", "2"]) == 0
    new = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(new) == ["learner-02", "learner-31"]
    assert read_keys(folder)["安娜"] == first["learner-02"]
    assert "# a note\n" in (folder / "keys.txt").read_text()
    write_map(folder)
    assert stat.S_IMODE((folder / "learners.conf").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [
        "anna", "anna short", "an;na 0123456789abcdef", 'anna 0123456789"abcdef', "anna 0123456789abcdef extra",
        "anna $http_authorization", "anna 0123456789abc.*ef", "known 0123456789abcdef0", "other 0123456789abcdef-known",
    ],
)  # fmt: skip
def test_a_bad_line_of_the_keys_file_is_named_by_its_number(folder: Path, line: str) -> None:
    folder.mkdir()
    (folder / "keys.txt").write_text(f"known 0123456789abcdef-known\n{line}\n")
    with pytest.raises(ServerError, match="第 2 行") as caught:
        read_keys(folder)
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["start", "--host", "0.0.0.0; include /etc/passwd"], ["start", "--host", "everywhere"],
        ["start", "--port", "80"], ["start", "--port", "65535"], ["keys", "0"], ["keys", "many"], ["keys"], [],
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(folder: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        class_server.main(arguments)
    assert not folder.exists()


def test_what_is_missing_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(action: str) -> str:
        assert class_server.main([action]) == 1
        return capsys.readouterr().err

    assert "没有在运行" in says("reload") if add_keys(folder, 1) else ""
    (folder / "keys.txt").unlink()
    (tmp_path / "nginx").write_text("#!/bin/sh\n")
    (tmp_path / "nginx").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "helpers.classroom.server keys 30" in says("start")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(class_server, "SBIN", str(folder))
    assert "apt-get install -y nginx" in says("start")
    assert class_server.main(["stop"]) == class_server.main(["status"]) == 0
    assert capsys.readouterr().out.count("没有班级服务器在运行") == 2


# ---------------------------------------------------------------- nginx before a stand-in


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
def front(folder: Path, nginx: str) -> Iterator[Front]:
    """The real nginx with its real settings before `Upstream`."""
    port = a_port()
    add_keys(folder, 3)
    write_map(folder)
    Upstream.go_on.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        write_conf(folder, host="127.0.0.1", port=port, upstream_port=upstream.server_port, upstream_key=UPSTREAM_KEY)
        with (folder / "nginx.log").open("wb") as log:
            running = subprocess.Popen([nginx, "-p", str(folder), "-c", "nginx.conf"], stderr=log)
        until(lambda: not processes.port_is_free(port))
        yield Front(port, read_keys(folder), folder)
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


# ---------------------------------------------------------------- the two together, with a stand-in for vLLM


@pytest.fixture
def fake_engine(folder: Path, nginx: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """`start` runs the stand-in; the port for nginx. Afterwards nothing may be left."""

    def fake_command(*arguments: Any, **options: Any) -> list[str]:
        return [*FAKE, *serve_command(*arguments, **options)[1:]]

    monkeypatch.setattr(class_server, "serve_command", fake_command)
    monkeypatch.setenv("TUTORIAL_MODEL_DIR", str(CLASSROOM_MODEL_DIR))
    monkeypatch.setenv("TUTORIAL_PROFILE", "classroom")
    add_keys(folder, 1)
    yield a_port()
    class_server.stop()
    until(lambda: not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])])


def both(folder: Path) -> tuple[State, State, list[psutil.Process]]:
    """nginx, vLLM, and every process of the two."""
    front, [engine] = State.read(folder / "nginx.json"), [State.read(f) for f in server.STATE_DIR.glob("*.json")]
    assert front and engine
    everything = processes.members(front) + processes.members(engine)
    assert len(everything) >= 5  # two keepers, nginx with a worker, vLLM
    return front, engine, everything


def test_start_status_stop(fake_engine: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert class_server.main(["start", "--port", str(fake_engine)]) == 0
    assert f"TUTORIAL_BASE_URL=http://127.0.0.1:{fake_engine}\n" in capsys.readouterr().out
    assert class_server.main(["start", "--port", str(fake_engine)]) == 1
    assert "已经在运行" in capsys.readouterr().err
    assert class_server.main(["keys", "1"]) == 0  # takes effect at once
    new = capsys.readouterr().out.split()[1]
    assert raw(fake_engine, "GET", "/v1/models", bearer(new))[0] == 200
    front, engine, everything = both(folder)
    listening = {c.laddr.ip for p in everything for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    if os.getuid() == 0:
        assert {p.username() for p in everything if p.ppid() == front.pid} == {"nobody"}
    assert class_server.main(["stop"]) == 0
    nothing_left(folder, everything, fake_engine, engine.port)


@pytest.mark.parametrize("victim", ["nginx", "nginx's keeper", "vllm", "vllm's keeper"])
def test_when_one_is_killed_the_other_ends_and_a_new_start_works(fake_engine: int, folder: Path, victim: str) -> None:
    class_server.start(port=fake_engine)
    front, engine, everything = both(folder)
    state = front if "nginx" in victim else engine
    os.kill(state.processes[0][0] if "keeper" in victim else state.pid, signal.SIGKILL)
    until(lambda: not alive(everything))
    class_server.start(port=fake_engine)
    *_, everything = both(folder)
    assert class_server.stop()
    until(lambda: not alive(everything))
    assert processes.port_is_free(fake_engine)


def test_an_nginx_that_does_not_start_is_told_and_nothing_is_left(
    fake_engine: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", fake_engine)), pytest.raises(ServerError, match="端口已被占用"):
        class_server.start(port=fake_engine)
    (tmp_path / "nginx").write_text("#!/bin/sh\necho 'nginx: [emerg] something new' >&2; exit 1\n")
    (tmp_path / "nginx").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ServerError, match=r"nginx 没有启动起来.*\n.*something new"):
        class_server.start(port=fake_engine)
    nothing_left(folder, [], fake_engine)


# ---------------------------------------------------------------- the real vLLM and thirty learners


@dataclass
class Class:
    """The running class server."""

    port: int
    folder: Path
    engine: State
    processes: list[psutil.Process]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def keys(self) -> list[str]:
        return list(read_keys(self.folder).values())


@pytest.fixture(scope="module")
def klass(nginx: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Class]:
    folder = tmp_path_factory.mktemp("class")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_server, "CLASS_DIR", folder / "class")
        patch.setattr(server, "STATE_DIR", folder / "servers")
        patch.setenv("TUTORIAL_PROFILE", "classroom")
        add_keys(folder / "class", LEARNERS + 1)  # one to be revoked
        port = a_port()
        class_server.start(port=port)
        _, engine, everything = both(folder / "class")
        yield Class(port, folder / "class", engine, everything)
        class_server.stop()


def routes(klass: Class) -> set[tuple[str, str]]:
    """Method and path of everything that this vLLM serves: its own route table and its openapi.json."""
    log = (klass.folder / "vllm.log").read_text()
    table = re.findall(r"Route: (\S+), Methods: (.+)", log)
    described = httpx.get(f"http://127.0.0.1:{klass.engine.port}/openapi.json", trust_env=False).json()["paths"]
    table += [(path, ", ".join(methods).upper()) for path, methods in described.items()]
    found = {(method, re.sub(r"{.*?}", "1", path)) for path, methods in table for method in methods.split(", ")}
    assert found >= OPEN | {("GET", "/health"), ("POST", "/invocations"), ("GET", "/docs"), ("GET", "/openapi.json")}
    return found


def not_passed_on(klass: Class, method: str, target: str, headers: dict[str, str]) -> None:
    known = len(calls(klass.folder))
    status, _ = raw(klass.port, method, target, headers | {"Content-Length": "0"})
    assert status in (400, CLOSED, 405), (method, target)
    until(lambda: len(calls(klass.folder)) > known)  # the line is written after the answer
    last = calls(klass.folder)[-1]
    assert (last["status"], last["upstream_seconds"]) == (status, ""), (method, target)


@pytest.mark.engine
def test_whatever_vllm_answers_without_a_key_is_closed(klass: Class) -> None:
    upstream = klass.engine.port
    without_key = {(m, p) for m, p in routes(klass) if raw(upstream, m, p, {"Content-Length": "0"})[0] != NO_KEY}
    assert without_key >= {("POST", "/invocations"), ("GET", "/metrics"), ("POST", "/tokenize"), ("GET", "/docs")}
    for method, path in without_key - {("GET", "/health")}:
        not_passed_on(klass, method, path, bearer(klass.keys[0]))
        not_passed_on(klass, method, path, {})


@pytest.mark.engine
def test_of_v1_only_three_interfaces_are_open(klass: Class) -> None:
    closed = routes(klass) - OPEN - {("GET", "/health")}
    assert {("POST", "/v1/responses"), ("POST", "/v1/chat/completions/batch")} <= closed
    for method, path in closed:
        not_passed_on(klass, method, path, bearer(klass.keys[0]))
    for method, path in OPEN:
        assert raw(klass.port, method, path, {"Content-Length": "0"})[0] == NO_KEY
        assert raw(klass.port, method, path, bearer(klass.keys[0]) | {"Content-Length": "0"})[0] in (200, 400, 415)


@pytest.mark.engine
def test_hostile_spellings_and_other_methods_are_closed(klass: Class) -> None:
    targets = [
        "//v1/models", "/v1//models", "/./v1/models", "/v1/./models", "/v1/models/", "/v1/models/.", "/v1/models?x=1",
        "/v1/models?", "/v1/models;x", "/v1/models%20", "/v1/models%00", "/v1/models#x", "/V1/models", "/v1/Models",
        "/v1%2fmodels", "/%76%31/models", "/v1/mode%6cs", "/v1\\models", "/v1/../invocations", "/v1/%2e%2e/invocations",
        "/v1/..%2finvocations", "/v1/.%2e/metrics", "/v1/models/../../metrics", "/health/../metrics", "/health?x",
        "/health%2f..%2fmetrics", "/health/", "http://127.0.0.1/invocations", "/", "*", "metrics", "/v1", "/v1/",
    ]  # fmt: skip
    for target in targets:
        for method in ("GET", "POST"):
            not_passed_on(klass, method, target, bearer(klass.keys[0]))
    for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "get"):
        for _, path in OPEN | {("GET", "/health")}:
            not_passed_on(klass, method, path, bearer(klass.keys[0]))


@pytest.mark.engine
def test_refusals_are_errors_of_the_openai_sdk(klass: Class) -> None:
    def client(key: str) -> openai.OpenAI:
        transport = httpx.Client(trust_env=False)
        return openai.OpenAI(base_url=f"{klass.base_url}/v1", api_key=key, max_retries=0, http_client=transport)

    good = client(klass.keys[0])
    assert [model.id for model in good.models.list()] == ["r1"]
    with pytest.raises(openai.AuthenticationError, match="密钥不对"):
        client("sk-xxx").models.list()
    with pytest.raises(openai.NotFoundError, match="不开放"):
        good.responses.create(model="r1", input="1")
    with pytest.raises(openai.APIStatusError, match="请求太大") as caught:
        good.completions.create(model="r1", prompt="1" * 300_000)
    assert caught.value.status_code == TOO_LARGE
    for many in ({"n": 9}, {"prompt": ["1"] * 9}):  # else one request could keep the engine busy for everybody
        with pytest.raises(openai.BadRequestError, match=r"at most 8|maximum allowed count of 8"):
            good.completions.create(**({"model": "r1", "prompt": "1"} | many))


def new_client(klass: Class) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=klass.base_url, trust_env=False, timeout=DEADLINE_S, limits=limits)


async def chat(client: httpx.AsyncClient, key: str) -> tuple[int, float, str]:
    """One streamed chat: status, seconds to the first token, answer."""
    messages = [{"role": "user", "content": "什么是深度学习？"}]
    body = {"model": "r1", "messages": messages, "temperature": 0, "stream": True}
    begin, ttft_s, text = time.perf_counter(), 0.0, ""
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=bearer(key)) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                delta = json.loads(line.removeprefix("data: "))["choices"][0]["delta"]
                word = delta.get("reasoning") or delta.get("content") or ""
                ttft_s = ttft_s or (time.perf_counter() - begin if word else 0.0)
                text += delta.get("content") or ""
    return answer.status_code, ttft_s, text


async def be_greedy(client: httpx.AsyncClient, key: str, count: Counter[int]) -> None:
    """`GREEDY` long answers at once; every status is counted as soon as it is known."""

    async def one() -> None:
        body = {"model": "r1", "prompt": "1", "max_tokens": 600, "ignore_eos": True, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body, headers=bearer(key)) as answer:
            count[answer.status_code] += 1
            await answer.aread()

    await asyncio.gather(*(one() for _ in range(GREEDY)))


def write_figures(name: str, ttfts_s: list[float], **counts: int) -> None:
    """Put what was measured into build/class/measured.json, to be quoted."""
    file = REPO_ROOT / "build" / "class" / "measured.json"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    known = json.loads(file.read_text()) if file.exists() else {}
    ranks = statistics.quantiles(ttfts_s, n=100, method="inclusive")
    figures = {"ttft_p50_s": round(ranks[49], 3), "ttft_p99_s": round(ranks[98], 3)} | counts
    file.write_text(json.dumps(known | {name: figures}, indent=1) + "\n")
    print(name, figures)


@pytest.mark.engine
def test_thirty_learners_at_once_are_all_served(klass: Class) -> None:
    async def everybody() -> list[tuple[int, float, str]]:
        async with new_client(klass) as client:
            return await asyncio.gather(*(chat(client, key) for key in klass.keys[:LEARNERS]))

    answers = asyncio.run(everybody())
    assert [status for status, *_ in answers] == [200] * LEARNERS
    assert len({text for *_, text in answers}) == 1 and "神经网络" in answers[0][2]
    write_figures("thirty at once", [ttft_s for _, ttft_s, _ in answers], served=len(answers), refused=0)


@pytest.mark.engine
def test_a_greedy_learner_starves_nobody(klass: Class) -> None:
    greedy, *others = klass.keys[:LEARNERS]
    count: Counter[int] = Counter()

    async def together() -> list[tuple[int, float, str]]:
        async with new_client(klass) as client:
            running = asyncio.create_task(be_greedy(client, greedy, count))
            while not (count[200] and count[TOO_MANY]) and not running.done():
                await asyncio.sleep(0.01)
            answers = await asyncio.gather(*(chat(client, key) for key in others))
            await running
        return answers

    answers = asyncio.run(together())
    assert [status for status, *_ in answers] == [200] * len(others)
    assert count.total() == count[200] + count[TOO_MANY] == GREEDY
    assert 0 < count[200] <= AT_ONCE
    ttfts_s = [ttft_s for _, ttft_s, _ in answers]
    write_figures(
        "beside a greedy one", ttfts_s, served=len(answers), greedy_served=count[200], refused=count[TOO_MANY]
    )


@pytest.mark.engine
def test_a_revoked_key_is_refused_while_the_server_goes_on(klass: Class) -> None:
    keys = read_keys(klass.folder)
    (kept, key), *_, (name, revoked) = keys.items()
    assert raw(klass.port, "GET", "/v1/models", bearer(revoked))[0] == 200
    body = {"model": "r1", "prompt": "1", "max_tokens": 600, "ignore_eos": True, "stream": True}
    url = f"{klass.base_url}/v1/completions"
    with httpx.stream("POST", url, json=body, headers=bearer(key), trust_env=False, timeout=DEADLINE_S) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        file = klass.folder / "keys.txt"
        file.write_text("".join(line for line in file.open() if not line.startswith(f"{name} ")))
        class_server.reload()
        assert raw(klass.port, "GET", "/v1/models", bearer(revoked))[0] == NO_KEY
        assert "data: [DONE]" in list(lines)  # under way before the reload, finished after it
    assert raw(klass.port, "GET", "/v1/models", bearer(key))[0] == 200
    assert kept in {call["learner"] for call in calls(klass.folder)}


@pytest.mark.engine
def test_the_notebooks_run_on_a_learners_machine_without_an_engine(klass: Class, tmp_path: Path) -> None:
    """A fresh clone, an environment with nothing but the `client` extra, two variables: as README.md says."""
    clone, venv = tmp_path / "clone", tmp_path / "venv"
    leave_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "model", "tests", "images")
    shutil.copytree(REPO_ROOT, clone, ignore=leave_out)
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), "--editable", ".[client]"]
    subprocess.run(install, check=True, cwd=clone)
    heavy = "[m for m in ('torch', 'vllm', 'transformers', 'modelscope') if importlib.util.find_spec(m)]"
    check = [str(venv / "bin" / "python"), "-c", f"import importlib.util; print({heavy})"]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TUTORIAL", "VLLM"))}
    assert subprocess.run(check, check=True, capture_output=True, text=True, env=env, cwd=clone).stdout == "[]\n"

    env |= {"TUTORIAL_BASE_URL": f"{klass.base_url}/v1", "TUTORIAL_API_KEY": klass.keys[1], "PYTHONUTF8": "1"}
    for name in CLIENT_NOTEBOOKS:
        execute = [str(venv / "bin" / "jupyter"), "execute", "--inplace", "--kernel_name=python3", f"{name}.ipynb"]
        subprocess.run(execute, check=True, cwd=clone / "notebooks", env=env)
        stored, run = (nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4) for root in (REPO_ROOT, clone))
        assert klass.keys[1] not in nbformat.writes(run)
        for before, after in zip(stored.cells, run.cells, strict=True):
            shown = "".join(output.get("text", "") for output in after.get("outputs", []))
            if before.source.startswith("# engine"):
                assert "跳过" in shown, before.id
            elif "nbval-check-output" in before.metadata.get("tags", []) and "does not open" not in shown:
                assert shown == "".join(output.text for output in before.outputs), before.id


@pytest.mark.engine
def test_the_log_names_who_called_what_and_no_key_stands_anywhere(klass: Class) -> None:
    assert raw(klass.port, "GET", "/v1/models", bearer(klass.keys[2]))[0] == 200
    until(lambda: calls(klass.folder)[-1]["learner"] == "learner-03")
    last = calls(klass.folder)[-1]
    assert (last["method"], last["path"], last["status"], last["address"]) == ("GET", "/v1/models", 200, "127.0.0.1")
    assert last["bytes"] > 0 and last["seconds"] >= 0 and float(last["upstream_seconds"]) >= 0 and last["time"]
    conf = (klass.folder / "nginx.conf").read_text()
    [internal] = re.findall(r"Bearer (\S{43})\"", conf)
    private = {"keys.txt", "learners.conf", "nginx.conf"}
    texts = [str(process.cmdline()) for process in klass.processes if process.is_running()]
    for file in [*klass.folder.iterdir(), *server.STATE_DIR.iterdir()]:
        if file.name in private:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        elif file.is_file():
            texts.append(file.read_text())
    assert not [key for key in [internal, *klass.keys] for text in texts if key in text]


@pytest.mark.engine
def test_stop_with_streams_in_flight_leaves_nothing(klass: Class) -> None:
    async def stop_amid() -> None:
        count: Counter[int] = Counter()
        async with new_client(klass) as client:
            running = asyncio.create_task(be_greedy(client, klass.keys[0], count))
            while not count[200] and not running.done():
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(class_server.stop)
            with pytest.raises(httpx.HTTPError):
                await running

    asyncio.run(stop_amid())
    nothing_left(klass.folder, klass.processes, klass.port, klass.engine.port)
