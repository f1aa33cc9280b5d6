"""The instructor's handbook: up to date, its commands exist, and no notebook is passed over."""

from __future__ import annotations

import re
import subprocess
import sys

import nbformat
import pytest

from helpers.authoring import handbook, series
from helpers.config import REPO_ROOT
from helpers.models import SEVEN_B_CONFIG
from helpers.models.size import CARD_24GB_GIB, RUNTIME_GIB, context_that_fits, model_size, quantized_gib

TEACHING = (series.NOTEBOOKS_DIR / "TEACHING.md").read_text(encoding="utf-8")
README = (REPO_ROOT / "README.md").read_text(encoding="utf-8")
CELLS = {path.name[:2]: nbformat.read(path, as_version=4).cells for path in series.notebook_paths()}


def test_syllabi_and_numbers_are_up_to_date() -> None:
    now = handbook.filled(TEACHING, series.notebook_paths())
    assert now == TEACHING, "运行 python -m helpers.authoring.series index"


def test_a_stale_number_and_a_stale_table_are_filled_in_again() -> None:
    stale = re.sub(r"(<!--=kv_gib-->).*?(<!--/-->)", r"\g<1>99\2", TEACHING)
    stale = re.sub(r"(<!-- full day: begin -->\n).*?(<!-- full day: end -->)", r"\1\2", stale, flags=re.DOTALL)
    assert len(stale) < len(TEACHING)
    paths = series.notebook_paths()
    assert handbook.filled(stale, paths) == handbook.filled(TEACHING, paths)


def test_every_mark_names_a_number() -> None:
    known = handbook.numbers(handbook.read_notebooks(series.notebook_paths()))
    marks = set(re.findall(r"<!--=(\w+)-->", TEACHING))
    assert marks - set(known) == {"half_minutes", "half_hours", "half_hours_more", "full_minutes"}
    assert TEACHING.count("<!--=") == len(re.findall(r"<!--=\w+-->[^<\n]+<!--/-->", TEACHING))


@pytest.mark.parametrize(("name", "hours"), [("half", 3.5), ("full", 7.5)])
def test_a_syllabus_is_as_long_as_it_says(name: str, hours: float) -> None:
    [minutes] = re.findall(f"<!--={name}_minutes-->(.*?)<!--/-->", TEACHING)
    assert int(minutes) / 60 == pytest.approx(hours, abs=0.25)


def test_the_full_day_and_the_advanced_part_take_every_notebook_and_the_half_day_says_which_it_leaves_out() -> None:
    assert [row.content for row in handbook.FULL_DAY + handbook.ADVANCED if row.content.isdigit()] == list(CELLS)
    left_out = set(CELLS) - {row.content for row in handbook.HALF_DAY}
    said = TEACHING.partition("### 半天")[2].partition("<!-- half day")[0]
    assert left_out and all(number in said for number in left_out)


def test_every_notebook_has_its_point_its_demonstration_and_its_question() -> None:
    _, _, steps = TEACHING.partition("## 每一步说什么\n")
    steps = steps.split("\n## ")[0]
    assert re.findall(r"^### (\d\d)", steps, re.MULTILINE) == list(CELLS)
    for step in steps.split("### ")[1:]:
        for number in re.findall(r"第 (\d+) 节", step):
            assert any(cell.source.startswith(f"## {number} · ") for cell in CELLS[step[:2]]), step
        assert re.findall(r"^- \*\*(.*?)\*\*", step, re.MULTILINE) == ["要点", "演示", "问"], step


def test_the_commands_are_those_of_the_readme_and_exist() -> None:
    fences = "".join(re.findall(r"```bash\n(.*?)```", TEACHING, re.DOTALL))
    for line in fences.splitlines():
        assert line.strip() in README or line.strip().startswith(
            ("python -m helpers.classroom.mirror ", "ssh -CN -L ")
        ), line
    called = set(re.findall(r"python -m (helpers[.\w]+) (keys|start|reload|stop|status)\b", TEACHING))
    assert called >= {
        ("helpers.classroom.server", "start"),
        ("helpers.classroom.server", "stop"),
        ("helpers.server", "stop"),
    }
    for module, action in called:
        command = [sys.executable, "-m", module, action, "--help"]
        subprocess.run(command, check=True, capture_output=True, cwd=REPO_ROOT)
    make = (REPO_ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in make for target in re.findall(r"`make ([\w-]+)`", TEACHING + README))


def test_no_exercise_of_05_needs_tokenize_which_the_class_server_keeps_closed() -> None:
    source = (REPO_ROOT / "helpers" / "exercises" / "nb05.py").read_text(encoding="utf-8")
    assert '"/tokenize"' not in source


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEACHING)
    assert {"CHEATSHEET.md", "TERMS.md"} <= set(targets)
    assert all((series.NOTEBOOKS_DIR / target).is_file() for target in targets)
    assert all(f"notebooks/{name}" in README for name in ("TEACHING.md", "CHEATSHEET.md"))


def test_memory_is_counted_with_the_same_numbers_everywhere() -> None:
    counted: dict[str, float] = {}
    for cell in CELLS["01"]:
        if cell.id in ("01-18", "01-20"):
            exec(cell.source, counted)
    assert (counted["card_gib"], counted["working_gib"]) == (CARD_24GB_GIB, RUNTIME_GIB)
    context = context_that_fits(CARD_24GB_GIB, model_size(SEVEN_B_CONFIG))
    prose = {number: "\n".join(cell.source for cell in cells) for number, cells in CELLS.items()}
    assert f"课程取 {context}" in prose["01"] and f"24 GB 的卡是 {context}" in README
    assert f"这里估 {RUNTIME_GIB:g} GiB" in prose["01"] and f"减去 {RUNTIME_GIB:g} GiB 的" in prose["02"]
    int4 = f"{quantized_gib(SEVEN_B_CONFIG, bits=4, group=128):.1f} GiB"
    assert int4 in handbook.read_notebooks(series.notebook_paths())["02"].printed
    assert int4 in (series.NOTEBOOKS_DIR / "TERMS.md").read_text(encoding="utf-8")
