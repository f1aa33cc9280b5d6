"""The class server with the real nginx and the real vLLM, thirty learners, and one of them on a bare machine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import nbformat
import openai
import psutil
import pytest
from class_kit import (
    CLOSED,
    DEADLINE_S,
    NO_KEY,
    TOO_LARGE,
    TOO_MANY,
    a_port,
    bearer,
    both,
    calls,
    nothing_left,
    raw,
    until,
)

from helpers.authoring import series
from helpers.classroom import server as class_server
from helpers.classroom.keys import add_keys, read_keys
from helpers.config import REPO_ROOT
from helpers.server import state as processes
from helpers.server.state import State

pytestmark = [pytest.mark.extra, pytest.mark.engine]

OPEN = {("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions")}
LEARNERS = 30
AT_ONCE = 32  # requests of one learner that may run at the same time
GREEDY = 60  # requests that one sends at once
CALLING = ("05", "06", "08")  # the notebooks that need a server and no engine


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
        patch.setattr(processes, "STATE_DIR", folder / "servers")
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


def test_whatever_vllm_answers_without_a_key_is_closed(klass: Class) -> None:
    upstream = klass.engine.port
    without_key = {(m, p) for m, p in routes(klass) if raw(upstream, m, p, {"Content-Length": "0"})[0] != NO_KEY}
    assert without_key >= {("POST", "/invocations"), ("GET", "/metrics"), ("POST", "/tokenize"), ("GET", "/docs")}
    for method, path in without_key - {("GET", "/health")}:
        not_passed_on(klass, method, path, bearer(klass.keys[0]))
        not_passed_on(klass, method, path, {})


def test_of_v1_only_three_interfaces_are_open(klass: Class) -> None:
    closed = routes(klass) - OPEN - {("GET", "/health")}
    assert {("POST", "/v1/responses"), ("POST", "/v1/chat/completions/batch")} <= closed
    for method, path in closed:
        not_passed_on(klass, method, path, bearer(klass.keys[0]))
    for method, path in OPEN:
        assert raw(klass.port, method, path, {"Content-Length": "0"})[0] == NO_KEY
        assert raw(klass.port, method, path, bearer(klass.keys[0]) | {"Content-Length": "0"})[0] in (200, 400, 415)


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


def test_thirty_learners_at_once_are_all_served(klass: Class) -> None:
    async def everybody() -> list[tuple[int, float, str]]:
        async with new_client(klass) as client:
            return await asyncio.gather(*(chat(client, key) for key in klass.keys[:LEARNERS]))

    answers = asyncio.run(everybody())
    assert [status for status, *_ in answers] == [200] * LEARNERS
    assert len({text for *_, text in answers}) == 1 and "神经网络" in answers[0][2]
    write_figures("thirty at once", [ttft_s for _, ttft_s, _ in answers], served=len(answers), refused=0)


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
    lessons = [path for path in series.notebook_paths() if path.name[:2] in CALLING]
    solutions = [path for path in series.solution_paths() if path.name[:2] in CALLING]
    assert len(lessons) == len(solutions) == len(CALLING)
    for path in lessons + solutions:
        name = str(path.relative_to(series.NOTEBOOKS_DIR).with_suffix(""))
        copy = clone / "notebooks" / f"{name}.ipynb"
        copy.write_text(copy.read_text().replace(" and not server.remote", ""))  # this class has the classroom model
        execute = [str(venv / "bin" / "jupyter"), "execute", "--inplace", "--kernel_name=python3", f"{name}.ipynb"]
        subprocess.run(execute, check=True, cwd=clone / "notebooks", env=env)
        stored, run = (nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4) for root in (REPO_ROOT, clone))
        assert klass.keys[1] not in nbformat.writes(run)
        for before, after in zip(stored.cells, run.cells, strict=True):
            shown = "".join(output.get("text", "") for output in after.get("outputs", []))
            if "nbval-check-output" in before.metadata.get("tags", []):
                assert shown == "".join(output.text for output in before.outputs), before.id


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
    for file in [*klass.folder.iterdir(), *processes.STATE_DIR.iterdir()]:
        if file.name in private:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        elif file.is_file():
            texts.append(file.read_text())
    assert not [key for key in [internal, *klass.keys] for text in texts if key in text]


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
