"""The instructor's handbook: every number in it that can be computed is computed here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from test_class_server import AT_ONCE, GREEDY, LEARNERS

from helpers.authoring import series
from helpers.bench import measured, spread
from helpers.bench.roofline import decode_limit
from helpers.classroom import server as class_server
from helpers.config import REPO_ROOT, get_profile
from helpers.exercises import EXERCISES
from helpers.models import SEVEN_B_CONFIG, model_size
from helpers.models.size import GIB

TEACHING = (series.NOTEBOOKS_DIR / "TEACHING.md").read_text(encoding="utf-8")
README = (REPO_ROOT / "README.md").read_text(encoding="utf-8")
CELLS = {path.name[:2]: nbformat.read(path, as_version=4).cells for path in series.notebook_paths()}
SYLLABI = {"半天": 3.5, "一整天": 7.0}  # hours


@dataclass(frozen=True)
class Lesson:
    """What a notebook says of its own time, in minutes, as written."""

    minutes: int
    run: str  # classroom / gpu


def lesson(number: str) -> Lesson:
    opening = CELLS[number][1].source
    found = re.search(r"约 (\d+) 分钟；全部运行 classroom 约 ([\d.]+) 分钟.*?gpu 约 ([\d.]+) 分钟", opening)
    assert found, number
    return Lesson(int(found[1]), f"{found[2]} / {found[3]}")


def exercise_minutes(exercise_id: str) -> int:
    titles = "\n".join(cell.source for cell in CELLS[exercise_id[:2]])
    [minutes] = re.findall(rf"^### 练习 {exercise_id} .*约 (\d+) 分钟）$", titles, re.MULTILINE)
    return int(minutes)


def section(title: str) -> str:
    _, _, rest = TEACHING.partition(f"### {title}\n")
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def one_cell_output(number: str, start: str) -> str:
    [cell] = [c for c in CELLS[number] if c.cell_type == "code" and c.source.startswith(start)]
    return "".join(output.text for output in cell.outputs)


@pytest.mark.parametrize("title", SYLLABI)
def test_a_syllabus_adds_up_and_uses_the_notebooks_own_minutes(title: str) -> None:
    clock = 0
    for start, content, minutes, exercises, exercise_sum, *run in table(section(title)):
        assert start == f"{clock // 60}:{clock % 60:02d}", content
        ids = [name for name in exercises.split("、") if name]
        assert (exercise_sum or "0") == str(sum(map(exercise_minutes, ids))), content
        if content in CELLS:
            assert minutes == str(lesson(content).minutes), content
            assert run in ([], [lesson(content).run]), content
            assert all(name.startswith(content) for name in ids)
        clock += int(minutes) + int(exercise_sum or 0)
    assert f"合计 {clock} 分钟" in section(title)
    assert clock / 60 == pytest.approx(SYLLABI[title], abs=0.1)


def test_the_full_day_takes_every_notebook_and_the_half_day_says_which_it_leaves_out() -> None:
    taught = {title: [row[1] for row in table(section(title)) if row[1] in CELLS] for title in SYLLABI}
    assert taught["一整天"] == list(CELLS)
    assert [number for number in CELLS if number not in taught["半天"]] == ["02", "06"]
    more = lesson("06").minutes - lesson("05").minutes + exercise_minutes("06-1") - exercise_minutes("05-1")
    assert f"把 05 和 05-1 换成 06 和 06-1，多 {more} 分钟" in TEACHING


def test_every_notebook_has_its_point_its_demonstration_and_its_question() -> None:
    _, _, steps = TEACHING.partition("## 每一步说什么\n")
    steps = steps.split("\n## ")[0]
    assert re.findall(r"^### (\d\d)", steps, re.MULTILINE) == list(CELLS)
    for step in steps.split("### ")[1:]:
        for number in re.findall(r"第 (\d+) 节", step):
            assert any(cell.source.startswith(f"## {number} · ") for cell in CELLS[step[:2]]), step
        assert re.findall(r"^- \*\*(.*?)\*\*", step, re.MULTILINE) == ["要点", "演示", "问"], step


def phrases() -> Iterator[str]:
    """What must stand in the handbook, with its numbers computed."""
    size = model_size(SEVEN_B_CONFIG)
    max_len = get_profile({"TUTORIAL_PROFILE": "gpu"}).max_model_len

    def kv_gib(card_gib: float) -> float:
        return card_gib * 0.9 - size.weights_gib - 1.5

    gib = kv_gib(24564 / 1024)
    tokens = gib * GIB / size.kv_bytes_per_token
    yield f"剩 {gib:.1f} GiB 给 KV 缓存"
    yield f"每个 token {size.kv_bytes_per_token / 1024:.0f} KiB，就是 {tokens / 1000:.0f} K 个 token"
    yield f"每个请求最多 {max_len} 个，最坏的情况也能同时放 {tokens // max_len:.0f} 个"
    yield f"{kv_gib(48) / gib:.1f} 倍：权重的那一份没有变"
    yield f"比 `max_model_len`（{max_len}）大"
    for batch, context in [(25, 128), (LEARNERS, 1024), (int(tokens // max_len), max_len)]:
        limit = decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=1008, batch=batch, context=context)
        yield f"| {batch} | {context} | {limit:.0f} | {limit / batch:.0f} |"
    each = decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=1008, batch=LEARNERS, context=1024) / LEARNERS
    yield f"每人 {each:.0f} tok/s，写 1000 个 token 的思考和答案，最快也要 {1000 / each:.0f} 秒"
    yield f"一个人一次发 {AT_ONCE} 个：两个人同时运行就是 {2 * AT_ONCE} 个，超过 {tokens // max_len:.0f} 个"

    gb = size.parameters * 2 / 1e9
    yield f"权重有 {gb:.1f} GB，千兆网上一份至少 {gb * 8:.0f} 秒"
    assert 30 * gb * 8 / 3600 == pytest.approx(1, abs=0.05)  # "三十份就是一个小时"

    conf = (REPO_ROOT / "helpers" / "classroom" / "nginx.conf").read_text(encoding="utf-8")
    [rate], [at_once] = re.findall(r"rate=(\d+)r/s", conf), re.findall(r"limit_conn running (\d+)", conf)
    assert int(at_once) == AT_ONCE
    yield f"一个人最多同时 {at_once} 个请求，每秒 {rate} 个"
    yield f"最多同时 {at_once} 个，每秒 {rate} 个。用 `Semaphore` 限制"
    prompts, answers = class_server.ENGINE_LIMITS.values()
    yield f"一个请求最多 {prompts} 个提示词、{answers} 个回答"
    yield f"{LEARNERS} 人同时各收一个流，{LEARNERS} 个都答了"
    yield f"一次发 {GREEDY} 个长请求，他自己有 {AT_ONCE} 个通过、{GREEDY - AT_ONCE} 个收到 429；其余 {LEARNERS - 1} 人"

    yield f"{len(EXERCISES)} 道题"
    yield f"半天的课是 {SYLLABI['半天']} 小时，提前一小时开机，就按 {SYLLABI['半天'] + 1} 小时算"
    reserved, paged = re.findall(r"([\d.]+%) used", one_cell_output("01", "lengths = "))
    yield f"只有 {reserved} 用得上，分块之后是 {paged}"
    static, continuous = re.findall(r"(\d+) steps", one_cell_output("01", "outputs = "))
    yield f"静态批处理走 {static} 步，连续批处理走 {continuous} 步"


@pytest.mark.parametrize("phrase", list(phrases()))
def test_a_computed_number_stands_as_computed(phrase: str) -> None:
    assert phrase in TEACHING


def test_the_old_benchmark_measures_what_the_handbook_says() -> None:
    stored = "".join(str(cell.get("outputs", "")) for cell in CELLS["07"])
    found = re.findall(r"asked for (\d+) tokens, measured (\d+)", stored)
    assert found, "07 的输出还没有存：python -m helpers.authoring.series rewrite 07"
    assert "要的是 {} 个 token，测的却是 {} 个".format(*found[0]) in TEACHING


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
    assert all(f"\n{target}:" in make for target in re.findall(r"`make (\w+)`", TEACHING))


def test_no_exercise_of_05_needs_tokenize_which_the_class_server_keeps_closed() -> None:
    assert "`/tokenize` 不开放，05 第 6 节用它的那一格什么也不做；练习不受影响" in TEACHING
    source = (REPO_ROOT / "helpers" / "exercises" / "nb05.py").read_text(encoding="utf-8")
    assert '"/tokenize"' not in source


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEACHING)
    assert {"CHEATSHEET.html", "TERMS.md"} <= set(targets)
    assert all((series.NOTEBOOKS_DIR / target).is_file() for target in targets)
    assert all(f"notebooks/{name}" in README for name in ("TEACHING.md", "CHEATSHEET.html"))


def test_the_handbook_stays_short() -> None:
    assert len(TEACHING.splitlines()) <= 220
    assert Path("notebooks/solutions").name in TEACHING


def test_the_gpu_figures_are_those_of_the_report() -> None:
    curve = {point["concurrency"]: point for point in measured("gpu")["curve"]}
    for n, says in ((32, "32 个并发合计 {} tok/s，首 token 延迟的中位数是 {} 秒"), (64, "64 个并发 {} tok/s，{} 秒")):
        speed = str(spread([curve[n]["output_tok_per_s"]])).split()[0]
        assert says.format(speed, round(curve[n]["ttft_p50_ms"] / 1000, 2)) in TEACHING
    again = {point["concurrency"]: point for point in measured("gpu_notebooks")["serve"]}
    means = [f"{run[64]['ttft_mean_ms'] / 1000:.2f} 秒" for run in (curve, again)]
    assert f"64 个并发的平均值，这一次是 {means[0]}，另一次（权重换成撑大的教室模型）是 {means[1]}" in TEACHING
    each = {n: point["output_tok_per_s"] / n for n, point in curve.items()}
    assert f"{max(n for n in each if each[n] >= each[1] / 2)} 个是拐点" in TEACHING
