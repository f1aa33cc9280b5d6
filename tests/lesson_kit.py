"""Lessons run as learners run them: a cell twice, or with a model that does not answer as taught."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from helpers.config import CLASSROOM_MODEL_DIR

__all__ = ["CHAINS", "errors_in", "rambling_model", "scripted_model"]

CELL_TIMEOUT_S = 600

# What a scripted model writes: one token always follows the same one, and the first follows everything else.
CHAINS = {
    "endless": ["想", "想"],
    "stops_in_its_thought": ["想", "<eos>"],
    "empty": ["<eos>"],
    "no_thought": ["</think>", "好", "<eos>"],
    "no_answer": ["想", "</think>", "<eos>"],
    "nothing_but_the_tag": ["</think>", "<eos>"],
    "many_tags": ["想", "</think>", "好", "</think>"],
    "opens_again": ["</think>", "<think>", "好", "<eos>"],
    "half_characters": ["ä", "ä"],
}


def rambling_model(folder: Path) -> Path:
    """The classroom model that can neither close its thought nor end: it talks until the limit."""
    shutil.copytree(CLASSROOM_MODEL_DIR, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen2Config.from_pretrained(folder, tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    output = weights["model.embed_tokens.weight"].clone()
    output[[tokenizer.convert_tokens_to_ids("</think>"), tokenizer.eos_token_id]] = 0
    save_file(weights | {"lm_head.weight": output}, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    return folder


def scripted_model(folder: Path, chain: list[str]) -> Path:
    """A model without knowledge: each token of `chain` calls for the next one, anything else for the first.

    Attention and MLP add nothing, so the last token alone decides: its embedding is one direction, and the output
    layer's row of the token that follows is that direction.
    """
    shutil.copytree(CLASSROOM_MODEL_DIR, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen2Config.from_pretrained(folder, tie_word_embeddings=False)
    ids = [tokenizer.eos_token_id if t == "<eos>" else tokenizer.encode(t, add_special_tokens=False)[0] for t in chain]
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1 if "norm" in name else 0)
        embeddings, output = model.model.embed_tokens.weight, model.lm_head.weight
        embeddings[:, 0] = 1
        output[ids[0], 0] = 1
        for place, (token, following) in enumerate(itertools.pairwise(ids), start=1):
            embeddings[token] = 0
            embeddings[token, place] = 1
            output[following, place] = 1
    model.bfloat16().save_pretrained(folder)
    return folder


def errors_in(lesson: Path, *, env: Mapping[str, str], times: int = 1) -> list[str]:
    """Run every code cell `times` times in a row and go on after an error.

    Returns:
        One line for each cell that failed, except those whose lesson is the error (tag `raises-exception`).
    """
    notebook = nbformat.read(lesson, as_version=4)
    cells = []
    for cell in notebook.cells:
        for turn in range(times if cell.cell_type == "code" else 0):
            again = nbformat.from_dict(cell)
            again.id = f"{cell.id}-{turn + 1}"
            cells.append(again)
    notebook.cells = cells
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(lesson.parent)}},
    )
    client.execute(env={**os.environ, "TUTORIAL_ROUNDS": "1", "TUTORIAL_PROGRESS": "off", **env})
    return [
        f"{cell.id}: {output.ename}: {output.evalue}"
        for cell in notebook.cells
        if "raises-exception" not in cell.metadata.get("tags", [])
        for output in cell.outputs
        if output.output_type == "error"
    ]
