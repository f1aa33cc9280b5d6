"""The classroom model's tokenizer: DeepSeek-R1's special tokens and chat template on a vocabulary of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import Qwen2Tokenizer

from helpers.authoring.model.corpus import ASSISTANT, BOS, EOS, USER

__all__ = ["build_tokenizer"]

VOCAB_SIZE = 1536
MAX_TOKEN_CHARACTERS = 8
# `<think>` and `</think>` are not special tokens, in R1 and here: otherwise decoding would drop them.
ADDED = [AddedToken(t, special=t in (BOS, EOS), normalized=False) for t in (EOS, BOS, USER, ASSISTANT)] + [
    AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")
]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}<｜User｜>{{ message.content }}"
    "{% elif message.role == 'assistant' %}"
    "<｜Assistant｜>{{ message.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}{{ message.content }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)


def build_tokenizer(texts: Sequence[str], *, max_length: int) -> Qwen2Tokenizer:
    """Learn byte-pair merges from texts, on Qwen2's own rules for splitting text into words.

    Every character of `texts` becomes a token first, then frequent words do; anything else falls back to its UTF-8
    bytes.

    Args:
        texts: what the vocabulary should be good at.
        max_length: longest sequence of the model, in tokens.
    """
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def spell(text: str) -> str:  # one printable letter per byte, as byte-level vocabularies write it
        return "".join(piece for piece, _ in as_bytes.pre_tokenize_str(text))

    merges: dict[tuple[str, str], None] = {}
    for character in sorted(set("".join(texts))):
        letters = spell(character)
        merges |= {(letters[:end], letters[end]): None for end in range(1, len(letters))}

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer[0]
    learner.train_from_iterator(texts, trainers.BpeTrainer(max_token_length=MAX_TOKEN_CHARACTERS, show_progress=False))
    room = VOCAB_SIZE - len(ADDED) - 256 - len(merges)
    words = json.loads(learner.to_str())["model"]["merges"][:room]
    merges |= {(spell(left), spell(right)): None for left, right in words}

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in merges]
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))},
        merges=list(merges),  # type: ignore[arg-type]  # pairs are taken too
        unk_token=None,  # type: ignore[arg-type]
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens(ADDED)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    return tokenizer
