"""Are the messages that the course explains still worded so where they come from? An upgrade must turn this red.

`source` of a message in `fakes/vllm_messages.json`: the package that raises it, and the words that its code holds.
What compiled code, a tool or an older version says has none.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.server.log import LAST_WORDS, PHASES
from helpers.server.startup import GUARDED, OPEN_PATHS

RECORDED = json.loads((Path(__file__).parent / "fakes" / "vllm_messages.json").read_text(encoding="utf-8"))
QUOTED = {name: message for name, message in RECORDED.items() if "source" in message}
WHERE = {  # what is read of a package; all of it would take a minute
    "vllm": ["**/*.py"],
    "huggingface_hub": ["**/*.py"],
    "transformers": ["*.py", "utils/*.py", "models/auto/*.py"],
    "torch": ["*.py", "cuda/*.py", "utils/*.py", "distributed/*.py"],
}


@cache
def code(package: str) -> str:
    """The Python code of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec and spec.origin
    folder = Path(spec.origin).parent
    return "\n".join(file.read_text(errors="replace") for glob in WHERE[package] for file in folder.glob(glob))


@pytest.mark.parametrize("name", QUOTED)
def test_a_message_stands_in_the_code_that_raises_it(name: str) -> None:
    package, words = QUOTED[name]["source"]
    assert words in QUOTED[name]["log"]
    assert words in code(package), f"{package} words it differently now: look at causes.yaml, then record the new words"


@pytest.mark.parametrize("words", [words for words, _ in PHASES[1:]] + [words for words, _, _ in LAST_WORDS])
def test_the_words_of_the_progress_bar_and_of_an_end_stand_in_the_code(words: str) -> None:
    assert words in code("vllm")


def test_the_paths_that_a_key_guards_are_named_as_the_middleware_has_them() -> None:
    guarded = re.search(r"^GUARDED_PREFIX = \((.*)\)$", code("vllm"), re.MULTILINE)
    assert guarded and [word.strip('" ') for word in guarded[1].split(",")] == re.findall(r"/\w+", GUARDED)
    assert GUARDED in OPEN_PATHS


def test_most_of_what_the_engine_itself_says_is_looked_up() -> None:
    assert sum(message["source"][0] == "vllm" for message in QUOTED.values()) > 50
