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

from helpers.bench.load import Timing, load_test, random_prompt, summary, timed_request
from helpers.bench.results import SERVING_FIELDS
from helpers.config import CLASSROOM_MODEL_DIR
from helpers.errors import BenchmarkError

FIRST_S, GAP_S = 0.05, 0.01


class Handler(http.server.BaseHTTPRequestHandler):
    """Streams three events with text for four tokens; `status`, `usage` and `pieces` let it fail."""

    status: ClassVar[int] = 200
    usage: ClassVar[bool] = True
    pieces: ClassVar[tuple[str, ...]] = ("a", "b", "cd")
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
            for text in self.pieces:
                self.event({"choices": [{"index": 0, "text": text, "finish_reason": None}]})
                time.sleep(GAP_S)
            counted = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 4, "total_tokens": 9}
            self.event({"choices": []} | ({"usage": counted} if self.usage else {}))
            self.wfile.write(b"data: [DONE]\n\n")
        with self.lock:
            Handler.running -= 1

    def event(self, content: dict[str, Any]) -> None:
        body = {"id": "1", "object": "text_completion", "created": 1, "model": "r1"} | content
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.AsyncOpenAI]:
    for name, value in {"status": 200, "usage": True, "seen": [], "at_once": []}.items():
        monkeypatch.setattr(Handler, name, value)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        yield openai.AsyncOpenAI(base_url=url, api_key="sk-xxx", max_retries=0)
        server.shutdown()


def run(client: openai.AsyncOpenAI, *, concurrency: int = 2, requests: int = 6) -> dict[str, float]:
    test = load_test(client, "r1", concurrency=concurrency, requests=requests, input_len=5, output_len=4)
    return asyncio.run(test)


def test_latencies_of_one_request_whose_last_event_holds_two_tokens() -> None:
    timing = Timing(prompt_tokens=64, output_tokens=4, arrivals_s=[0.5, 0.6, 0.9])
    assert timing.ttft_s == 0.5
    assert timing.tpot_s == pytest.approx(0.4 / 3)
    assert timing.itl_s == pytest.approx([0.1, 0.3])


def test_summary_is_that_of_its_requests() -> None:
    quick, slow = Timing(64, 3, [0.1, 0.2, 0.3]), Timing(64, 3, [0.3, 0.4, 0.9])
    row = summary([quick, quick, slow], concurrency=2, elapsed_s=2.0)
    assert list(row) == list(SERVING_FIELDS.values())
    assert (row["concurrency"], row["requests"], row["requests_per_s"], row["output_tok_per_s"]) == (2, 3, 1.5, 4.5)
    assert row["ttft_p50_ms"] == pytest.approx(100) and row["ttft_mean_ms"] == pytest.approx(500 / 3)
    assert row["tpot_p50_ms"] == pytest.approx(100) and 290 < row["tpot_p99_ms"] < 300
    assert row["itl_p50_ms"] == pytest.approx(100) and 450 < row["itl_p99_ms"] < 500


def test_every_event_with_text_is_timed_and_the_server_counts_the_tokens(client: openai.AsyncOpenAI) -> None:
    timing = asyncio.run(timed_request(client, "r1", input_len=5, output_len=4))
    assert (timing.prompt_tokens, timing.output_tokens, len(timing.arrivals_s)) == (5, 4, 3)
    assert timing.ttft_s >= FIRST_S and min(timing.itl_s) > 0


def test_a_single_request_is_summed_up_too(client: openai.AsyncOpenAI) -> None:
    row = run(client, requests=1)
    assert row["requests"] == 1 and row["ttft_p99_ms"] == row["ttft_p50_ms"] == row["ttft_mean_ms"]


def test_prompts_differ_and_the_lengths_are_those_asked_for(client: openai.AsyncOpenAI) -> None:
    run(client)
    assert len({str(body["prompt"]) for body in Handler.seen}) == len(Handler.seen) == 6
    assert all(len(body["prompt"]) == 5 and body["max_tokens"] == 4 for body in Handler.seen)
    assert all(body["ignore_eos"] is True for body in Handler.seen)
    assert {(body["temperature"], body["top_p"]) for body in Handler.seen} == {(1, 1)}, "not left to the model's folder"


def test_prompts_hold_only_what_every_tokenizer_of_the_course_has_as_one_character() -> None:
    tokenizer = json.loads((CLASSROOM_MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"))
    single = {number for token, number in tokenizer["model"]["vocab"].items() if len(token) == 1 and token.isascii()}
    assert set(random_prompt(5000)) == single == set(range(94))


def test_never_more_at_once_than_asked_for(client: openai.AsyncOpenAI) -> None:
    run(client, concurrency=2, requests=8)
    assert max(Handler.at_once) == 2


def test_a_failing_server_ends_the_run_with_one_sentence(
    client: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "status", 500)
    with pytest.raises(BenchmarkError, match=r"^6 个请求失败了"):
        run(client)


def test_an_answer_that_ends_early_is_a_failure(client: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "usage", False)
    with pytest.raises(BenchmarkError, match="只收到 3 段，回答没有发完"):
        run(client)


def test_tokens_that_come_in_one_heap_cannot_be_timed(
    client: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "pieces", ("abcd",))
    with pytest.raises(BenchmarkError, match="攒成一堆"):
        run(client)


def test_after_an_interrupt_no_request_goes_on(client: openai.AsyncOpenAI) -> None:
    async def interrupted() -> int:
        task = asyncio.ensure_future(load_test(client, "r1", concurrency=2, requests=20, output_len=4))
        await asyncio.sleep(2 * FIRST_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sent = len(Handler.seen)
        await asyncio.sleep(10 * FIRST_S)
        return len(Handler.seen) - sent

    assert asyncio.run(interrupted()) <= 2  # those already under way
