"""`helpers.server` with the real `vllm serve`: the faults that the real engine can show."""

import json
import os
import random
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from helpers import get_profile
from helpers.config import CLASSROOM_MODEL_DIR
from helpers.errors import ServerError
from helpers.machine import free_port, port_is_free
from helpers.server import VLLMServer, serve_command, startup
from helpers.server import state as processes
from helpers.server.__main__ import main
from helpers.server.state import StateFile

pytestmark = pytest.mark.engine

PROFILE = replace(get_profile({"TUTORIAL_PROFILE": "classroom"}), max_model_len=512)
MODEL = Path(os.environ.get("TUTORIAL_MODEL_DIR") or CLASSROOM_MODEL_DIR)
DEADLINE_S = 120.0
STREAMS = 8
KEY = "k-314159"
OPEN_PATHS = ["/health", "/metrics", "/docs"]


def build(port: int, *extra: str, model: Path = MODEL, **options: object) -> VLLMServer:
    command = serve_command(PROFILE, model, port=port, extra=extra)
    return VLLMServer(command, env=PROFILE.engine_env, ready_timeout_s=DEADLINE_S, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A free port, with state and log folders of these tests alone; afterwards nothing may be left."""
    folder = tmp_path_factory.mktemp("engine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "STATE_DIR", folder / "servers")
        patch.setattr(startup, "LOG_DIR", folder / "logs")
        patch.setenv("http_proxy", "http://127.0.0.1:9")  # a dead proxy, for all of these tests
        port = free_port(random.randrange(20000, 30000))
        yield port
        main(["stop"])
    assert port_is_free(port)


def session_of(port: int) -> list[psutil.Process]:
    state = StateFile(processes.STATE_DIR / f"{port}.json").read()
    assert state
    found = processes.members(state)
    assert len(found) >= 4  # keeper, API server, engine core, worker (and a resource tracker)
    return found


def nothing_left(port: int, everything: list[psutil.Process]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(process.is_running() for process in everything) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [process for process in everything if process.is_running()]
    assert port_is_free(port)
    assert not (processes.STATE_DIR / f"{port}.json").exists()


def stream(one: VLLMServer, started: threading.Semaphore) -> None:
    body = {"model": PROFILE.served_model_name, "prompt": "1", "max_tokens": 480, "ignore_eos": True, "stream": True}
    headers = {"Authorization": f"Bearer {KEY}"}
    try:
        with httpx.stream(
            "POST", f"{one.base_url}/v1/completions", json=body, headers=headers, trust_env=False, timeout=DEADLINE_S
        ) as answer:
            for number, _ in enumerate(answer.iter_lines()):
                if number == 0:
                    started.release()
    except httpx.HTTPError:
        pass  # the server was stopped


def load(one: VLLMServer) -> list[threading.Thread]:
    """Put `STREAMS` requests in flight and return once each has its first token."""
    started = threading.Semaphore(0)
    threads = [threading.Thread(target=stream, args=(one, started)) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert started.acquire(timeout=DEADLINE_S)
    return threads


def test_one_life_key_attach_in_flight_kill_restart_stop(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """In turn: the key, what it does not guard, attaching, SIGKILL while answering, a stop in flight."""
    one = build(port, api_key=KEY).start()
    assert one.pid and one.ready_after_s > 0
    models = f"{one.base_url}/v1/models"
    assert httpx.get(models, trust_env=False).status_code == 401
    card = httpx.get(models, headers={"Authorization": f"Bearer {KEY}"}, trust_env=False).json()["data"][0]
    assert (card["id"], card["root"]) == (PROFILE.served_model_name, str(MODEL))
    for path in OPEN_PATHS:  # what the key does not guard
        assert httpx.get(one.base_url + path, trust_env=False).status_code == 200
    tokens = httpx.post(f"{one.base_url}/tokenize", json={"model": card["id"], "prompt": "1"}, trust_env=False)
    assert tokens.status_code == 200
    state = (processes.STATE_DIR / f"{port}.json").read_text()
    argvs = [str(process.cmdline()) for process in psutil.process_iter() if process.pid != os.getpid()]
    assert KEY not in capsys.readouterr().out + one.log_file.read_text() + state + str(argvs) + repr(one)

    again = build(port, api_key=KEY).start()  # the same notebook, run twice
    assert again.attached and again.pid == one.pid
    with pytest.raises(ServerError, match=r"config\.json"):  # another model, which cannot be served: the old one stays
        build(port, model=MODEL.parent, api_key=KEY).start()
    assert one.pid == again.pid

    keeper, *orphans = session_of(port)
    threads = load(one)
    os.kill(one.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(DEADLINE_S)
    psutil.wait_procs(orphans, timeout=DEADLINE_S)
    assert not [process for process in orphans if process.is_running()]  # the keeper ended them, unasked
    capsys.readouterr()

    with build(port, api_key=KEY) as new:
        assert "意外结束" in capsys.readouterr().out
        assert not new.attached
        assert not keeper.is_running()
        everything = session_of(port)
        threads = load(new)
    for thread in threads:
        thread.join(DEADLINE_S)
    nothing_left(port, everything)
    again.stop()  # stopped already: says so, does nothing


def test_start_faults_of_the_real_engine(port: int, tmp_path: Path) -> None:
    """Four that fail, started at once, each on a port of its own."""
    endless = shutil.copytree(MODEL, tmp_path / "model")
    config = json.loads((endless / "config.json").read_text())
    (endless / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8_000_000}))
    attempts = {
        "不认识参数 --enable-reasoning": build(free_port(port + 100), "--enable-reasoning"),
        "--max-model-len 100000 超过了模型支持的上限": build(free_port(port + 200), "--max-model-len", "100000"),
        "空闲内存不够": build(free_port(port + 300), "--gpu-memory-utilization", "0.999"),
        r"KV cache 放不下：一条 4000000 token 的请求要 [\d.]+ GiB": build(
            free_port(port + 400), "--max-model-len", "4000000", model=endless
        ),
    }
    attempts["空闲内存不够"].env.pop("VLLM_CPU_KVCACHE_SPACE")  # else it decides, not the fraction

    def fail(one: VLLMServer) -> str:
        with pytest.raises(ServerError) as caught:
            one.start()
        return str(caught.value)

    with ThreadPoolExecutor() as pool:
        told = list(pool.map(fail, attempts.values()))
    for (says, one), said in zip(attempts.items(), told, strict=True):
        assert re.search(says, said)
        assert "下一步" in said and str(one.log_file) in said
        assert "See root cause above" not in said.partition("其中要紧的几行")[2]
        nothing_left(one.port, [])
