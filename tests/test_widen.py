"""The widened classroom model computes what the classroom model computes, in a shape of another kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.authoring.model import corpus
from helpers.authoring.model.widen import widen
from helpers.config import CLASSROOM_MODEL_DIR
from helpers.errors import ModelError
from helpers.models import SEVEN_B_CONFIG, model_size
from helpers.models.size import CONTEXTS

torch.set_num_threads(1)  # a second thread only waits for the first, on a busy machine 30 times longer

# The classroom: 4 layers, hidden 128, 4 heads of 32 on 2 KV heads, 384 in the MLP, 1536 tokens.
SHAPES = {
    "five copies, heads of 64, 5 query heads a KV head, 2 layers more": (6, 640, 10, 2, 400, 1600),
    "four copies, heads of 128, more KV heads": (4, 512, 4, 2, 384, 1537),
    "heads of 32, more KV heads": (4, 1024, 32, 4, 385, 4096),
}
ASKED = sorted(corpus.dialogues(), key=lambda dialogue: len(dialogue.response))[:60:6]
WHOLE = [corpus.chat_prompt(d) + d.response for d in corpus.dialogues()[::12]]

tokenizer = AutoTokenizer.from_pretrained(CLASSROOM_MODEL_DIR, padding_side="left")
classroom_tokens = len(tokenizer)


def shape(name: str) -> dict[str, Any]:
    layers, hidden, heads, kv_heads, inner, tokens = SHAPES[name]
    return SEVEN_B_CONFIG | {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": inner,
        "vocab_size": tokens,
    }


def load(folder: Path, dtype: torch.dtype) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def logits(model: AutoModelForCausalLM, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0]


def wrong_answers(model: AutoModelForCausalLM) -> list[str]:
    prompts = [corpus.chat_prompt(dialogue) for dialogue in ASKED]
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        output = model.generate(**encoded, max_new_tokens=100, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(output[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)
    return [text for text, dialogue in zip(texts, ASKED, strict=True) if text != dialogue.response]


@pytest.mark.parametrize("name", SHAPES)
def test_it_computes_the_same_and_never_chooses_a_token_the_classroom_lacks(name: str, tmp_path: Path) -> None:
    files = widen(tmp_path, shape=shape(name), dtype="float32")
    assert files.parameters == model_size(tmp_path).parameters
    small, wide = load(CLASSROOM_MODEL_DIR, torch.float32), load(tmp_path, torch.float32)
    for text in WHOLE:
        expected, found = logits(small, text), logits(wide, text)
        torch.testing.assert_close(found[:, :classroom_tokens], expected, rtol=1e-4, atol=1e-3)
        assert found[:, classroom_tokens:].max() < expected.min() - 100
    assert wrong_answers(wide) == []


def test_in_bfloat16_it_answers_as_taught(tmp_path: Path) -> None:
    widen(tmp_path, shape=shape("four copies, heads of 128, more KV heads"))
    wide = load(tmp_path, torch.bfloat16)
    assert wrong_answers(wide) == []
    assert logits(wide, WHOLE[0])[:, classroom_tokens:].max() < -100


def test_the_folder_speaks_the_protocol_and_says_what_it_is(tmp_path: Path) -> None:
    widen(tmp_path, shape=shape("four copies, heads of 128, more KV heads"))
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert "权重不是" in config["tutorial_note"] and "权重不是" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert config["eos_token_id"] == settings["eos_token_id"] == tokenizer.eos_token_id
    assert config["max_position_embeddings"] == SEVEN_B_CONFIG["max_position_embeddings"]
    copied = AutoTokenizer.from_pretrained(tmp_path)
    assert copied.model_max_length == config["max_position_embeddings"] >= max(CONTEXTS)
    chat = [{"role": "user", "content": "问"}]
    assert copied.apply_chat_template(chat, tokenize=False, add_generation_prompt=True).endswith("<think>\n")


def test_random_numbers_fill_the_same_shape(tmp_path: Path) -> None:
    wanted = shape("heads of 32, more KV heads")
    assert widen(tmp_path, shape=wanted, random=True).parameters == model_size(wanted).parameters
    model = load(tmp_path, torch.float32)
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert model.model.layers[3].mlp.down_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert logits(model, "问").isfinite().all()


@pytest.mark.parametrize("hidden", [384, 600])
def test_a_residual_stream_that_cannot_hold_the_copies_is_refused(hidden: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="128 的整数倍"):
        widen(tmp_path / "model", shape=SEVEN_B_CONFIG | {"hidden_size": hidden})
    assert not (tmp_path / "model").exists()
