"""Telling thought from answer in what a reasoning model returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Reply", "read_message", "split_think"]


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

    An opening `<think>` at the very start is dropped (R1's template usually supplies it, so the output lacks it);
    any later tag belongs to the answer. Introduced in notebook 03.

    Raises:
        TypeError: `text` is not a string. A chat message goes to `read_message`.
    """
    thought, tag, answer = text.removeprefix("<think>").partition("</think>")
    return Reply(thought, answer, closed=bool(tag))


def read_message(message: Any) -> Reply:
    """Read a chat message of any vLLM version, with or without a reasoning parser. Introduced in notebook 06.

    Args:
        message: `choices[0].message` of the OpenAI SDK, or the same as a mapping from JSON. The thought is in
            `reasoning` (vLLM ≥ 0.12), in `reasoning_content` (older), or still inside `content` (no parser).

    Raises:
        TypeError: `message` is neither.
    """
    fields = message.model_dump() if hasattr(message, "model_dump") else message
    if not isinstance(fields, Mapping) or "content" not in fields:
        kind = type(message).__name__
        raise TypeError(f"要 choices[0].message（对象或字典），得到的是 {kind}")
    content = fields["content"]
    thought = fields.get("reasoning") or fields.get("reasoning_content")
    if thought is None:  # no parser: thought and answer are both in the content
        return split_think(content or "")
    return Reply(thought, content or "", closed=content is not None)
