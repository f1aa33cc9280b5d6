"""Running the whole series: `python -m helpers.authoring.series run | rewrite | index`.

`run` executes every notebook and leaves the executed copies under `build/`; `rewrite` executes them in place, and the
solutions of their exercises, so that the stored outputs come from one clean run; `index` writes the previous/next bars,
the table of notebooks in README.md, and the syllabi and numbers in TEACHING.md.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

from helpers.authoring.handbook import filled
from helpers.config import REPO_ROOT, get_profile
from helpers.errors import TutorialError
from helpers.server import connect

__all__ = ["NOTEBOOKS_DIR", "execute", "index", "navigation", "notebook_paths", "readme_table", "solution_paths"]

NOTEBOOKS_DIR = REPO_ROOT / "notebooks"
EXECUTED_DIR = REPO_ROOT / "build" / "notebooks"
TABLE_BEGIN, TABLE_END = "<!-- notebooks: begin -->", "<!-- notebooks: end -->"
CELL_TIMEOUT_S = 600
FIRST_TO_CALL = "05"  # from here on a server is worth keeping; on a card 07 and 09 want its memory
CURSOR_MOVES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def notebook_paths() -> list[Path]:
    """The numbered notebooks, in order."""
    return sorted(NOTEBOOKS_DIR.glob("[0-9][0-9]_*.ipynb"))


def solution_paths() -> list[Path]:
    """The notebooks with the solved exercises; each has the file name of its lesson."""
    return sorted((NOTEBOOKS_DIR / "solutions").glob("[0-9][0-9]_*.ipynb"))


def execute(path: Path) -> tuple[Any, float]:
    """Run one notebook from top to bottom in a fresh kernel. The reader's record of exercises stays as it is.

    Returns:
        The notebook with its new outputs, and the seconds it took.

    Raises:
        TutorialError: a cell failed; the message names the notebook, the cell and the error.
    """
    notebook = nbformat.read(path, as_version=4)
    metadata = dict(notebook.metadata)
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tqdm(total=code_cells, desc=path.stem, unit="cell", leave=False) as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_executed=lambda **_: bar.update(),
        )
        begin = time.monotonic()
        try:
            client.execute(env={**os.environ, "TUTORIAL_PROGRESS": "off"})
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise TutorialError(f"{path.name} 没有跑完，停在{_failed_cell(notebook)}\n{error}") from None
    notebook.metadata.clear()
    notebook.metadata.update(metadata)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = _as_seen(output.text)
    return notebook, time.monotonic() - begin


def navigation(path: Path) -> str:
    """The bar that stands first and last in a notebook: previous · index · next."""
    paths = notebook_paths()
    here = paths.index(path)
    links = [f"[← {paths[here - 1].stem}]({paths[here - 1].name})"] if here else []
    links.append("[目录](../README.md)")
    links += [f"[{paths[here + 1].stem} →]({paths[here + 1].name})"] if here + 1 < len(paths) else []
    return " · ".join(links)


def readme_table() -> str:
    """The table of notebooks in README.md, from each notebook's opening cell."""
    rows = ["| 笔记本 | 你将学会 | 时间 |", "| --- | --- | --- |"]
    for path in notebook_paths():
        opening = nbformat.read(path, as_version=4).cells[1].source
        title = opening.splitlines()[0].removeprefix("# ")
        learn = re.findall(r"^\*\*你将学会\*\*：(.*?)。?$", opening, re.MULTILINE)
        minutes = re.findall(r"约 (\d+) 分钟；", opening)
        rows.append(f"| [{title}](notebooks/{path.name}) | {''.join(learn)} | {''.join(minutes)} 分钟 |")
    return "\n".join(rows)


def index() -> None:
    """Write every notebook's bars, README.md's table, and what can be computed in TEACHING.md."""
    for path in notebook_paths():
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if "nav" in cell.metadata.get("tags", []):
                cell.source = navigation(path)
        nbformat.write(notebook, path)
    readme = REPO_ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    readme.write_text(f"{before}{TABLE_BEGIN}\n{readme_table()}\n{TABLE_END}{after}", encoding="utf-8")
    teaching = NOTEBOOKS_DIR / "TEACHING.md"
    teaching.write_text(filled(teaching.read_text(encoding="utf-8"), notebook_paths()), encoding="utf-8")


def run(paths: Sequence[Path], *, in_place: bool) -> None:
    """Run notebooks in order and print what a newcomer wants to see: a table, then the cells tagged `headline`.

    Raises:
        TutorialError: from the first notebook that fails.
    """
    EXECUTED_DIR.mkdir(parents=True, exist_ok=True)
    profile, begin = get_profile(), time.monotonic()
    headlines = []
    with ExitStack() as held:
        for path in paths:
            if path.name[:2] == FIRST_TO_CALL and profile.name == "classroom" and not in_place:
                held.enter_context(connect(profile))  # those that call a server join it
            notebook, seconds = execute(path)
            nbformat.write(notebook, path if in_place else EXECUTED_DIR / path.name)
            name = path.relative_to(NOTEBOOKS_DIR).with_suffix("").as_posix()
            print(f"{name:34} {seconds:6.1f} s  ok", flush=True)
            headlines += [cell for cell in notebook.cells if "headline" in cell.metadata.get("tags", [])]
    print(f"{'total':34} {time.monotonic() - begin:6.1f} s")
    for cell in headlines:
        print("─" * 60)
        print("".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout").rstrip())
    print("─" * 60)
    print(f"运行过的笔记本在 {os.path.relpath(NOTEBOOKS_DIR if in_place else EXECUTED_DIR)}/")


def _failed_cell(notebook: Any) -> str:
    for number, cell in enumerate(notebook.cells, start=1):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return f"第 {number} 个单元格（{cell.id}）：{cell.source.splitlines()[0]}"
    return "一个没有返回的单元格（超时，或内核退出）"


def _as_seen(text: str) -> str:
    """What a terminal shows in the end: a carriage return overwrites its line; this machine's paths are not told."""
    lines = [CURSOR_MOVES.sub("", line).rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    if CURSOR_MOVES.search(text):  # several bars at once leave empty lines where they were wiped out
        lines = [line for line in lines if line.strip()] + [""]
    return "\n".join(lines).replace(str(REPO_ROOT), "<repo>").replace(sys.base_prefix, "<python>")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the notebooks, or write their index.")
    parser.add_argument("command", choices=("run", "rewrite", "index"))
    parser.add_argument("numbers", nargs="*", help="only these notebooks, for example 03 05 (default: all)")
    parsed = parser.parse_args(arguments)
    if parsed.command == "index":
        index()
        return 0
    rewrite = parsed.command == "rewrite"
    paths = notebook_paths() + (solution_paths() if rewrite else [])
    chosen = [p for p in paths if not parsed.numbers or p.name[:2] in parsed.numbers]
    if not chosen:
        parser.error(f"没有编号为 {'、'.join(parsed.numbers)} 的笔记本，写成 03 05 这样的两位数")
    try:
        run(chosen, in_place=rewrite)
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
