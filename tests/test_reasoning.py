from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from helpers.reasoning import Reply, read_message, split_think

PIECES = st.lists(st.sampled_from(["<think>", "</think>", "</thi", "nk>", "想", "\n", "<", "答案", " "]) | st.text())


@given(PIECES)
def test_nothing_is_lost(pieces: list[str]) -> None:
    text = "".join(pieces)
    reply = split_think(text)
    opened = "<think>" if text.startswith("<think>") else ""
    assert opened + reply.thought + ("</think>" if reply.closed else "") + reply.answer == text
    assert "</think>" not in reply.thought
    assert reply.closed or reply.answer == ""


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("", Reply("", "", closed=False)),
        ("想了一半", Reply("想了一半", "", closed=False)),
        ("想</think>答", Reply("想", "答", closed=True)),
        ("<think>想</think>答", Reply("想", "答", closed=True)),
        ("想</think>标签 </think> 表示结束", Reply("想", "标签 </think> 表示结束", closed=True)),
        ("</think>答", Reply("", "答", closed=True)),
        ("想</thin", Reply("想</thin", "", closed=False)),
    ],
)
def test_split(text: str, reply: Reply) -> None:
    assert split_think(text) == reply


@pytest.mark.parametrize("not_text", [None, 3, b"x", ["x"]])
def test_split_refuses_what_is_not_text(not_text: object) -> None:
    with pytest.raises((TypeError, AttributeError)):
        split_think(not_text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({"reasoning": "想", "content": "\n\n答"}, Reply("想", "\n\n答", closed=True)),
        ({"reasoning_content": "想", "content": "答"}, Reply("想", "答", closed=True)),
        ({"reasoning": "想了一半", "content": None}, Reply("想了一半", "", closed=False)),
        ({"content": "想</think>答"}, Reply("想", "答", closed=True)),
        ({"reasoning": None, "content": "想</think>答"}, Reply("想", "答", closed=True)),
        ({"reasoning": None, "content": None}, Reply("", "", closed=False)),
    ],
)
def test_message_of_any_version(fields: dict[str, str | None], reply: Reply) -> None:
    assert read_message(fields) == reply
    assert read_message(ChatCompletionMessage(role="assistant", **fields)) == reply  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, "想</think>答", 3, {}, SimpleNamespace(content="x"), []])
def test_message_refuses_other_things(wrong: object) -> None:
    with pytest.raises(TypeError, match="choices"):
        read_message(wrong)
