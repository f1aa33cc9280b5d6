"""Exercises: right answers of every kind pass, plausible wrong ones do not, and the learner always reads a sentence."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import nbformat
import pytest
from exercise_answers import ENGINE, RIGHT, SERVER, WRONG, asked, asks_warmly, prompt_len
from exercise_kit import FAKE_VLLM, FakeEngine, fake_server

from helpers import exercises
from helpers.authoring import series
from helpers.exercises import EXERCISES, check, progress, record
from helpers.exercises.judging import number
from helpers.reasoning import split_think

PAIRS = {path.name: (series.NOTEBOOKS_DIR / path.name, path) for path in series.solution_paths()}
READ = {name: tuple(nbformat.read(path, as_version=4) for path in pair) for name, pair in PAIRS.items()}
each_pair = pytest.mark.parametrize(("lesson", "solution"), READ.values(), ids=READ.keys())


@pytest.fixture(autouse=True)
def progress_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TUTORIAL_PROGRESS", raising=False)
    monkeypatch.setattr(record, "PROGRESS_FILE", tmp_path / "build" / "exercises.json")
    return tmp_path / "build" / "exercises.json"


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    with fake_server() as http:
        yield http


@pytest.fixture
def say(
    server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Check the answers and return what the learner reads."""
    monkeypatch.setitem(sys.modules, "vllm", FAKE_VLLM)

    def real(answer: Any) -> Any:
        if answer is SERVER:
            return server
        if answer is ENGINE:
            return FakeEngine()
        if hasattr(answer, "names"):
            folder = tmp_path / "download"
            folder.mkdir(exist_ok=True)
            for name in answer.names:
                (folder / name).write_text("{}")
            return folder
        return answer

    def said(exercise_id: str, *answers: Any) -> str:
        check(exercise_id, *map(real, answers))
        shown = capsys.readouterr()
        assert not shown.err
        return shown.out

    return said


def flat(table: dict[str, list[tuple[Any, ...]]]) -> list[Any]:
    return [
        pytest.param(exercise_id, answers, id=f"{exercise_id}-{at}")
        for exercise_id, several in table.items()
        for at, answers in enumerate(several)
    ]


# Judging -------------------------------------------------------------------------------------------------------------


def test_every_exercise_has_three_right_and_three_wrong_answers() -> None:
    assert set(RIGHT) == set(WRONG) == set(EXERCISES)
    assert min(map(len, RIGHT.values())) >= 3 and min(map(len, WRONG.values())) >= 3
    per_notebook = [sum(name[:2] == f"{n:02d}" for name in EXERCISES) for n in range(1, 8)]
    assert all(3 <= count <= 4 for count in per_notebook)


@pytest.mark.parametrize(("exercise_id", "answers"), flat(RIGHT))
def test_a_right_answer_is_accepted_with_its_reason(exercise_id: str, answers: tuple[Any, ...], say: Any) -> None:
    said = say(exercise_id, *answers)
    assert said == f"✓ {exercise_id} 答对了。{EXERCISES[exercise_id].why}\n"


@pytest.mark.parametrize(("exercise_id", "answers"), flat(WRONG))
def test_a_wrong_answer_is_told_what_is_wrong(exercise_id: str, answers: tuple[Any, ...], say: Any) -> None:
    said = say(exercise_id, *answers)
    assert said.startswith(f"✗ {exercise_id} 还不对：")
    assert len(said.splitlines()) == 2 and "Traceback" not in said
    assert "检查到一半出了" not in said, "this answer was not foreseen"


@pytest.mark.parametrize("exercise_id", EXERCISES)
def test_hints_follow_one_another_and_the_last_one_stays(exercise_id: str, say: Any) -> None:
    first, second = EXERCISES[exercise_id].hints
    hints = [say(exercise_id, *WRONG[exercise_id][0]).partition("提示：")[2].strip() for _ in range(4)]
    assert hints == [first, second, second, second] or (len(set(hints)) == 1 and hints[0] not in (first, second))
    assert first != second
    assert say(exercise_id, *RIGHT[exercise_id][0]).startswith("✓")


@pytest.mark.parametrize("junk", [None, 3, "x", object(), [], {}, lambda: 1 / 0, lambda *a, **k: [][1], float("nan")])
@pytest.mark.parametrize("exercise_id", EXERCISES)
def test_junk_gets_a_sentence_and_never_a_traceback(exercise_id: str, junk: Any, say: Any) -> None:
    rest = RIGHT[exercise_id][0][1:]
    said = say(exercise_id, junk, *rest)
    if not said.startswith("✓"):  # 3 is right where three is asked for
        sentence = r"[^\n]+(。|：[^\n]+)\n"  # or it ends in what Python said
        wrong = rf"✗ {exercise_id} 还不对：{sentence}  提示：[^\n]+\n"
        assert re.fullmatch(f"(○ {exercise_id} {sentence}|{wrong})", said) and "Traceback" not in said


