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


@contextmanager
def fake_server() -> Iterator[str]:
    """`/tokenize` and `/v1/chat/completions`, with the statuses that vLLM 0.32.0 was seen to give."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt, asked = rendered(body["messages"]), body.get("max_tokens", 1)
            status, answer = 200, {"count": len(prompt), "max_model_len": LIMIT, "tokens": [1] * len(prompt)}
            if self.path == "/tokenize":
                answer["token_strs"] = prompt
            elif body.get("model") != "r1":
                status, answer = 404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}}
            elif asked > LIMIT or len(prompt) >= LIMIT:
                status, answer = 400, {"error": {"message": f"max_tokens={asked} cannot be greater than 2048"}}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
