"""What the family's shapes take and give on real cards: `python -m helpers.authoring.report.family`.

Each case is one `vllm serve`: its own log says what weights and KV cache took, `vllm bench serve` how fast it is. The
7B is the widened classroom model, whose answers are checked; the other shapes get random numbers from vLLM itself
(`--load-format dummy`) and need no weights on disk. Cases for one card run side by side, one on each card. What is
measured is saved at once, and a second call goes on where the first was ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from openai import OpenAI

from helpers import get_profile
from helpers.authoring.model import corpus
from helpers.authoring.model.widen import COPIED, widen
from helpers.authoring.report.memory import SAID
from helpers.bench import read_serving, run_bench, serving_command
from helpers.config import CLASSROOM_MODEL_DIR, REPO_ROOT, Profile
from helpers.errors import TutorialError
from helpers.machine import cuda_gpus, cuda_memory_gib, describe
from helpers.models.files import read_json
from helpers.models.fit import FAMILY
from helpers.server import VLLMServer, serve_command

__all__ = ["CASES", "Case", "from_log", "measure"]

Row = dict[str, Any]

SIZES = (1, 32, 128)  # requests in flight
ASKED = 24  # questions to the widened model
SHIPPED = REPO_ROOT / "helpers" / "bench" / "gpu_family.json"
TAKEN = ("weights_gib", "kv_gib", "kv_tokens")
FLAGS = {"fp8 weights": ("--quantization", "fp8"), "fp8 KV cache": ("--kv-cache-dtype", "fp8")}


@dataclass(frozen=True)
class Case:
    """One server: a key of `FAMILY`, what is fp8 in it (`bf16`: nothing), how many cards share it, and the longest
    request in tokens."""

    model: str
    setting: str = "bf16"
    cards: int = 1
    max_model_len: int = 32768

    @property
    def name(self) -> str:
        return f"{self.model}_{self.setting}_{self.cards}".replace(" ", "_")

    @property
    def key(self) -> Row:
        return {"model": self.model, "setting": self.setting, "cards": self.cards}


CASES = [  # the most wanted first, after two that start while the 7B is still being written
    Case("14B"), Case("1.5B"), Case("7B"), Case("7B", "fp8 weights"), Case("7B", "fp8 KV cache"),
    Case("32B", "fp8 weights"), Case("32B", cards=2), Case("32B", max_model_len=16384), Case("14B", "fp8 weights"),
]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What every case needs.

    Attributes:
        models: a folder for each key of `FAMILY`.
        written: done when the 7B is; nothing is measured before.
        folder: logs and raw results go here.
        repeats: measurements of each speed.
    """

    profile: Profile
    models: Path
    written: Future[Any]
    folder: Path
    repeats: int


def from_log(log: str) -> Row:
    """What a server's log says of its memory; of several cards, that of the one with the most weights.

    Returns:
        `weights_gib`, `kv_gib` of one card, `kv_tokens` in all; None where the line is missing, as on a CPU.
    """
    found = {name: [json.loads(text.replace(",", "")) for text in re.findall(SAID[name], log)] for name in TAKEN}
    return {name: (max if name == "weights_gib" else min)(found[name], default=None) for name in TAKEN}


def measure(run: Run, case: Case, cards: Sequence[int], save: Callable[[Row], None]) -> Row:
    """Start one case on the cards with these numbers; `save` gets its row after each step.

    Returns:
        The row; with `error` where the server did not start, so that what does not fit is known too.
    """
    row: Row = case.key | {"max_model_len": case.max_model_len, "output_tok_per_s": {}}
    log_file = run.folder / f"{case.name}.log"
    try:
        if case.model == "7B":
            run.written.result()
        with _server(run, case, cards, log_file) as server:
            row |= {"ready_s": round(server.ready_after_s, 1)} | from_log(log_file.read_text(errors="replace"))
            save(row)
            run.written.result()
            if case.model == "7B":
                row["answers"] = _answers(server, run.profile.served_model_name)
            for repeat in range(run.repeats):
                for size in SIZES:
                    speed = _speed(run, case, server, size, repeat)
                    row["output_tok_per_s"].setdefault(str(size), []).append(round(speed, 1))
                    save(row)
    except (TutorialError, OSError) as error:
        row["error"] = str(error)[:500]
    save(row)
    return row


def _server(run: Run, case: Case, cards: Sequence[int], log_file: Path) -> VLLMServer:
    folder = run.models / case.model
    profile = replace(run.profile, max_model_len=case.max_model_len)
    extra = ["--no-enable-prefix-caching", *FLAGS.get(case.setting, ())]
    extra += [] if case.model == "7B" else ["--load-format", "dummy"]
    extra += ["--tensor-parallel-size", str(case.cards)] if case.cards > 1 else []
    command = serve_command(profile, folder, port=8100 + 50 * cards[0], extra=extra)
    env = {**os.environ, **profile.engine_env, "CUDA_VISIBLE_DEVICES": ",".join(map(str, cards))}
    return VLLMServer(command, env=env, log_file=log_file)