@pytest.mark.parametrize("exercise_id", EXERCISES)
def test_an_untouched_exercise_is_neutral(exercise_id: str, say: Any, progress_file: Path) -> None:
    first, *rest = RIGHT[exercise_id][0]
    untouched = (lambda *a, **k: ...) if callable(first) else {1: ..., 2: ...} if isinstance(first, dict) else ...
    assert say(exercise_id, untouched, *rest).startswith(f"○ {exercise_id} 还没有作答")
    assert say(exercise_id, *[...] * (1 + len(rest))).startswith(f"○ {exercise_id} 还没有作答")
    assert not progress_file.exists()


def test_a_missing_answer_and_an_unknown_exercise_are_named(say: Any, progress_file: Path) -> None:
    assert say("03-1", 33) == '○ 03-1 要交 2 样东西，现在是 1 样。写成 check("03-1", answer, llm)。\n'
    assert say("01-1").startswith("○ 01-1 要交 1 样东西，现在是 0 样")
    assert say("03-9") == "没有编号为 '03-9' 的练习。有这些：03-1、03-2、03-3、03-4。\n"
    assert say(3, 1).startswith("没有编号为 3 的练习")
    assert not progress_file.exists()


@pytest.mark.parametrize("exercise_id", ["05-2", "05-3"])
def test_an_engine_or_server_that_is_gone_is_no_try(
    exercise_id: str, say: Any, server: httpx.Client, progress_file: Path
) -> None:
    assert "要交正在运行的引擎 llm，得到的是 None" in say("03-1", 33, None)
    answer = RIGHT[exercise_id][0][0]
    closed = httpx.Client()
    closed.close()
    assert "问不到 http://127.0.0.1:9" in say(exercise_id, answer, httpx.Client(base_url="http://127.0.0.1:9"))
    assert "要交第 1 节的 http，得到的是 None" in say(exercise_id, answer, None)
    assert "http 已经关了" in say(exercise_id, answer, closed)
    assert "服务器返回 401：'Unauthorized'" in say(exercise_id, answer, httpx.Client(base_url=server.base_url))
    assert not progress_file.exists()


def test_a_rate_limit_is_no_try(say: Any, server: httpx.Client, progress_file: Path) -> None:
    for turned_away in (
        lambda http, messages, max_tokens: http.get("/too-often").json()["usage"],
        lambda http, messages, max_tokens: len(http.get("/too-often").content),
    ):
        assert say("05-3", turned_away, server).startswith("○ 05-3 没有检查成，服务器嫌请求太多（429）")
    assert not progress_file.exists() and server.event_hooks["response"] == []


def test_what_a_learners_function_raises_is_one_sentence(say: Any) -> None:
    def think_and_answer(text: str) -> Any:
        thought, answer = text.split("</think>")
        return thought, answer

    said = say("03-2", think_and_answer)
    assert said.startswith("✗ 03-2 还不对：标签出现了两次，函数抛出了 ValueError：too many values to unpack")


@pytest.mark.parametrize(
    ("written", "value"), [(515, 515), ("1,024 个", 1024), ("-3.5", -3.5), (True, None), ("很多", None), ([1], None)]
)
def test_numbers_are_read_as_people_write_them(written: object, value: float | None) -> None:
    if value is None:
        with pytest.raises(Exception, match="要一个数"):
            number(written)
    else:
        assert number(written) == value


@pytest.mark.parametrize("swallows", [False, True])
def test_an_endless_answer_is_stopped(swallows: bool, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercises, "LIMIT_S", 0.2)

    def endless(text: str) -> Any:
        while True:
            try:
                time.sleep(10)  # in C, too
            except Exception:
                continue
            except:  # noqa: E722
                if not swallows:
                    raise
                swallowed.append(1)
                if len(swallowed) > 1:
                    raise

    swallowed: list[int] = []
    said = say("03-2", endless)
    assert said.startswith("✗ 03-2 还不对：0 秒还没有运行完") and "循环" in said
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert say("03-2", RIGHT["03-2"][0][0]).startswith("✓")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (AssertionError("pipeline model parallel group is not initialized"), "引擎坏了"),
        (AttributeError("'NoneType' object has no attribute 'llm_engine'"), "引擎坏了"),
        (httpx.ConnectError("[Errno 111] Connection refused"), "连不上服务器"),
    ],
)
def test_a_dead_engine_or_server_is_named_and_no_try(
    error: Exception, says: str, say: Any, progress_file: Path
) -> None:
    def dies(*args: Any, **options: Any) -> Any:
        raise error

    assert says in say("03-4", dies, FakeEngine(), 2048)
    engine = FakeEngine()
    engine.chat = dies  # type: ignore[method-assign]
    assert says in say("03-1", 33, engine)
    assert not progress_file.exists()


