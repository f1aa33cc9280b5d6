"""The load test with the real SDK against a small HTTP server that streams as vLLM does, or fails."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import openai
import pytest

from helpers.bench.load import load_test
from helpers.bench.results import SERVING_FIELDS
from helpers.errors import BenchmarkError

FIRST_S, GAP_S = 0.05, 0.01


class Handler(http.server.BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    chunks: ClassVar[list[dict[str, str]]] = []
    seen: ClassVar[list[dict[str, Any]]] = []
    at_once: ClassVar[list[int]] = []
    running = 0
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            Handler.running += 1
            self.seen.append(body)
            self.at_once.append(Handler.running)
        self.send_response(self.status)
        self.send_header("Content-Type", "text/event-stream" if self.status == 200 else "application/json")
        self.end_headers()
        if self.status == 200:
            time.sleep(FIRST_S)
            for delta in self.chunks:
                self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                time.sleep(GAP_S)
            self.event({"choices": []})
            self.wfile.write(b"data: [DONE]\n\n")
        with self.lock:
            Handler.running -= 1

    def event(self, content: dict[str, Any]) -> None:
        body = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "r1"} | content
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.AsyncOpenAI]:
    monkeypatch.setattr(Handler, "status", 200)
    monkeypatch.setattr(
        Handler, "chunks", [{"role": "assistant"}, {"reasoning": "a"}, {"reasoning": "b"}, {"content": "c"}]
    )
    monkeypatch.setattr(Handler, "seen", [])
    monkeypatch.setattr(Handler, "at_once", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        yield openai.AsyncOpenAI(base_url=url, api_key="sk-xxx", max_retries=0)
        server.shutdown()


def run(client: openai.AsyncOpenAI, *, concurrency: int = 2, requests: int = 6) -> Any:
    return asyncio.run(load_test(client, "r1", concurrency=concurrency, requests=requests, max_tokens=3))


def test_every_chunk_with_text_counts_and_the_role_does_not(client: openai.AsyncOpenAI) -> None:
    [row] = run(client).to_dict("records")
    assert list(row) == list(SERVING_FIELDS.values())
    assert (row["concurrency"], row["requests"]) == (2, 6)
    assert row["output_tok_per_s"] == pytest.approx(3 * row["requests_per_s"])
    assert row["ttft_p50_ms"] >= 1000 * (FIRST_S + GAP_S)  # the first text comes after the role
    assert row["itl_p50_ms"] >= 1000 * GAP_S * 0.9
    assert row["tpot_p50_ms"] >= row["itl_p50_ms"] * 0.9
    assert row["ttft_p99_ms"] >= row["ttft_p50_ms"]


def test_prompts_differ_and_the_length_is_fixed(client: openai.AsyncOpenAI) -> None:
    run(client)
    prompts = {body["messages"][0]["content"] for body in Handler.seen}
    assert len(prompts) == len(Handler.seen) == 6
    assert all(body["max_tokens"] == 3 and body["ignore_eos"] is True for body in Handler.seen)


def test_never_more_at_once_than_asked_for(client: openai.AsyncOpenAI) -> None:
    run(client, concurrency=2, requests=8)
    assert max(Handler.at_once) == 2


def test_a_failing_server_ends_the_run_with_one_sentence(
    client: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "status", 500)
    with pytest.raises(BenchmarkError, match="有请求失败"):
        run(client)


def test_an_answer_without_text_is_a_failure(client: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "chunks", [{"role": "assistant"}])
    with pytest.raises(BenchmarkError, match="只收到 0 段文字"):
        run(client)
