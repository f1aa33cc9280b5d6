"""What 05 and 06 say of the two ends of a request: of vLLM's endpoints, and of what the SDK does by itself."""

from __future__ import annotations

import httpx2 as httpx
import openai
import pytest
from openai import OpenAI
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine import protocol


def test_the_limits_have_the_defaults_and_the_names_that_05_tells() -> None:
    assert CompletionRequest.model_fields["max_tokens"].default == 16
    fields = ChatCompletionRequest.model_fields
    assert fields["max_completion_tokens"].default is None and fields["max_tokens"].default is None
    assert "max_completion_tokens" in str(fields["max_tokens"].deprecated)
    assert not CompletionRequest.model_fields["max_tokens"].deprecated
    assert "return_prompt_text" in fields and "return_token_ids" in fields


def test_guided_json_is_gone_and_the_log_says_so() -> None:
    assert "guided_json" not in ChatCompletionRequest.model_fields
    assert "guided_json" in protocol._REMOVED_GUIDED_FIELDS


@pytest.mark.parametrize(
    ("status", "requests"), [(408, 3), (409, 3), (429, 3), (500, 3), (503, 3), (400, 1), (401, 1), (404, 1)]
)
def test_the_sdk_tries_again_by_itself_what_06_says(
    status: int, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return httpx.Response(status, json={"error": {"message": "no"}})

    pauses: list[float] = []
    monkeypatch.setattr("openai._base_client.time.sleep", pauses.append)
    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        client = OpenAI(base_url="http://classroom/v1", api_key="sk-xxx", http_client=http)
        with pytest.raises(openai.APIStatusError):
            client.models.list()
    assert len(seen) == requests
    if pauses:  # half a second, then twice that, each up to a quarter shorter
        assert 0.37 <= pauses[0] <= 0.5 and 0.75 <= pauses[1] <= 1


def test_the_sdk_waits_600_seconds_and_tries_twice_more() -> None:
    client = OpenAI(base_url="http://classroom/v1", api_key="sk-xxx")
    assert client.max_retries == 2
    assert client.timeout.read == 600  # type: ignore[union-attr]
    assert issubclass(openai.APITimeoutError, openai.APIConnectionError)