def test_an_engine_that_was_interrupted_is_named(say: Any, progress_file: Path) -> None:
    engine: Any = FakeEngine()
    engine.llm_engine = SimpleNamespace(has_unfinished_requests=lambda: True)
    assert "引擎停在了半路" in say("03-1", 33, engine)
    assert not progress_file.exists()


def test_a_card_with_a_long_context_is_not_filled_to_the_last_token(say: Any) -> None:
    limit, asked_for = 32768, []

    class Card(FakeEngine):
        def chat(self, messages: Any, params: Any, use_tqdm: bool = True) -> list[Any]:
            asked_for.append(params.max_tokens)
            return super().chat(messages, params)

    def mended(llm: Any, question: str, max_tokens: int) -> Any:
        if prompt_len(question) + max_tokens > limit:
            raise ValueError("does not fit")
        reply = split_think(asked(llm, question, max_tokens))
        return reply.answer if reply.closed else None

    assert say("03-4", mended, Card(), limit).startswith("✓")
    assert max(asked_for) == 1024


def test_the_hint_fits_the_mistake(say: Any) -> None:
    def takes_the_last_part(llm: Any, question: str, max_tokens: int) -> Any:
        text = asked(llm, question, max_tokens)
        return text.split("</think>")[-1] if "</think>" in text else None

    def says(answer: Any) -> str:
        return str(say("03-4", answer, FakeEngine(), 2048)).partition("提示：")[2]

    assert "partition" in says(takes_the_last_part)
    assert "None" in says(lambda llm, q, n: asked(llm, q, n))
    assert "贪心" in says(asks_warmly)


# The record ----------------------------------------------------------------------------------------------------------


def test_tries_are_counted_until_solved_and_survive_a_restart(
    progress_file: Path, say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for answer in (189, 189, 506, 189, 506):
        say("01-1", answer)
    say("01-2", *WRONG["01-2"][0])
    assert json.loads(progress_file.read_text()) == {
        "01-1": {"tries": 3, "solved": True},
        "01-2": {"tries": 1, "solved": False},
    }
    program = (
        "import sys; from pathlib import Path; from helpers.exercises import check, progress, record\n"
        "record.PROGRESS_FILE = Path(sys.argv[1]); check('01-2', lambda steps: None); progress()"
    )
    shown = subprocess.run([sys.executable, "-c", program, progress_file], capture_output=True, text=True, check=True)
    assert EXERCISES["01-2"].hints[1] in shown.stdout
    assert "✓ 01-1（试了 3 次）   ✗ 01-2（试了 2 次）   ○ 01-3   ○ 01-4\n" in shown.stdout
    assert f"共 {len(EXERCISES)} 题，答对 1 题" in shown.stdout


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"01-1": 3}', '{"01-1": {"tries": "two", "solved": 1}}', "\0"])
def test_a_damaged_record_is_not_fatal(content: str, progress_file: Path, say: Any) -> None:
    progress_file.parent.mkdir()
    progress_file.write_text(content)
    progress()
    assert "✓ 01-1" in say("01-1", 506)
    assert json.loads(progress_file.read_text()) == {"01-1": {"tries": 1, "solved": True}}


def test_a_record_that_cannot_be_written_is_said_and_the_verdict_still_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(record, "PROGRESS_FILE", tmp_path / "file" / "exercises.json")
    said = say("01-1", 189)
    assert said.startswith("（进度没有记下：") and "✗ 01-1" in said and EXERCISES["01-1"].hints[0] in said


def test_writers_at_once_lose_nothing(progress_file: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from helpers.exercises import record\n"
        "record.PROGRESS_FILE = Path(sys.argv[1])\n"
        "for _ in range(20): record.note('shared', solved=False); record.note(sys.argv[2], solved=False)"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, progress_file, name]) for name in ("a", "b", "c")]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    tries = {name: entry.tries for name, entry in record.read().items()}
    assert tries == {"shared": 60, "a": 20, "b": 20, "c": 20}
    assert not list(progress_file.parent.glob("*.tmp"))


