"""What 05 and 06 say of vLLM's protocol and of OpenAI's SDK, read from their code: an upgrade turns these red."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine import protocol as engine_protocol
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser


@pytest.mark.parametrize(
    ("request_type", "field", "default"),
    [
        (CompletionRequest, "max_tokens", 16),
        (ChatCompletionRequest, "max_tokens", None),
        (ChatCompletionRequest, "max_completion_tokens", None),
    ],
)
def test_default_length(request_type: Any, field: str, default: int | None) -> None:
    assert request_type.model_fields[field].default == default


def test_only_the_chat_endpoint_has_renamed_max_tokens() -> None:
    assert "max_completion_tokens" in str(ChatCompletionRequest.model_fields["max_tokens"].deprecated)
    assert not CompletionRequest.model_fields["max_tokens"].deprecated
    assert "max_completion_tokens" not in CompletionRequest.model_fields


def test_what_exceeds_the_context_only_with_its_prompt_is_cut() -> None:
    assert get_max_tokens(2048, 2048, 6, {}) == 2042


def test_removed_guided_fields_are_warned_of() -> None:
    assert "guided_json" in engine_protocol._REMOVED_GUIDED_FIELDS


def test_reasoning_tokens_are_counted_only_after_an_opening_tag() -> None:
    parser = object.__new__(DeepSeekR1ReasoningParser)
    parser.start_token_id, parser.end_token_id = 1, 2
    assert parser.count_reasoning_tokens([7, 7, 7, 2, 8]) == 0  # R1: the template writes <think>
    assert parser.count_reasoning_tokens([1, 7, 7, 7, 2, 8]) == 3


def requests_sent(status: int) -> int:
    """How many requests the SDK sends, with its own settings, where each is answered with this status."""
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        if not status:
            raise httpx2.ConnectError("refused")
        return httpx2.Response(status, headers={"retry-after-ms": "1"}, json={"error": {"message": "no"}})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = openai.OpenAI(base_url="http://x/v1", api_key="k", http_client=http)
    with client, pytest.raises(openai.OpenAIError):
        client.models.list()
    return len(seen)


@pytest.mark.parametrize(
    ("status", "requests"),
    [(0, 3), (408, 3), (409, 3), (429, 3), (500, 3), (503, 3), (400, 1), (401, 1), (404, 1), (413, 1)],
)
def test_what_the_sdk_retries_by_itself(status: int, requests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert requests_sent(status) == requests


def test_between_its_tries_the_sdk_waits_half_a_second_and_then_twice_that(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    http = httpx2.Client(transport=httpx2.MockTransport(lambda request: httpx2.Response(503)))
    client = openai.OpenAI(base_url="http://x/v1", api_key="k", http_client=http)
    with client, pytest.raises(openai.InternalServerError):
        client.models.list()
    assert 0.37 <= pauses[0] <= 0.5 and 0.75 <= pauses[1] <= 1  # each up to a quarter shorter


def test_the_sdk_waits_as_long_as_06_says() -> None:
    assert (openai.DEFAULT_TIMEOUT.read, openai.DEFAULT_MAX_RETRIES) == (600, 2)
    assert issubclass(openai.APITimeoutError, openai.APIConnectionError)
