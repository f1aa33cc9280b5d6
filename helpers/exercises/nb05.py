"""The exercises of notebook 05. Requests go to the server that the learner's `http` is connected to, which decides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from helpers.exercises.judging import Judge, NotJudged, Wrong, call, first_line, kind, number, short

__all__ = ["JUDGES"]

QUESTION = "什么是深度学习？"
CHAT = "/v1/chat/completions"
NOT_THE_ANSWERS_FAULT = (401, 429, 502, 503, 504)


def _ask(http: object, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the learner's server. A streamed answer is left as soon as its status is known."""
    if not isinstance(http, httpx.Client):
        raise NotJudged(f"最后一样要交第 1 节的 http，得到的是{kind(http)}。")
    if http.is_closed:
        raise NotJudged("http 已经关了：重新运行第 1 节，再来检查。")
    try:
        with http.stream("POST" if body else "GET", path, json=body) as answer:
            if body and body.get("stream") and answer.status_code == httpx.codes.OK:
                return answer.status_code, {}
            status, data = answer.status_code, json.loads(answer.read())
    except (httpx.HTTPError, ValueError):
        raise NotJudged(f"问不到 {http.base_url}：服务还开着吗？重新运行第 1 节，再来检查。") from None
    if status in NOT_THE_ANSWERS_FAULT:
        raise NotJudged(f"没有检查成，服务器返回 {status}：{_reason(data)}")
    return status, data


