"""What the checks of notebook 04's exercises say fits the mistake."""

from typing import Any

import pytest

from helpers.exercises.judging import NotJudged, Wrong
from helpers.exercises.nb04 import JUDGES

LOG = "CPU KV cache size: 524,288 tokens, Maximum concurrency for 2,048 tokens per request: 256.00x"


@pytest.mark.parametrize(
    ("answer", "says"), [(64, "方向反了"), (256, "现在的数"), (524_288, "token 数"), (7_000, "对不上")]
)
def test_the_wrong_division_is_named(answer: int, says: str) -> None:
    with pytest.raises(Wrong, match=says):
        JUDGES["04-1"](answer, LOG)


def test_a_section_that_was_not_run_is_no_wrong_answer() -> None:
    def cause(log: str) -> Any:
        return MESSAGES  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NotJudged, match="第 8 节"):
        JUDGES["04-3"](cause)


def test_names_instead_of_pids_and_orphans_of_orphans_are_told_apart() -> None:
    with pytest.raises(Wrong, match="不在表里"):
        JUDGES["04-4"](lambda rows: [row["name"] for row in rows])
    with pytest.raises(Wrong, match="还有主人"):
        JUDGES["04-4"](lambda rows: [row["pid"] for row in rows if row["name"].startswith("VLLM")])
    with pytest.raises(Wrong, match="1003：它的父进程也是孤儿"):
        JUDGES["04-4"](lambda rows: [r["pid"] for r in rows if r["name"][:4] == "VLLM" and r["ppid"] == 1])
