"""What lessons 03 and 04 say of vLLM and of R1's tokenizer, where no cell of the classroom can show it."""

from __future__ import annotations

import ast
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from transformers import AutoTokenizer

from helpers.config import CLASSROOM_MODEL_DIR, REPO_ROOT
from helpers.exercises import nb04

CLASSROOM_ADDS, HUB_ADDS = 1, 0


def source(path: str) -> str:
    [root] = find_spec("vllm").submodule_search_locations  # type: ignore[union-attr, misc]
    return (Path(root) / path).read_text(encoding="utf-8")


def lesson(name: str) -> str:
    notebook = nbformat.read(REPO_ROOT / "notebooks" / name, as_version=4)
    return "\n".join(cell.source for cell in notebook.cells)


def test_a_key_guards_what_the_lesson_and_its_exercise_say() -> None:
    middleware = source("entrypoints/serve/middleware/authenticate.py")
    guarded = re.search(r"^GUARDED_PREFIX = (\(.*?\))", middleware, re.MULTILINE | re.DOTALL)
    assert guarded and ast.literal_eval(guarded[1]) == nb04.GUARDED
    assert f"GUARDED = {guarded[1]}" in lesson("04_start_server.ipynb")


def test_the_log_line_of_a_card_that_lesson_04_looks_for_exists() -> None:
    assert "Available KV cache memory" in lesson("04_start_server.ipynb")
    assert '"Available KV cache memory: %s GiB"' in source("v1/worker/gpu_worker.py")


@pytest.fixture
def hub_shaped(tmp_path: Path) -> Path:
    """The classroom's tokenizer in the shape of R1-Distill-Qwen's on the hub: the flag, and no template processor."""
    for name in ("config.json", "chat_template.jinja"):
        shutil.copy(CLASSROOM_MODEL_DIR / name, tmp_path)
    tokenizer = json.loads((CLASSROOM_MODEL_DIR / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    settings = json.loads((CLASSROOM_MODEL_DIR / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "add_eos_token": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tmp_path


def test_whether_text_gets_a_begin_mark_depends_on_the_tokenizer(hub_shaped: Path) -> None:
    for folder, added in ((CLASSROOM_MODEL_DIR, CLASSROOM_ADDS), (hub_shaped, HUB_ADDS)):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        messages = [{"role": "user", "content": "你好"}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        marks = [tokenizer.encode(text).count(tokenizer.bos_token_id) for text in ("你好", rendered)]
        assert marks == [added, 1 + added]