def _reason(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    return short(error.get("message") if isinstance(error, Mapping) else error, width=120)


def two_replies(response: object, times: object) -> None:
    if not isinstance(response, Mapping):
        raise Wrong(f"第一样要交服务器返回的 JSON（字典），得到的是{kind(response)}。用 .json() 取。")
    if "error" in response:
        raise Wrong(f"服务器没有接受这个请求：{_reason(response)}")
    if response.get("object") != "chat.completion":
        raise Wrong(f"这是 {response.get('object')}，不是对话接口的返回。")
    if len(response.get("choices", [])) != 2:
        raise Wrong(f"choices 里有 {len(response.get('choices', []))} 项，要两项。")
    factor = number(times)
    if factor == 2:
        raise Wrong("两个回答用的是同一个提示词。和不写 n 的那次返回比一比 prompt_tokens。")
    if factor != 1:
        raise Wrong(f"prompt_tokens 不是原来的 {factor:g} 倍。")


def mended_request(body: object, http: object) -> None:
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise Wrong(f"这不是合法的 JSON：{first_line(error)}") from None
    if not isinstance(body, dict):
        raise Wrong(f"要一个字典，得到的是{kind(body)}。")
    if "extra_body" in body:
        raise Wrong("extra_body 还在。服务器不认识这个字段，里面的设置会被悄悄忽略。")
    if body.get("temperature") != 0:
        raise Wrong("本来想让 temperature 等于 0，现在服务器收不到这个设置。")
    messages = body.get("messages")
    if not isinstance(messages, list) or QUESTION not in str(messages):
        raise Wrong("messages 里的问题变了，只改有毛病的地方。")
    shown = {"model": "r1", "messages": messages, "max_completion_tokens": 1, "return_prompt_text": True}
    status, answer = _ask(http, CHAT, shown)
    seen = str(answer.get("prompt_text")).count("<think>")
    if status == httpx.codes.OK and seen != 1:
        raise Wrong(f"套完模板，模型看到 {seen} 个 <think>。")
    status, answer = _ask(http, CHAT, body | {"stream": True})
    if status != httpx.codes.OK:
        raise Wrong(f"服务器返回 {status}：{_reason(answer)}")


def real_limit(at_most: object, http: object) -> None:
    _, models = _ask(http, "/v1/models")
    limit = int(models["data"][0]["max_model_len"])
    for content, about, asks in (
        (QUESTION, "很短的提示词", (100, limit, limit + 1, 4 * limit)),
        (QUESTION * 40, "长一些的提示词", (100, limit)),
        ("7" * limit, "放不下的提示词", (100,)),  # a digit is a token; the template needs room, too
    ):
        messages = [{"role": "user", "content": content}]
        status, answer = _ask(http, CHAT, {"model": "r1", "messages": messages, "max_completion_tokens": 1})
        count = int(answer["usage"]["prompt_tokens"]) if status == httpx.codes.OK else limit
        room = limit - count
        for asked in asks:
            wanted = min(asked, room) if asked <= limit else 0
            case = f"{about}，max_tokens={asked} 时"
            with _unless_limited(http):
                value = number(call(at_most, http, [dict(message) for message in messages], asked, about=case))
                if value == wanted:
                    continue
                if asked > limit or not room:
                    raise Wrong(f"{case}，这个请求会被拒绝，函数却返回 {value:g}。")
                raise Wrong(f"{case}，函数返回 {value:g}，{_why_not(value, wanted, count)}")


def _why_not(value: float, wanted: int, prompt: int) -> str:
    if value == prompt:
        return "这是提示词的 token 数。"
    if not value:
        return "可是这个请求不会被拒绝：服务器收下它，写到上限就停。"
    if value > wanted:
        return f"多了。提示词也占位置，它有 {prompt} 个 token。"
    return f"少了。提示词有 {prompt} 个 token，要了多少也要看。"


@contextmanager
def _unless_limited(http: Any) -> Iterator[None]:
    """What goes wrong while the class server's rate limit turns requests away is not the answer's fault."""
    statuses: list[int] = []

    def note(answer: httpx.Response) -> None:
        statuses.append(answer.status_code)

    http.event_hooks["response"].append(note)
    try:
        yield
    except Wrong:
        if httpx.codes.TOO_MANY_REQUESTS in statuses:
            raise NotJudged(
                "没有检查成，服务器嫌请求太多（429）。等一会儿再检查；每次调用只发一两个请求就够了。"
            ) from None
        raise
    finally:
        http.event_hooks["response"].remove(note)


def _event(**fields: Any) -> str:
    return "data: " + json.dumps({"object": "chat.completion.chunk", **fields}, ensure_ascii=False)


def _delta(finish: str | None = None, **delta: str | None) -> str:
    return _event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


HEAD, USAGE = _delta(role="assistant", content=""), _event(choices=[], usage={"completion_tokens": 31})
STREAMS: list[tuple[list[str], tuple[str, str, str | None], str]] = [
    ([HEAD, "", _delta(reasoning="打个"), "", _delta(reasoning="招呼。"), "", _delta(content="你好"), "",
      _delta(content="！"), "", _delta("stop", content=""), "", "data: [DONE]", ""],
     ("打个招呼。", "你好！", "stop"), "最普通的一条流"),
    ([HEAD, _delta(reasoning="想"), _delta(content="答"), _delta("stop", content=""), USAGE, "data: [DONE]"],
     ("想", "答", "stop"), "要了 include_usage 的流"),
    ([HEAD, _delta(reasoning="想完。", content="答"), _delta("stop", content="案"), "data: [DONE]"],
     ("想完。", "答案", "stop"), "思考和答案在同一段里的流"),
    ([HEAD, _delta(reasoning="用户"), _delta("length", reasoning="在打")],
     ("用户在打", "", "length"), "断在思考里的流"),
    ([HEAD, _delta(reasoning="想", content=None), _delta(reasoning=None, content="答")],
     ("想", "答", None), "连接断了、没有结尾的流"),
    ([": ping", HEAD, _delta(reasoning="data: 想"), _delta("stop", content="答"), "data: [DONE]"],
     ("data: 想", "答", "stop"), "夹着一行注释的流"),
]  # fmt: skip


def whole_stream(collect: object) -> None:
    for lines, wanted, about in STREAMS:
        value = call(collect, list(lines), about=f"对{about}")
        if not isinstance(value, tuple | list) or len(value) != 3:
            raise Wrong(f"对{about}，要返回三样东西（思考，答案，finish_reason），得到的是 {short(value)}。")
        for name, mine, theirs in zip(("思考", "答案", "finish_reason "), value, wanted, strict=True):
            if mine != theirs:
                raise Wrong(f"对{about}，{name}成了 {short(mine)}。")


JUDGES: dict[str, Judge] = {
    "05-1": two_replies,
    "05-2": mended_request,
    "05-3": real_limit,
    "05-4": whole_stream,
}
