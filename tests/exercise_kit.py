"""Stand-ins for what the exercises of notebooks 03, 05 and 06 talk to: an engine and a server, in a few lines each."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import httpx

LIMIT = 2048  # tokens


def tokens(text: str) -> list[str]:
    """One token a character, and one for each tag."""
    return re.findall(r"</?think>|.", text, re.DOTALL)


def rendered(messages: list[dict[str, Any]]) -> list[str]:
    """The chat template of R1, shortened: old thoughts go, and a new one is begun."""
    turns = "".join(f"|{str(message['content']).split('</think>')[-1]}" for message in messages)
    return tokens(f"^{turns}@<think>\n")


class FakeEngine:
    """Answers as R1 does: a thought, `</think>`, an answer; cut at `max_tokens`, and silently at 2048."""

    THOUGHT = "用户是初学者，想要一份简短的学习计划。先想清楚目标，再分四周。\n"  # 32 tokens, then the tag

    def __init__(self) -> None:
        self.asked = 0

    def chat(self, messages: Any, params: Any, use_tqdm: bool = True) -> list[Any]:
        self.asked += 1
        question = messages[-1]["content"]
        answer = "标签 </think> 前面是思考。" if "标签" in question else "下面是计划。"
        room = min(params.max_tokens, LIMIT - len(rendered(messages)))
        made = tokens(f"{self.THOUGHT}</think>\n\n{answer}")[:room]
        return [SimpleNamespace(outputs=[SimpleNamespace(text="".join(made), token_ids=made)])]

    def get_tokenizer(self) -> Any:
        def apply_chat_template(messages: Any, **options: Any) -> dict[str, list[str]]:
            return {"input_ids": rendered(messages)}

        return SimpleNamespace(apply_chat_template=apply_chat_template)


FAKE_VLLM = SimpleNamespace(SamplingParams=SimpleNamespace)


KEY = "sk-exercise-kit"


@contextmanager
def fake_server() -> Iterator[httpx.Client]:
    """A client of a server that asks for a key and, as the class server, opens only `/v1/models` and the chat.

    Statuses and fields are those that vLLM 0.32.0 was seen to give.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, {"data": [{"id": "r1", "max_model_len": LIMIT}]}, path="/v1/models")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt, asked = rendered(body["messages"]), body.get("max_tokens", 1)
            status, answer = 200, {"object": "chat.completion", "usage": {"prompt_tokens": len(prompt)}}
            if body.get("return_prompt_text"):
                answer["prompt_text"] = "".join(prompt)
            if body.get("return_token_ids"):
                answer["prompt_token_ids"] = list(range(len(prompt)))
            if body.get("model") != "r1":
                status, answer = 404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
            elif asked > LIMIT or len(prompt) >= LIMIT:
                status, answer = 400, {"error": {"message": f"max_tokens={asked} cannot be greater than 2048"}}
            self.reply(status, answer, path="/v1/chat/completions")

        def reply(self, status: int, answer: dict[str, Any], *, path: str) -> None:
            if self.path == "/too-often":
                status, answer = 429, {"error": {"message": "too many"}}
            elif self.path != path:
                status, answer = 404, {"error": {"message": "closed"}}
            elif self.headers["Authorization"] != f"Bearer {KEY}":
                status, answer = 401, {"error": "Unauthorized"}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base_url, headers = f"http://127.0.0.1:{server.server_port}", {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=base_url, headers=headers, timeout=30, trust_env=False) as http:
        yield http
    server.shutdown()
    server.server_close()
