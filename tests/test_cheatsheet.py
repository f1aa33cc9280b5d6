"""The cheat sheet: drawn from the notebooks, one A4 page, nothing from outside."""

from __future__ import annotations

import ast
import html
import math
import re
import subprocess

import pytest

from helpers.authoring import cheatsheet
from helpers.errors import TutorialError

PAGE = cheatsheet.CHEATSHEET.read_text(encoding="utf-8")
PAGE_MM = 520  # by the estimate below, printed by Chromium: 534 fits, 549 does not
COLUMN_CHARACTERS = 60  # seen in print: Chromium, DejaVu Sans Mono
MM_PER_PT = 25.4 / 72


def blocks(page: str = PAGE) -> list[tuple[str, list[str]]]:
    """Caption and lines of code."""
    found = re.findall(r"<div><p>(.*?)</p><pre>(.*?)</pre></div>", page, re.DOTALL)
    return [
        (html.unescape(caption), [html.unescape(re.sub("<.*?>", "", line)) for line in lines.split("</code>")[:-1]])
        for caption, lines in found
    ]


def code(begin: str) -> str:
    [lines] = [lines for _, lines in blocks() if lines[0].startswith(begin)]
    return "\n".join(lines)


def test_the_page_is_what_the_notebooks_say() -> None:
    assert cheatsheet.sheet() == PAGE, "运行 python -m helpers.authoring.cheatsheet"


def test_what_is_no_longer_found_is_named() -> None:
    with pytest.raises(TutorialError, match=r"07 号笔记本里没有以 'vllm fly' 开头的代码.*cheatsheet\.py"):
        cheatsheet.find("07", "vllm fly")


def test_a_changed_builder_in_notebook_07_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    find = cheatsheet.find
    changed = "def throughput_command(name):\n    return NEW_NAME"
    monkeypatch.setattr(
        cheatsheet,
        "find",
        lambda number, *starts: changed if starts[0].startswith("def thr") else find(number, *starts),
    )
    with pytest.raises(TutorialError, match="throughput_command 变了"):
        cheatsheet.sheet()


def test_every_kind_of_command_is_there() -> None:
    for begin in (
        "from modelscope import snapshot_download", "from vllm import LLM", "vllm serve ", "python -m helpers.server ",
        'curl -s "$SERVER/v1/models"', 'curl -s "$SERVER/v1/chat/completions"', 'curl -s "$SERVER/v1/completions"',
        "client = OpenAI(", "vllm bench throughput ", "vllm bench serve ",
    ):  # fmt: skip
        assert code(begin)


def test_the_commands_can_be_typed() -> None:
    for _, lines in blocks():
        text = "\n".join(lines)
        if lines[0].startswith(("vllm ", "curl ", "export ")):
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        elif not lines[0].startswith(("conda ", "python ", "ssh ")):
            ast.parse(f"async def cell():\n{re.sub('^', '    ', text, flags=re.MULTILINE)}")
    serve = code("vllm serve ")
    assert "--enforce-eager" not in serve and "--dtype bfloat16" in serve  # the sheet is for the gpu profile
    assert "--random-input-len 64" in code("vllm bench throughput ")
    assert "--seed 16" in code("vllm bench serve ")


def test_nothing_comes_from_outside() -> None:
    assert not re.search(r"<(script|link|img|iframe)|\b(src|href)=|url\(|@import", PAGE)


def height_mm(page: str) -> float:
    """An estimate of the columns' length, one below the other, from the sizes that stand in cheatsheet.html."""
    rows = sum(math.ceil(len(line) / COLUMN_CHARACTERS) or 1 for _, lines in blocks(page) for line in lines)
    code_mm = rows * 7 * 1.22 * MM_PER_PT
    captions_mm = len(blocks(page)) * (7.8 * 1.3 * MM_PER_PT + 2.1)
    headings_mm = page.count("<h2>") * (8.6 * 1.3 * MM_PER_PT + 2.2)
    return code_mm + captions_mm + headings_mm


def test_it_fits_on_one_page() -> None:
    assert "font: 7.8pt/1.3 " in PAGE and "font: 7pt/1.22 " in PAGE and "font-size: 8.6pt" in PAGE
    assert height_mm(PAGE) < PAGE_MM
