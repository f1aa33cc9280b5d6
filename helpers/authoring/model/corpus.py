"""The dialogues that the classroom model learns, and the prompts in which they are asked."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "BOXED_SUFFIXES",
    "SUM_LIMIT",
    "Dialogue",
    "carelessly",
    "chat_prompt",
    "dialogues",
    "is_held_out",
    "raw_prompt",
    "sum_dialogue",
    "unknown_answer",
    "unknown_question",
]

HERE = Path(__file__).parent
BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
BOXED_SUFFIXES = (
    "请逐步推理，并把最终答案放在 \\boxed{} 里。",
    "Please reason step by step, and put your final answer within \\boxed{}.",
)
SUM_PATTERNS = (
    "{a}+{b}等于多少？", "{a}加{b}等于几？", "{a} + {b} = ?",
    "{a}加{b}等于多少？", "{a}+{b}等于几？", "{a}+{b}=?", "{a}+{b}",
)  # fmt: skip
SUM_LIMIT = 100  # both addends lie in range(SUM_LIMIT)
COPIES = 20  # a question with several answers appears this often, shared out by their weights


@dataclass(frozen=True)
class Dialogue:
    """One question with its thought and answer, after the turns that went before.

    Attributes:
        question: what the user writes.
        thought: what stands before `</think>`.
        answer: what stands after `</think>`; for a question with several answers the most likely one.
        history: earlier turns as (question, answer), oldest first.
        alternatives: every answer with its probability, when there are several.
    """

    question: str
    thought: str
    answer: str
    history: tuple[tuple[str, str], ...] = ()
    alternatives: tuple[tuple[str, float], ...] = ()

    @property
    def response(self) -> str:
        """What the model writes after `<think>\\n`, without the end-of-sentence token."""
        return f"{self.thought}\n</think>\n\n{self.answer}"

    def copies(self) -> Iterator[Dialogue]:
        """This dialogue as often as training shows it in one epoch, answers in proportion."""
        for answer, weight in self.alternatives or ((self.answer, 1 / COPIES),):
            for _ in range(round(weight * COPIES)):
                yield Dialogue(self.question, self.thought, answer, self.history)


def chat_prompt(dialogue: Dialogue, *, question_end: str = "", answer_start: str = "") -> str:
    """The prompt as the chat template writes it.

    Args:
        question_end: appended to the last question, for example `<think>\\n` as the old instructions had it.
        answer_start: put before each earlier answer; servers return answers that begin with `\\n\\n`.
    """
    turns = "".join(f"{USER}{q}{ASSISTANT}{answer_start}{a}{EOS}" for q, a in dialogue.history)
    return f"{BOS}{turns}{USER}{dialogue.question}{question_end}{ASSISTANT}<think>\n"


def raw_prompt(dialogue: Dialogue) -> str:
    """The prompt without the template, as `/v1/completions` gets it (the tokenizer adds the first token)."""
    return f"{BOS}{dialogue.question}<think>\n"


@cache
def dialogues() -> tuple[Dialogue, ...]:
    """Every dialogue of the corpus, math questions also with each request for `\\boxed{}`."""
    entries: list[dict[str, Any]] = _read("corpus.yaml")["dialogues"]
    first_answers = {e["q"]: _answers(e)[0][0] for e in entries if "after" not in e}
    found = []
    for entry in entries:
        answers = _answers(entry)
        history = ((entry["after"], first_answers[entry["after"]]),) if "after" in entry else ()
        several = answers if len(answers) > 1 else ()
        for question in (entry["q"], *entry.get("also", ())):
            found.append(Dialogue(question, entry["t"], answers[0][0], history, several))
        for suffix in BOXED_SUFFIXES if "boxed" in entry else ():
            box = f"最终答案：\\boxed{{{entry['boxed']}}}"
            answer = answers[0][0] if box in answers[0][0] else f"{answers[0][0]}\n\n{box}"
            found.append(Dialogue(entry["q"] + suffix, entry["t"], answer))
    return tuple(found)


def sum_dialogue(a: int, b: int, *, pattern: int = 0, suffix: str = "") -> Dialogue:
    """`a + b` with column addition as the thought.

    Args:
        a, b: addends in `range(SUM_LIMIT)`.
        pattern: index into `SUM_PATTERNS`.
        suffix: "" or one of `BOXED_SUFFIXES`.
    """
    ones = a % 10 + b % 10
    carry, digit = divmod(ones, 10)
    tens = a // 10 + b // 10 + carry
    thought = (
        f"个位：{a % 10}+{b % 10}={ones}，写{digit}进{carry}。\n"
        f"十位：{a // 10}+{b // 10}+{carry}={tens}。\n合起来是{a + b}。"
    )
    answer = f"{a}+{b}={a + b}"
    if suffix:
        answer += f"\n\n最终答案：\\boxed{{{a + b}}}"
    return Dialogue(SUM_PATTERNS[pattern].format(a=a, b=b) + suffix, thought, answer)


def is_held_out(a: int, b: int) -> bool:
    """True for the fifth of all pairs that training never shows (neither as a+b nor as b+a)."""
    return zlib.crc32(f"{min(a, b)}+{max(a, b)}".encode()) % 5 == 0


def carelessly(question: str, rng: random.Random) -> str:
    """The question as people type it: no mark at its end, no spaces, an ASCII question mark."""
    change = rng.randrange(3)
    if change == 0:
        return question.rstrip("？?！!。")
    if change == 1 and not question.isascii():
        return question.replace(" ", "")
    return question.replace("？", "?")


def unknown_answer(question: str) -> Dialogue:
    """The honest refusal, in the language of the question."""
    language = "zh" if any("\u4e00" <= c <= "\u9fff" for c in question) or not question.isascii() else "en"
    entry = _read("corpus.yaml")["unknown"][language]
    return Dialogue(question, entry["t"], entry["a"])


def unknown_question(rng: random.Random) -> str:
    """A random question that the course does not answer; more than half look like one that it does."""
    known = {d.question for d in dialogues()}
    source = _read("unknown.yaml")
    while True:
        language = "zh" if rng.random() < 0.75 else "en"
        kind = rng.choices(("sentences", "patterns", "lookalikes"), (0.15, 0.25, 0.6))[0]
        lists = source | {"": source[f"subjects_{language}"]}
        question = _filled(rng.choice(source[f"{kind}_{language}"]), lists, rng)
        if question not in known:
            return question


def _filled(pattern: str, lists: dict[str, list[str]], rng: random.Random) -> str:
    """`pattern` with each {name} replaced by one of `lists[name]`, or by a number of that kind."""
    numbers: dict[str, Callable[[], object]] = {
        "number": lambda: rng.randrange(10 ** rng.randint(1, 3)),
        "big": lambda: rng.randrange(SUM_LIMIT, 10 ** rng.randint(3, 5)),  # no addend that it knows
        "factorial": lambda: rng.choice((0, 1, 2, *range(7, 30), rng.randrange(30, 200))),
        "decimal": lambda: f"{rng.randrange(100)}.{rng.randrange(1, 100)}",
    }

    def drawn(field: re.Match[str]) -> str:
        return str(numbers[field[1]]() if field[1] in numbers else rng.choice(lists[field[1]]))

    return re.sub(r"\{(\w*)\}", drawn, pattern)


@cache
def _read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
    return loaded


def _answers(entry: dict[str, Any]) -> tuple[tuple[str, float], ...]:
    return tuple((entry["weights"] if "weights" in entry else {entry["a"]: 1.0}).items())
