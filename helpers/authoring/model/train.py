"""Train the classroom model from scratch: `python -m helpers.authoring.model.train [--out DIR]`.

The shipped weights took five minutes on an H100; two CPU cores need about ten seconds an epoch. Another machine or
number of threads may give other weights; they must pass the same tests (`pytest tests/test_classroom.py`).
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from helpers.authoring.model import corpus
from helpers.authoring.model.corpus import Dialogue
from helpers.authoring.model.tokenizer import build_tokenizer
from helpers.config import CLASSROOM_MODEL_DIR

__all__ = ["train"]

MAX_POSITIONS = 2048
BATCH_TOKENS = 4096
PEAK_LEARNING_RATE = 4e-3
SUMS_PER_EPOCH = 160
UNKNOWN_PER_EPOCH = 480
CARELESS = 0.3  # share of questions typed without marks or spaces
IN_A_CHAT = 0.1  # share of sums and unknown questions asked once more after other turns
LENGTH_JITTER = 12  # tokens; without it the answers to one question would never share a batch
IGNORED = -100  # label of positions that do not count in the loss


def epoch_examples(rng: random.Random) -> Iterator[tuple[str, str]]:
    """(prompt, response) pairs of one epoch: every dialogue in the forms in which learners send it, random sums
    outside the held-out fifth, and random questions that must be refused."""
    known, asked = corpus.dialogues(), list[Dialogue]()
    for dialogue in known:
        starts = rng.choice(("", "\n\n"))
        for copy in dialogue.copies():
            yield corpus.chat_prompt(copy, answer_start=starts), copy.response
            yield corpus.chat_prompt(copy, answer_start=starts, question_end="<think>\n"), copy.response
            if rng.random() < CARELESS:
                careless = replace(copy, question=corpus.carelessly(copy.question, rng))
                yield corpus.chat_prompt(careless, answer_start=starts), copy.response
            if not dialogue.history:
                yield corpus.raw_prompt(copy), copy.response
    for _ in range(len(known) // 2):  # a new topic after any earlier turn
        first, second = rng.sample([d for d in known if not d.history and not d.alternatives], 2)
        if second.question not in ("能举个例子吗？", "我叫什么名字？"):
            turn = Dialogue(second.question, second.thought, second.answer, ((first.question, first.answer),))
            yield corpus.chat_prompt(turn, answer_start=rng.choice(("", "\n\n"))), turn.response
    for _ in range(SUMS_PER_EPOCH):
        a, b = rng.randrange(corpus.SUM_LIMIT), rng.randrange(corpus.SUM_LIMIT)
        if not corpus.is_held_out(a, b):
            pattern, suffix = rng.randrange(len(corpus.SUM_PATTERNS)), rng.choice(("", "", *corpus.BOXED_SUFFIXES))
            asked.append(corpus.sum_dialogue(a, b, pattern=pattern, suffix=suffix))
    for _ in range(UNKNOWN_PER_EPOCH):
        question = corpus.unknown_question(rng)
        asked.append(corpus.unknown_answer(corpus.carelessly(question, rng) if rng.random() < CARELESS else question))
    for dialogue in asked:
        yield _in_any_form(dialogue, rng)
        if rng.random() < IN_A_CHAT:
            earlier = rng.sample([d for d in known if not d.history], rng.randint(1, 2))
            turn = replace(dialogue, history=tuple((d.question, d.answer) for d in earlier))
            yield corpus.chat_prompt(turn, answer_start=rng.choice(("", "\n\n"))), turn.response


def _in_any_form(dialogue: Dialogue, rng: random.Random) -> tuple[str, str]:
    form = rng.random()
    if form < 0.7:
        return corpus.chat_prompt(dialogue), dialogue.response
    if form < 0.85:
        return corpus.chat_prompt(dialogue, question_end="<think>\n"), dialogue.response
    return corpus.raw_prompt(dialogue), dialogue.response


def _tokenizer(rng: random.Random) -> Qwen2Tokenizer:
    """The classroom model's own, so that the token ids in the lessons stay as they are; a new one where it has none."""
    if (CLASSROOM_MODEL_DIR / "tokenizer.json").exists():
        kept: Qwen2Tokenizer = Qwen2Tokenizer.from_pretrained(CLASSROOM_MODEL_DIR)
        for note in ("is_local", "local_files_only"):  # how it was loaded, which is nobody else's business
            kept.init_kwargs.pop(note, None)
        return kept
    texts = [text for dialogue in corpus.dialogues() for text in (dialogue.question, dialogue.response)]
    texts += [text for pair in epoch_examples(rng) for text in pair][-2 * UNKNOWN_PER_EPOCH :]
    return build_tokenizer(texts, max_length=MAX_POSITIONS)


def batches(
    examples: list[tuple[str, str]], tokenizer: Qwen2Tokenizer, rng: random.Random
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Input ids and labels, each (sequences, tokens), padded within batches of similar length."""
    encoded = []
    for prompt, response in examples:
        head = tokenizer.encode(prompt, add_special_tokens=False)
        tail = [*tokenizer.encode(response, add_special_tokens=False), tokenizer.eos_token_id]
        encoded.append((head + tail, [IGNORED] * len(head) + tail))
    encoded.sort(key=lambda pair: len(pair[0]) + rng.uniform(0, LENGTH_JITTER))
    made = []
    while encoded:
        count = max(1, BATCH_TOKENS // len(encoded[-1][0]))
        chunk, encoded = encoded[-count:], encoded[:-count]
        longest = max(len(ids) for ids, _ in chunk)
        ids = [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in chunk]
        labels = [labels + [IGNORED] * (longest - len(labels)) for _, labels in chunk]
        made.append((torch.tensor(ids), torch.tensor(labels)))
    rng.shuffle(made)
    return made


def train(out: Path, *, epochs: int = 400, seed: int = 2025) -> None:
    """Train and save the model.

    Args:
        out: folder for config, weights (bfloat16 safetensors), tokenizer, template and generation config.
        epochs: passes over the corpus; fewer make the answers unreliable.
        seed: of the initial weights and the order of examples.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    tokenizer = _tokenizer(rng)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Qwen2ForCausalLM(config)
    model.to(device)  # type: ignore[arg-type]  # the decorator of transformers hides `self`
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    progress = tqdm(range(epochs), unit="epoch", desc=f"{model.num_parameters() / 1e6:.2f} M parameters")
    for epoch in progress:
        todo = batches(list(epoch_examples(rng)), tokenizer, rng)
        total = 0.0
        for index, (ids, labels) in enumerate(todo):
            done = (epoch + index / len(todo)) / epochs
            warm_up, cosine = min(1, done * 25), (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = PEAK_LEARNING_RATE * warm_up * cosine
            loss = model(input_ids=ids.to(device), labels=labels.to(device)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
        progress.set_postfix(loss=f"{total / len(todo):.4f}")

    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.cpu().bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"{sum(f.stat().st_size for f in out.iterdir()) / 1e6:.2f} MB in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=CLASSROOM_MODEL_DIR, help="folder to write (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=400, help="passes over the corpus (default: %(default)s)")
    arguments = parser.parse_args()
    train(arguments.out, epochs=arguments.epochs)
