"""Reading /metrics from a small real HTTP server that answers as vLLM does."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from helpers.bench.metrics import MetricsWatch, read_metrics
from helpers.errors import ServerError

TEXT = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="r1"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="r1"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="r1"} 0.25
# TYPE vllm:request_success_total counter
vllm:request_success_total{finished_reason="stop",model_name="r1"} 5.0
vllm:request_success_total{finished_reason="length",model_name="r1"} 2.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="r1"} 7.0
vllm:time_to_first_token_seconds_count{model_name="r1"} 7.0
vllm:time_to_first_token_seconds_sum{model_name="r1"} 1.75
"""


class Handler(http.server.BaseHTTPRequestHandler):
    status = 200
    text = TEXT

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(self.text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def base_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Handler, "status", 200)
    monkeypatch.setattr(Handler, "text", TEXT)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_samples_are_added_up_over_their_labels(base_url: str) -> None:
    found = read_metrics(base_url)
    assert found["vllm:request_success_total"] == 7
    assert found["vllm:time_to_first_token_seconds_sum"] / found["vllm:time_to_first_token_seconds_count"] == 0.25


def test_a_server_that_refuses_is_named(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "status", 403)
    with pytest.raises(ServerError, match=f"{base_url}/metrics"):
        read_metrics(base_url)


LOGIN_PAGE = "<!DOCTYPE html>\n<html><body>请登录</body></html>\n"


def test_an_answer_that_is_no_metrics_is_named(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "text", LOGIN_PAGE)
    with pytest.raises(ServerError, match=f"{base_url}/metrics"):
        read_metrics(base_url)


def test_nobody_there_is_told_before_watching() -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"), MetricsWatch("http://127.0.0.1:9"):
        pytest.fail("the block must not run")


def wait_for_rows(watch: MetricsWatch, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(watch.table()) < count:
        assert time.monotonic() < deadline, "the sampling has ended"
        time.sleep(0.01)


def test_gauges_are_sampled_while_the_block_runs_and_gaps_are_survived(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MetricsWatch(base_url, every_s=0.01) as watch:
        wait_for_rows(watch, 2)
        for name, value in (("status", 500), ("text", LOGIN_PAGE)):
            with monkeypatch.context() as changed:
                changed.setattr(Handler, name, value)
                time.sleep(0.1)
        seen = len(watch.table())
        wait_for_rows(watch, seen + 2)
    table = watch.table()
    assert list(table.columns) == ["time_s", "running", "waiting", "kv_usage"]
    assert (table.running == 3).all() and (table.waiting == 1).all() and (table.kv_usage == 0.25).all()
    assert table.time_s.is_monotonic_increasing
    time.sleep(0.1)
    assert len(watch.table()) == len(table), "it went on after the block"