def _speed(run: Run, case: Case, server: VLLMServer, size: int, repeat: int) -> float:
    result = run.folder / "raw" / f"{case.name}_{size}_{repeat}.json"
    result.parent.mkdir(parents=True, exist_ok=True)
    command = serving_command(
        server.base_url, run.profile.served_model_name, run.models / case.model, concurrency=size, result=result
    )
    command += ["--num-prompts", "8"] if size == 1 else []  # one after the other, half a minute a run otherwise
    run_bench(command, log_file=result.with_suffix(".log"), show=False)
    return float(read_serving([result]).output_tok_per_s[0])


def _answers(server: VLLMServer, model: str) -> list[int]:
    """How many of the course's questions were answered as taught, and how many were asked."""
    asked = [each for each in corpus.dialogues() if not each.history and not each.alternatives][:ASKED]
    with OpenAI(base_url=f"{server.base_url}/v1", api_key=server.api_key) as client:
        said = [
            client.chat.completions.create(
                model=model, temperature=0, messages=[{"role": "user", "content": each.question}]
            )
            for each in asked
        ]
    answers = [(reply.choices[0].message.content or "").strip() for reply in said]
    return [sum(answer == each.answer.strip() for answer, each in zip(answers, asked, strict=True)), len(asked)]


def bare(folder: Path, shape: Mapping[str, Any]) -> None:
    """Write a model without weights: the shape, and the classroom model's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    small = read_json(CLASSROOM_MODEL_DIR / "config.json")
    config = {key: value for key, value in small.items() if key != "layer_types"} | dict(shape)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for file in (*COPIED, "tokenizer_config.json"):
        shutil.copyfile(CLASSROOM_MODEL_DIR / file, folder / file)


class Report:
    """The file that holds what is measured so far; a row is replaced by a later one of the same case.

    Args:
        path: is read if it is there.
        repeats: measurements of each speed that make a row whole.
    """

    def __init__(self, path: Path, *, repeats: int) -> None:
        weights = {"7B": "classroom model widened to the 7B shape", "others": "random numbers"}
        self.path, self._repeats, self._lock = path, repeats, threading.Lock()
        self.content: Row = {"machine": describe(), "cuda_gib": cuda_memory_gib(), "weights": weights, "family": []}
        if path.is_file():
            self.content["family"] = json.loads(path.read_text(encoding="utf-8"))["family"]

    def save(self, row: Row) -> None:
        with self._lock:
            others = [old for old in self.content["family"] if _key(old) != _key(row)]
            self.content["family"] = [*others, json.loads(json.dumps(row))]
            self.path.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def lacks(self, case: Case) -> bool:
        """Whether this case was not measured to its end; one that did not start at all is not tried again."""
        rows = [row for row in self.content["family"] if _key(row) == case.key]
        speeds = rows[0]["output_tok_per_s"] if rows else {}
        whole = all(len(speeds.get(str(size), [])) == self._repeats for size in SIZES)
        return not (whole or (rows and "error" in rows[0] and "ready_s" not in rows[0]))


def _key(row: Row) -> Row:
    return {name: row[name] for name in ("model", "setting", "cards")}


def measure_all(run: Run, report: Report, *, cases: Sequence[Case], cards: int, deadline: float) -> None:
    """Measure what the report lacks, one-card cases side by side; no case begins after `deadline` (monotonic)."""
    todo = [case for case in cases if case.cards <= cards and report.lacks(case)]
    for needed, group in groupby(todo, key=lambda case: case.cards):
        waiting = iter([*group])  # shared: each case goes to one worker

        def worker(first: int, needed: int = needed, waiting: Iterator[Case] = waiting) -> None:
            for case in waiting:
                if time.monotonic() > deadline:
                    return
                row = measure(run, case, range(first, first + needed), report.save)
                print({name: value for name, value in row.items() if value is not None}, flush=True)

        with ThreadPoolExecutor(cards) as pool:
            list(pool.map(worker, range(0, cards - needed + 1, needed)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.authoring.report.family", description="Measure the family's shapes, and save a report."
    )
    parser.add_argument("--repeats", type=int, default=2, help="measurements of each speed (default 2)")
    parser.add_argument("--minutes", type=float, default=12, help="no server is started after so many (default 12)")
    parser.add_argument("--keep", action="store_true", help="ship it: copy the report to helpers/bench")
    parsed = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * parsed.minutes
    profile, cards = get_profile(), len(cuda_gpus())
    if not cards:
        print("没有找到 CUDA 显卡。下一步：在有显卡的机器上运行这个命令。", file=sys.stderr)
        return 1
    folder = REPO_ROOT / "build" / "report" / "family"
    models = REPO_ROOT / "build" / "models" / "family"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(profile.engine_env)  # `vllm bench` runs in forks of this process's forkserver
    for name in FAMILY.keys() - {"7B"}:
        bare(models / name, FAMILY[name])
    report = Report(folder.with_name("gpu_family.json"), repeats=parsed.repeats)
    with ThreadPoolExecutor(1) as writer:
        there = (models / "7B" / "config.json").exists()  # `widen` writes it last
        run = Run(profile, models, writer.submit(id if there else widen, models / "7B"), folder, parsed.repeats)
        measure_all(run, report, cases=CASES, cards=cards, deadline=deadline)
    if parsed.keep:
        shutil.copyfile(report.path, SHIPPED)
    lacking = [case.name for case in CASES if report.lacks(case)]
    print(f"{report.path}: {'whole' if not lacking else 'lacks ' + ', '.join(lacking)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
