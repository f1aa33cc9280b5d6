"""Telling thought from answer in what a reasoning model returns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Reply", "read_message", "split_think"]

OPENING = r"\A(?:\s|<think>|<｜[^｜]*｜>)*<think>"


@dataclass(frozen=True)
class Reply:
    """Thought and answer of one generation. Introduced in notebook 03.

    Attributes:
        thought: the text before the first `</think>`, as generated, newlines included.
        answer: the text after it; empty while the thought is unfinished.
        closed: whether `</think>` was seen. False: the output was cut inside the thought, there is no answer yet.
    """

    thought: str
    answer: str
    closed: bool


def split_think(text: str) -> Reply:
    """Split generated text at the first `</think>`; text without the tag is an unfinished thought.

    An opening `<think>` at the very start is dropped, with blanks and the template's own tokens before it (R1's
    template usually supplies it, so the output lacks it); any later tag stays. Introduced in notebook 03.

    Raises:
        TypeError: `text` is not a string. A chat message goes to `read_message`.
    """
    thought, tag, answer = re.sub(OPENING, "", text).partition("</think>")
    return Reply(thought, answer, closed=bool(tag))


def read_message(message: Any) -> Reply:
    """Read a chat message of any vLLM version, with or without a reasoning parser. Introduced in notebook 06.

    `closed` is False where the server sent a thought and no content. With `finish_reason` `length` the thought was
    cut; with `stop` the model ended without an answer, or the parser took the whole answer for a thought. A message
    that calls a tool is closed: its answer is the call.

    Args:
        message: `choices[0].message` of the OpenAI SDK, or the same as a mapping from JSON. The thought is in
            `reasoning` (vLLM ≥ 0.12), in `reasoning_content` (older), or still inside `content` (no parser).
            `content` may be absent, None, a string, or a list of parts.

    Raises:
        TypeError: `message` is neither.
    """
    fields = message.model_dump() if hasattr(message, "model_dump") else message
    names = {"role", "content", "reasoning", "reasoning_content"}
    if not isinstance(fields, Mapping) or not names & fields.keys():
        kind = type(message).__name__
        raise TypeError(f"要 choices[0].message（对象或字典），得到的是 {kind}")
    content = fields.get("content")
    if isinstance(content, list):  # in parts, as some servers send it
        content = "".join(part.get("text") or "" for part in content)
    given = [fields.get("reasoning"), fields.get("reasoning_content")]
    thoughts = [text for text in given if text is not None]  # "" is a thought, too
    if content is not None and not thoughts:  # no parser: both are in the content
        return split_think(content)
    closed = content is not None or bool(fields.get("tool_calls"))
    return Reply(max(thoughts, key=len, default=""), content or "", closed=closed)
