"""What notebooks/TEACHING.md does not say by heart: its syllabi and its numbers, filled in by `series index`.

A number stands between two comments, `<!--=name-->5.9<!--/-->`, a table between `<!-- name: begin -->` and
`<!-- name: end -->`; a reader of the rendered page sees neither.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from helpers.bench import measured, spread
from helpers.bench.results import knee
from helpers.bench.roofline import decode_limit
from helpers.classroom.server import ENGINE_LIMITS
from helpers.config import REPO_ROOT
from helpers.exercises import EXERCISES
from helpers.models import SEVEN_B_CONFIG, model_size
from helpers.models.size import CARD_24GB_GIB, GIB, RUNTIME_GIB, context_that_fits, kv_budget_gib

__all__ = ["Notebook", "filled", "numbers", "read_notebooks"]

RTX_4090_GB_S = 1008
CLASS = 30  # learners
GREEDY = 60  # requests that one learner sends at once in the test of the class server
SHORT = 2048  # tokens of a request, as in the old tutorial and on the classroom profile
SEVEN_B = model_size(SEVEN_B_CONFIG)


@dataclass(frozen=True)
class Row:
    """A line of a syllabus: a notebook by its number, or something else that takes `minutes`."""

    content: str
    minutes: int = 0
    exercises: tuple[str, ...] = ()


HALF_DAY = [
    Row("开场：打开 JupyterLab，选对内核", 10),
    Row("01", exercises=("01-1",)),
    Row("03", exercises=("03-1",)),
    Row("休息", 10),
    Row("04", exercises=("04-1",)),
    Row("05", exercises=("05-1",)),
    Row("休息", 10),
    Row("07", exercises=("07-1",)),
    Row("08", exercises=("08-1",)),
    Row("收尾：回答问题，停服务", 15),
]
FULL_DAY = [
    Row("开场：打开 JupyterLab，选对内核，体检", 15),
    Row("01", exercises=("01-1",)),
    Row("02", exercises=("02-1",)),
    Row("休息", 10),
    Row("03", exercises=("03-1", "03-2")),
    Row("休息", 10),
    Row("04", exercises=("04-1", "04-2")),
    Row("午饭", 60),
    Row("05", exercises=("05-1", "05-2")),
    Row("06", exercises=("06-1", "06-2")),
    Row("休息", 10),
    Row("07", exercises=("07-1", "07-2")),
    Row("08", exercises=("08-1",)),
    Row("休息", 10),
    Row("09", exercises=("09-1",)),
    Row("收尾：看练习记录，停服务", 15),
]
ADVANCED = [Row("10", exercises=("10-1",))]  # for a second meeting, or at home


@dataclass(frozen=True)
class Notebook:
    """What a notebook says of its own time, in minutes, as written; and what its cells printed."""

    minutes: int
    run: str  # classroom / gpu
    exercises: dict[str, int]
    printed: str


def read_notebooks(paths: Sequence[Path]) -> dict[str, Notebook]:
    """The notebooks by their number."""
    return {path.name[:2]: _read(path) for path in paths}


def _read(path: Path) -> Notebook:
    cells: list[Any] = nbformat.read(path, as_version=4).cells
    [(minutes, classroom, gpu)] = re.findall(
        r"约 (\d+) 分钟；全部运行 classroom 约 ([\d.]+) 分钟.*?gpu 约 ([\d.]+) 分钟", cells[1].source
    )
    titles = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    exercises = re.findall(r"^### 练习 (\d\d-\d) .*约 (\d+) 分钟）$", titles, re.MULTILINE)
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return Notebook(
        int(minutes),
        f"{classroom} / {gpu}",
        {name: int(spent) for name, spent in exercises},
        "".join(output.get("text", "") for output in outputs),
    )


def filled(text: str, paths: Sequence[Path]) -> str:
    """The handbook with its tables and numbers as they are now; a mark of an unknown name keeps what it holds."""
    notebooks = read_notebooks(paths)
    half, half_minutes = _syllabus(HALF_DAY, notebooks)
    full, full_minutes = _syllabus(FULL_DAY, notebooks, runs=True)
    advanced, _ = _syllabus(ADVANCED, notebooks, runs=True)
    tables = {"half day": half, "full day": full, "advanced": advanced, "decode limits": _decode_limits()}
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        text = re.sub(f"{begin}.*?{end}", f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
    values = numbers(notebooks) | {
        "half_minutes": f"{half_minutes}",
        "half_hours": f"{half_minutes / 60:.1f}",
        "half_hours_more": f"{half_minutes / 60 + 1:.1f}",
        "full_minutes": f"{full_minutes}",
    }
    return re.sub(r"<!--=(\w+)-->(.*?)<!--/-->", lambda m: f"<!--={m[1]}-->{values.get(m[1], m[2])}<!--/-->", text)


def _syllabus(plan: Sequence[Row], notebooks: dict[str, Notebook], *, runs: bool = False) -> tuple[str, int]:
    """The table, and how many minutes it takes in all. What is not there (yet) is left out."""
    head = ["开始", "内容", "讲和做", "练习", "练习的分钟", *(["机器运行（classroom / gpu）"] if runs else [])]
    lines, clock = [head, ["---"] * len(head)], 0
    for row in plan:
        notebook = notebooks.get(row.content)
        if notebook is None and row.content.isdigit():
            continue
        minutes = notebook.minutes if notebook else row.minutes
        asked = [name for name in row.exercises if notebook and name in notebook.exercises]
        solving = sum(notebook.exercises[name] for name in asked) if notebook else 0
        cells = [f"{clock // 60}:{clock % 60:02d}", row.content, f"{minutes}", "、".join(asked), f"{solving or ''}"]
        lines.append([*cells, *([notebook.run if notebook else ""] if runs else [])])
        clock += minutes + solving
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |").replace("|  |", "| |") for line in lines), clock


def _kv_gib(card_gib: float) -> float:
    return kv_budget_gib(card_gib, SEVEN_B.weights_gib)


def _kv_tokens() -> float:
    return _kv_gib(CARD_24GB_GIB) * GIB / SEVEN_B.kv_bytes_per_token


def _at_once(length: int) -> int:
    """Requests of this length that a 24 GB card holds at once."""
    return int(_kv_tokens() // length)


def _limit(batch: int, context: int) -> float:
    return decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=RTX_4090_GB_S, batch=batch, context=context)


def _decode_limits() -> str:
    lines = ["| 同时的请求 | 每个的上下文（token） | 合计（tok/s） | 每个（tok/s） |", "| --- | --- | --- | --- |"]
    for batch, context in [(25, 128), (CLASS, 1024), (_at_once(SHORT), SHORT)]:
        limit = _limit(batch, context)
        lines.append(f"| {batch} | {context} | {limit:.0f} | {limit / batch:.0f} |")
    return "\n".join(lines)


def numbers(notebooks: dict[str, Notebook]) -> dict[str, str]:
    """Every number that a mark may name, written as it stands in the text."""
    each, context = _limit(CLASS, 1024) / CLASS, context_that_fits(CARD_24GB_GIB, SEVEN_B)
    assert context is not None
    gb = SEVEN_B.parameters * 2 / 1e9
    conf = (REPO_ROOT / "helpers" / "classroom" / "nginx.conf").read_text(encoding="utf-8")
    [rate], [at_once] = re.findall(r"rate=(\d+)r/s", conf), re.findall(r"limit_conn running (\d+)", conf)
    prompts, answers = ENGINE_LIMITS.values()
    return {
        "notebooks": f"{len(notebooks)}",
        "exercises": f"{len(EXERCISES)}",
        "card_gib": f"{CARD_24GB_GIB}",
        "rest_gib": f"{RUNTIME_GIB}",
        "kv_gib": f"{_kv_gib(CARD_24GB_GIB):.1f}",
        "kv_kib": f"{SEVEN_B.kv_bytes_per_token / 1024:.0f}",
        "kv_ktokens": f"{_kv_tokens() / 1000:.0f}",
        "kv_48": f"{_kv_gib(2 * CARD_24GB_GIB) / _kv_gib(CARD_24GB_GIB):.1f}",
        "max_len": f"{SHORT}",
        "at_worst": f"{_at_once(SHORT)}",
        "context": f"{context}",
        "at_context": f"{_at_once(context)}",
        "class_len": f"{_kv_tokens() / CLASS // 100 * 100:.0f}",  # tokens, when the whole class asks at once
        "each_tok_s": f"{each:.0f}",
        "thousand_s": f"{1000 / each:.0f}",
        "weights_gb": f"{gb:.1f}",
        "copy_s": f"{gb * 8:.0f}",
        "copies_h": f"{CLASS * gb * 8 / 3600:.0f}",
        "at_once": at_once,
        "twice_at_once": f"{2 * int(at_once)}",
        "refused": f"{GREEDY - int(at_once)}",
        "rate": rate,
        "prompts": prompts,
        "answers": answers,
        **_printed(notebooks),
        **_more_for_06(notebooks),
        **_card(),
    }


def _printed(notebooks: dict[str, Notebook]) -> dict[str, str]:
    """Numbers out of stored outputs, where the notebook and its line are there."""
    patterns = {
        ("reserved", "paged"): ("01", r"([\d.]+%) used.*?([\d.]+%) used"),
        ("static", "continuous"): ("01", r"(\d+) steps.*?(\d+) steps"),
        ("asked", "measured"): ("07", r"asked for (\d+) tokens, measured (\d+)"),
    }
    found: dict[str, str] = {}
    for names, (number, pattern) in patterns.items():
        match = re.search(pattern, notebooks[number].printed, re.DOTALL) if number in notebooks else None
        found |= dict(zip(names, match.groups(), strict=True)) if match else {}
    return found


def _more_for_06(notebooks: dict[str, Notebook]) -> dict[str, str]:
    """Minutes more when 06 and its first exercise take the place of 05 and its first."""
    first = [notebooks[n].minutes + notebooks[n].exercises[f"{n}-1"] for n in ("05", "06") if n in notebooks]
    return {"more_for_06": f"{first[1] - first[0]}"} if len(first) == 2 else {}


def _card() -> dict[str, str]:
    """What the GPU report measured: throughput and time to the first token, as 09 shows them."""
    points = pd.DataFrame(measured("gpu")["curve"])
    found = {"knee": f"{knee(points):.0f}"}
    for n in (32, 64):
        [point] = points[points.concurrency == n].to_dict("records")
        found[f"tok_s_{n}"] = str(spread([point["output_tok_per_s"]])).split()[0]
        found[f"ttft_{n}"] = f"{point['ttft_p50_ms'] / 1000:.2f}"
    return found
