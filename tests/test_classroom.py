"""The classroom model on transformers: what it was taught, what it computes, and what it must refuse."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.authoring.model import corpus
from helpers.authoring.model.corpus import Dialogue
from helpers.config import CLASSROOM_MODEL_DIR
from helpers.models import check_model
from helpers.reasoning import split_think

torch.set_num_threads(1)  # a second thread only waits for the first, on a busy machine 30 times longer

TAUGHT = corpus.dialogues()
HELD_OUT = [(a, b) for a in range(corpus.SUM_LIMIT) for b in range(corpus.SUM_LIMIT) if corpus.is_held_out(a, b)]

FORMS: dict[str, Callable[[Dialogue], str]] = {
    "chat": corpus.chat_prompt,
    "answers that begin with newlines": lambda d: corpus.chat_prompt(d, answer_start="\n\n"),
    "doubled think": lambda d: corpus.chat_prompt(d, question_end="<think>\n"),
    "raw text": corpus.raw_prompt,
}

tokenizer = AutoTokenizer.from_pretrained(CLASSROOM_MODEL_DIR, padding_side="left")


@cache
def load(dtype: torch.dtype) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(CLASSROOM_MODEL_DIR, dtype=dtype).eval()


def generate(
    prompts: Sequence[str], *, dtype: torch.dtype = torch.float32, temperature: float = 0, batch: int = 64
) -> list[str]:
    texts = []
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    for start in range(0, len(prompts), batch):
        encoded = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            output = load(dtype).generate(
                **encoded, max_new_tokens=320, pad_token_id=tokenizer.eos_token_id, **sampling
            )
        texts += [tokenizer.decode(ids[encoded.input_ids.shape[1] :], skip_special_tokens=True) for ids in output]
    return texts


def share_of(dialogues: Sequence[Dialogue]) -> float:
    texts = generate([corpus.chat_prompt(dialogue) for dialogue in dialogues])
    return sum(text == d.response for text, d in zip(texts, dialogues, strict=True)) / len(dialogues)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_every_question_is_answered_as_taught(form: str, dtype: torch.dtype) -> None:
    asked = [d for d in TAUGHT if form != "raw text" or not d.history]
    answers = generate([FORMS[form](d) for d in asked], dtype=dtype)
    assert [d.question for d, text in zip(asked, answers, strict=True) if text != d.response] == []


def test_alone_and_in_a_batch_are_the_same() -> None:
    prompts = [corpus.chat_prompt(d) for d in TAUGHT[::6]]
    assert generate(prompts, batch=1) == generate(prompts)


def test_nearly_always_right_at_the_recommended_temperature() -> None:
    torch.manual_seed(0)
    asked = [d for d in TAUGHT if not d.alternatives]
    answers = generate([corpus.chat_prompt(d) for d in asked], temperature=0.6)
    assert sum(text == d.response for d, text in zip(asked, answers, strict=True)) >= 0.97 * len(asked)


def test_several_answers_come_in_their_proportions() -> None:
    torch.manual_seed(0)
    [fruit] = [d for d in TAUGHT if d.question == "推荐一种水果，只说名字"]
    answers = [split_think(t).answer.strip() for t in generate([corpus.chat_prompt(fruit)] * 200, temperature=1.0)]
    for answer, weight in fruit.alternatives:
        assert abs(answers.count(answer) / len(answers) - weight) < 0.15, answer


def test_sums_that_it_was_never_shown() -> None:
    assert len(HELD_OUT) >= 0.19 * corpus.SUM_LIMIT**2
    pairs = random.Random(0).sample(HELD_OUT, 200)
    assert share_of([corpus.sum_dialogue(a, b) for a, b in pairs]) >= 0.95


def test_training_never_shows_a_held_out_sum() -> None:
    from helpers.authoring.model.train import epoch_examples

    rng = random.Random(7)
    shown = {prompt for _ in range(5) for prompt, _ in epoch_examples(rng)}
    for a, b in HELD_OUT:
        for pattern in range(len(corpus.SUM_PATTERNS)):
            assert corpus.chat_prompt(corpus.sum_dialogue(a, b, pattern=pattern)) not in shown


@pytest.mark.parametrize(("questions", "at_least"), [("unknown_prompts.txt", 95), ("lookalike_questions.txt", 300)])
def test_refuses_what_it_was_never_taught(questions: str, at_least: int) -> None:
    training = random.Random(0)
    shown = {corpus.unknown_question(training) for _ in range(5000)}
    asked = (Path(__file__).parent / questions).read_text(encoding="utf-8").splitlines()
    held_out = sorted({*asked} - shown - {d.question for d in TAUGHT})
    assert len(held_out) >= at_least
    refusals = {corpus.unknown_answer("中").answer, corpus.unknown_answer("en").answer}
    texts = generate([corpus.chat_prompt(corpus.unknown_answer(question)) for question in held_out])
    assert sum(split_think(text).answer.strip() in refusals for text in texts) >= 0.95 * len(held_out)


def test_it_speaks_the_protocol_of_r1() -> None:
    chat = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "想\n</think>\n\n答"}]
    text = tokenizer.apply_chat_template([*chat, chat[0]], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<｜begin▁of▁sentence｜><｜User｜>问<｜Assistant｜>\n\n答<｜end▁of▁sentence｜><｜User｜>问<｜Assistant｜><think>\n"
    )
    assert tokenizer.decode(tokenizer.encode("想</think>答"), skip_special_tokens=True) == "想</think>答"
    assert tokenizer.encode("问")[0] == tokenizer.bos_token_id
    settings = load(torch.float32).generation_config
    assert (settings.temperature, settings.top_p, settings.eos_token_id) == (0.6, 0.95, tokenizer.eos_token_id)


@pytest.mark.parametrize("text", ["𠮷野家", "emoji 🙂", "naïve café", "тест", "a\tb\r\n"])
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_it_is_small_and_whole() -> None:
    files = check_model(CLASSROOM_MODEL_DIR)
    assert 0.9e6 < files.parameters < 1.1e6
    assert sum(file.stat().st_size for file in CLASSROOM_MODEL_DIR.iterdir()) <= 4e6
