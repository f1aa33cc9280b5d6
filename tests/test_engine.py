"""The classroom model on the real vLLM engine answers as on transformers: exactly as the corpus says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.authoring.model.corpus import is_held_out
from helpers.config import REPO_ROOT, get_profile

pytestmark = pytest.mark.engine

# The engine runs in a process of its own: it changes global state that other tests would see.
PROGRAM = """
from vllm import LLM, SamplingParams
from helpers.authoring.model import corpus
from helpers.config import CLASSROOM_MODEL_DIR

llm = LLM(
    model=str(CLASSROOM_MODEL_DIR), dtype="float32", max_model_len=2048, gpu_memory_utilization=0.15,
    enforce_eager=True,
)
greedy = SamplingParams(temperature=0, max_tokens=320)
tokenizer = llm.get_tokenizer()

def answers(prompts):
    requests = [{"prompt_token_ids": tokenizer.encode(p, add_special_tokens=False)} for p in prompts]
    return [output.outputs[0].text for output in llm.generate(requests, greedy, use_tqdm=False)]

taught = corpus.dialogues()
single = [d for d in taught if not d.history]
forms = [
    (taught, [corpus.chat_prompt(d) for d in taught]),
    (taught, [corpus.chat_prompt(d, question_end="<think>\\n") for d in taught]),
    (single, [corpus.raw_prompt(d) for d in single]),
]
for asked, prompts in forms:
    wrong = [d.question for d, text in zip(asked, answers(prompts)) if text != d.response]
    assert not wrong, wrong
for d in taught[::8]:  # alone, and by the template that ships with the model
    turns = [{"role": r, "content": c} for q, a in d.history for r, c in (("user", q), ("assistant", a))]
    chat = [*turns, {"role": "user", "content": d.question}]
    assert llm.chat([chat], greedy, use_tqdm=False)[0].outputs[0].text == d.response, d.question
print("all as taught")
"""


def test_every_question_is_answered_as_taught() -> None:
    profile = get_profile({"TUTORIAL_PROFILE": "classroom"})
    env = os.environ | profile.engine_env | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPO_ROOT, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("all as taught\n")


def test_the_sum_that_notebook_03_calls_unseen_was_not_in_training() -> None:
    assert is_held_out(57, 66) and not any(is_held_out(a, b) for a, b in [(23, 48), (90, 19), (64, 27)])


def test_vllm_command_knows_its_version() -> None:
    program = Path(sys.executable).with_name("vllm")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[-1] == "0.32.0+cpu", done.stderr[-1000:]