def test_off_leaves_the_record_alone(
    progress_file: Path, monkeypatch: pytest.MonkeyPatch, say: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    say("01-1", 189)
    before = progress_file.read_text()
    monkeypatch.setenv("TUTORIAL_PROGRESS", "off")
    assert "✓ 01-1" in say("01-1", 506)
    progress()
    assert "○ 01-1" in capsys.readouterr().out
    assert progress_file.read_text() == before


def test_importing_loads_neither_torch_nor_vllm() -> None:
    program = "import sys, helpers.exercises; print([m for m in ('torch', 'vllm', 'openai') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# The notebooks -------------------------------------------------------------------------------------------------------


def tagged(notebook: Any, kind: str) -> dict[str, tuple[str, Any]]:
    """Exercise id → the text above the cell, and the cell."""
    found = {}
    for above, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        for tag in cell.metadata.get("tags", []):
            if tag.startswith(f"{kind}:"):
                assert above.cell_type == "markdown"
                found[tag.partition(":")[2]] = (above.source, cell)
    return found


def test_the_lessons_have_solutions() -> None:
    assert list(PAIRS) == [path.name for path in series.notebook_paths()][: len(PAIRS)]
    assert len(PAIRS) >= 6


@each_pair
def test_lesson_and_solution_hold_the_same_exercises(lesson: Any, solution: Any) -> None:
    stubs, solved = tagged(lesson, "exercise"), tagged(solution, "solution")
    notebook = next(iter(stubs))[:2]
    assert list(stubs) == list(solved) == [name for name in EXERCISES if name[:2] == notebook]
    for exercise_id, (text, stub) in stubs.items():
        solved_text, solved_cell = solved[exercise_id]
        assert text == solved_text
        assert re.match(rf"### 练习 {exercise_id} · .+（约 \d+ 分钟）\n\n", text)
        [call] = re.findall(r"^exercises\.check\(.*\)$", stub.source, re.MULTILINE)
        assert call.startswith(f'exercises.check("{exercise_id}", ') and call in solved_cell.source
        assert "..." in stub.source and "nbval-check-output" not in stub.metadata.tags
        assert "nbval-check-output" in solved_cell.metadata.tags
        [printed] = [out.text for out in solved_cell.outputs if out.get("name") == "stdout"]
        assert printed.startswith(f"✓ {exercise_id} 答对了。{EXERCISES[exercise_id].why}\n")


@each_pair
def test_the_stubs_are_shown_as_not_answered(lesson: Any, solution: Any) -> None:
    for exercise_id, (_, stub) in tagged(lesson, "exercise").items():
        what = "写完函数" if "def " in stub.source else "把 ... 换成你的答案"
        assert [out.text for out in stub.outputs] == [f"○ {exercise_id} 还没有作答：{what}，再运行这一格。\n"]


@each_pair
def test_exercises_come_before_the_engine_is_ended_and_the_summary_is_last(lesson: Any, solution: Any) -> None:
    headings = [cell.source.splitlines()[0] for cell in lesson.cells if cell.source.startswith("## ")]
    at = headings.index("## 练习")
    assert headings[-1] == "## 你现在知道"
    assert all(re.search("收拾|释放|停下", heading) for heading in headings[at + 1 : -1])
    assert f"(solutions/{next(n for n, pair in READ.items() if pair[0] is lesson)})" in str(lesson.cells)


@each_pair
def test_a_solution_sets_up_as_its_lesson_does(lesson: Any, solution: Any) -> None:
    taught = {cell.source for cell in lesson.cells if cell.cell_type == "code"}
    copied = [cell for cell in solution.cells if re.fullmatch(r"\d\d-s1\d", cell.id)]
    assert [cell.id for cell in copied if cell.source not in taught] == []


@each_pair
def test_a_solution_never_touches_the_learners_record(lesson: Any, solution: Any) -> None:
    first = next(cell for cell in solution.cells if cell.cell_type == "code")
    assert 'os.environ["TUTORIAL_PROGRESS"] = "off"' in first.source


@each_pair
def test_no_hint_holds_the_solution(lesson: Any, solution: Any) -> None:
    for exercise_id, (_, cell) in tagged(solution, "solution").items():
        stub = tagged(lesson, "exercise")[exercise_id][1].source
        lines = {line.strip() for line in cell.source.splitlines()} - {line.strip() for line in stub.splitlines()}
        told = "\n".join(EXERCISES[exercise_id].hints)
        for line in lines:
            code = line.partition("  #")[0]
            assert len(code) < 12 or code not in told, f"{exercise_id}: {code}"


def test_no_hint_holds_a_plain_answer() -> None:
    for exercise_id, answers in RIGHT.items():
        told = "\n".join(EXERCISES[exercise_id].hints)
        plain = [a for a in answers[0] if isinstance(a, int | float) and not isinstance(a, bool)]
        for answer in plain:
            assert not re.search(rf"(?<!\d){answer}(?!\d)", told), f"{exercise_id}: {answer}"


def test_public_names() -> None:
    assert exercises.__all__ == ["EXERCISES", "LIMIT_S", "check", "progress"]
