from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from helpers.reasoning import Reply, read_message, split_think

CALLS = [{"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<｜", "</thi", "nk>", "想", "\n", "<", "答案", " "]) | st.text()
)


@given(PIECES)
def test_nothing_is_lost(pieces: list[str]) -> None:
    text = "".join(pieces)
    reply = split_think(text)
    kept = reply.thought + ("</think>" if reply.closed else "") + reply.answer
    dropped = text.removesuffix(kept)
    assert dropped + kept == text
    assert dropped == "" or (dropped.endswith("<think>") and not dropped.replace("<think>", "").strip())
    assert "</think>" not in reply.thought and not reply.thought.lstrip().startswith("<think>")
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
        ("\n<think>想</think>答", Reply("想", "答", closed=True)),
        ("<｜begin▁of▁sentence｜><think>\n想</think>答", Reply("\n想", "答", closed=True)),
        ("<｜begin▁of▁sentence｜>\n<think>想", Reply("想", "", closed=False)),
        ("<｜Assistant｜><think>\n<think>想</think>答", Reply("想", "答", closed=True)),  # the template's, and a second
        ("<think>\n\n</think>\n\n你好！", Reply("\n\n", "\n\n你好！", closed=True)),
        ("想<think>又想</think>答<think>", Reply("想<think>又想", "答<think>", closed=True)),
        ("\n想", Reply("\n想", "", closed=False)),
    ],
)
def test_split(text: str, reply: Reply) -> None:
    assert split_think(text) == reply


@pytest.mark.parametrize("not_text", [None, 3, b"x", ["x"]])
def test_split_refuses_what_is_not_text(not_text: object) -> None:
    with pytest.raises(TypeError):
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
        ({"reasoning": "", "content": "\n\n你好"}, Reply("", "\n\n你好", closed=True)),
        ({"reasoning_content": "", "content": "你好"}, Reply("", "你好", closed=True)),
        ({"reasoning": "", "content": "</think> 是标签"}, Reply("", "</think> 是标签", closed=True)),
        ({"reasoning": "想", "reasoning_content": "想", "content": "答"}, Reply("想", "答", closed=True)),
        ({"reasoning": "", "reasoning_content": "想", "content": "答"}, Reply("想", "答", closed=True)),
        ({"reasoning": None, "reasoning_content": "想", "content": "答"}, Reply("想", "答", closed=True)),
        ({"reasoning": "想", "content": ""}, Reply("想", "", closed=True)),
        ({"content": ""}, Reply("", "", closed=False)),
        ({"content": "没有标签"}, Reply("没有标签", "", closed=False)),
        ({"content": "\n<think>想</think>答</think>"}, Reply("想", "答</think>", closed=True)),
        ({"reasoning": "想", "content": None, "tool_calls": CALLS}, Reply("想", "", closed=True)),
        ({"content": None, "tool_calls": CALLS}, Reply("", "", closed=True)),
        ({"reasoning": "想", "content": None, "tool_calls": []}, Reply("想", "", closed=False)),
    ],
)
def test_message_of_any_version(fields: dict[str, Any], reply: Reply) -> None:
    assert read_message(fields) == reply
    assert read_message(ChatCompletionMessage.model_construct(role="assistant", **fields)) == reply


@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        ({"role": "assistant", "reasoning": "想了一半"}, Reply("想了一半", "", closed=False)),
        ({"role": "assistant"}, Reply("", "", closed=False)),
        (
            {"content": [{"type": "text", "text": "想</think>"}, {"type": "text", "text": "答"}]},
            Reply("想", "答", True),
        ),
        ({"reasoning": "想", "content": [{"type": "text", "text": "答"}]}, Reply("想", "答", True)),
        ({"reasoning": "想", "content": [{"type": "refusal", "refusal": "不"}]}, Reply("想", "", True)),
        ({"content": []}, Reply("", "", False)),
    ],
)
def test_message_of_other_servers(fields: dict[str, Any], reply: Reply) -> None:
    assert read_message(fields) == reply


@pytest.mark.parametrize(
    "wrong",
    [None, "想</think>答", 3, {}, SimpleNamespace(content="x"), [], {"choices": []}, {"message": {"content": "x"}}],
)
def test_message_refuses_other_things(wrong: object) -> None:
    with pytest.raises(TypeError, match="choices"):
        read_message(wrong)
