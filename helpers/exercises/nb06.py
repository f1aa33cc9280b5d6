"""The exercises of notebook 06. The learner's code runs on the real SDK, over a wire that only records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unicodedata import normalize

from helpers.config import get_profile
from helpers.exercises.judging import Judge, Wrong, call, kind, number, short

__all__ = ["JUDGES"]

THOUGHT, ANSWER = "用户在打招呼，我也打个招呼。\n", "\n\n你好！很高兴和你一起学习。"
LONG_THOUGHT = THOUGHT * 12  # as many tokens as characters
USAGE = {"prompt_tokens": 6, "completion_tokens": 31, "total_tokens": 37}
DEFAULT_MAX_TOKENS = 16  # what vLLM's completions endpoint does without `max_tokens`


def chat_reply(finish: str = "stop", **message: str | None) -> dict[str, Any]:
    """What vLLM's chat endpoint returns, cut to the fields that the SDK reads."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": None} | message}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "r1", "choices": [choice],
            "usage": USAGE}  # fmt: skip


def text_reply(text: str, finish: str = "stop") -> dict[str, Any]:
    """What vLLM's completions endpoint returns."""
    choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "r1", "choices": [choice],
            "usage": USAGE}  # fmt: skip


def _cut(reply: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """The reply as the server gives it with this `max_tokens`: one token a character, and one for a tag."""
    [choice] = reply["choices"]
    tokens = re.findall(r"</?think>|.", choice["text"], re.DOTALL)
    if len(tokens) <= max_tokens:
        return reply
    return reply | {"choices": [choice | {"text": "".join(tokens[:max_tokens]), "finish_reason": "length"}]}


@contextmanager
def _wire(
    *, chat: Sequence[dict[str, Any]] = (), text: Sequence[dict[str, Any]] = ()
) -> Iterator[tuple[Any, list[Any]]]:
    """A real `OpenAI` client that reaches no network: each endpoint gives its replies in turn, the last one again."""
    import httpx2 as httpx  # what this SDK speaks HTTP with
    from openai import OpenAI

    seen: list[tuple[str, dict[str, Any]]] = []
    limit = get_profile().max_model_len

    def answer(request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, json.loads(request.content or b"{}")
        replies = {"/v1/chat/completions": chat, "/v1/completions": text}.get(path, ())
        turn = sum(path == earlier for earlier, _ in seen)
        seen.append((path, body))
        if body.get("stream") or not replies:
            what = "这道题不用流式" if replies else f"{path} 不是这道题要用的接口"
            return httpx.Response(400, json={"error": {"message": what}})
        reply, max_tokens = replies[min(turn, len(replies) - 1)], body.get("max_tokens")
        if max_tokens and max_tokens > limit:
            return httpx.Response(400, json={"error": {"message": f"max_tokens={max_tokens} > max_model_len={limit}"}})
        return httpx.Response(200, json=reply if replies is chat else _cut(reply, max_tokens or DEFAULT_MAX_TOKENS))

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        yield OpenAI(base_url="http://classroom/v1", api_key="sk-xxx", max_retries=0, http_client=http), seen


def retries(answer: object) -> None:
    times = _spoken(answer) if isinstance(answer, str) else number(answer)
    if times == 2:
        raise Wrong("2 是重试的次数，第一次也要算。")
    if times != 3:
        raise Wrong(f"不是 {times:g} 次。")


NUMERALS = dict(zip("一二两三四五六七八九十", (1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10), strict=True))


def _spoken(text: str) -> float:
    """Read `3`, `3.0`, `三` or `三次。`; whoever says more than one number is asked again."""
    whole = re.fullmatch(r"(\d+(?:\.\d+)?|[一二两三四五六七八九十])\s*次?\s*[.。]?", normalize("NFKC", text).strip())
    if not whole:
        raise Wrong(f"要一个数，例如 5 或“五次”，得到的是 {short(text)}。")
    return float(NUMERALS.get(whole[1], 0) or whole[1])


def real_completion(complete: object) -> None:
    replies = [text_reply(LONG_THOUGHT + "</think>" + ANSWER),
               text_reply("标签 </think> 前是思考，</think> 后是答案"),
               text_reply("用户在打", "length")]  # fmt: skip
    wanted = [ANSWER.strip(), "前是思考，</think> 后是答案", None]
    abouts = ["问“你好”", "答案里又提到标签时", "思考被截断时"]
    with _wire(text=replies, chat=[chat_reply(content=ANSWER, reasoning=THOUGHT)]) as (client, seen):
        for about, answer in zip(abouts, wanted, strict=True):
            value = call(complete, client, "r1", "你好", about=about)
            if not seen:
                raise Wrong("函数没有用传进来的 client 发请求。")
            path, body = seen[-1]
            if path != "/v1/completions":
                raise Wrong(f"{about}，请求发到了 {path}，这不是补全接口。")
            _prompt_is_good(body.get("prompt"))
            max_tokens = body.get("max_tokens")
            if not max_tokens:
                raise Wrong(f"请求里没有 max_tokens：补全接口只写 {DEFAULT_MAX_TOKENS} 个 token，思考还没写完就断了。")
            if max_tokens < len(LONG_THOUGHT + ANSWER):
                raise Wrong(f"max_tokens 只有 {max_tokens}，思考和答案还没写完就断了。")
            if (value.strip() if isinstance(value, str) else value) != answer:
                raise Wrong(f"{about}，函数返回 {short(value)}，不是 </think> 之后的答案。" if answer else
                            f"{about}，还没有答案，函数却返回 {short(value)}。")  # fmt: skip


def _prompt_is_good(prompt: object) -> None:
    if not isinstance(prompt, str) or "你好" not in prompt:
        raise Wrong(f"发出去的 prompt 是 {short(prompt)}，不是传进来的问题。")
    if prompt.count("<think>") != 1 or not prompt.endswith("<think>\n"):
        raise Wrong(f"发出去的 prompt 是 {short(prompt)}：补全接口不套模板，思考的开头要自己写，而且只写一次。")


CHOICES = [
    (chat_reply(content=ANSWER, reasoning=THOUGHT), ANSWER, "开了解析器，写完了"),
    (chat_reply("length", content=None, reasoning="用户在打"), None, "开了解析器，断在思考里"),
    (chat_reply("stop", content=None, reasoning="用户在打"), None, "开了解析器，没写 </think> 就停了"),
    (chat_reply("length", content="\n\n你好！很", reasoning=THOUGHT), "\n\n你好！很", "开了解析器，断在答案里"),
    (chat_reply(content=THOUGHT + "</think>" + ANSWER), ANSWER, "没开解析器，写完了"),
    (chat_reply("length", content="用户在打"), None, "没开解析器，断在思考里"),
    (chat_reply(content=ANSWER, reasoning_content=THOUGHT), ANSWER, "旧版 vLLM 的字段名"),
    (chat_reply(content="想。</think>有两个 </think>"), "有两个 </think>", "没开解析器，标签出现两次"),
]  # fmt: skip


def no_thought_as_answer(answer_of: object) -> None:
    from openai.types.chat import ChatCompletion

    for reply, wanted, about in CHOICES:
        value = call(answer_of, ChatCompletion.model_validate(reply).choices[0], about=about)
        if wanted is None and value is not None:
            raise Wrong(f"{about}，还没有答案，函数却返回 {short(value)}。")
        if wanted is not None and (not isinstance(value, str) or value.strip() != wanted.strip()):
            raise Wrong(f"{about}，函数返回 {short(value)}。")


def keeps_history(chat: object) -> None:
    replies = [chat_reply(content="\n\n它让网络自己学。", reasoning="先下定义。\n"),
               chat_reply(content="\n\n比如认数字。", reasoning="举一个例子。\n"),
               chat_reply("length", content=None, reasoning="用户还想"),
               chat_reply(content="\n\n再见。", reasoning="道别。\n")]  # fmt: skip
    texts = ["什么是深度学习？", "能举个例子吗？", "再讲讲历史", "再见"]
    answers = ["它让网络自己学。", "比如认数字。", None, "再见。"]
    history: list[Any] = []
    with _wire(chat=replies) as (client, seen):
        kept: list[tuple[str, str]] = []
        for turn, (text, answer) in enumerate(zip(texts, answers, strict=True), start=1):
            about = f"第 {turn} 轮" + ("（思考被截断）" if answer is None else "")
            value = call(chat, client, "r1", history, text, about=about)
            if len(seen) != turn:
                raise Wrong(f"{about}，函数发了 {len(seen) - turn + 1} 个请求，应该是 1 个。")
            _same_turns(seen[-1][1].get("messages"), [*kept, ("user", text)], f"{about}，发出去的 messages ")
            if (value.strip() if isinstance(value, str) else value) != answer:
                raise Wrong(f"{about}，函数返回 {short(value)}。")
            kept += [("user", text), ("assistant", answer)] if answer is not None else []
            _same_turns(history, kept, f"{about}之后，history ")


def _same_turns(messages: object, wanted: list[tuple[str, str]], about: str) -> None:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Wrong(f"{about}不是由字典组成的列表，而是{kind(messages)}：{short(messages)}")
    turns = [(str(message.get("role")), str(message.get("content")).strip()) for message in messages]
    if any("</think>" in content or "先下定义" in content for _, content in turns):
        raise Wrong(f"{about}里带着以前的思考。")
    if turns != wanted:
        shown = "、".join(f"{role}：{short(content, width=20)}" for role, content in turns) or "空的"
        raise Wrong(f"{about}有 {len(turns)} 条，应该有 {len(wanted)} 条，或者内容不对。现在是：{shown}")


JUDGES: dict[str, Judge] = {
    "06-1": retries,
    "06-2": real_completion,
    "06-3": no_thought_as_answer,
    "06-4": keeps_history,
}
