"""Exercises that check themselves: `check` judges an answer and says what is wrong, never the solution; `progress`
shows what is solved.

One exercise stands in five places: its judge in `nb01` … `nb10`, its hints in `texts.yaml`, its text in the
notebook, a solved copy in `notebooks/solutions/`, right and wrong answers in `tests/exercise_answers.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import yaml

from helpers.exercises import nb01, nb02, nb03, nb04, nb05, nb06, nb07, nb08, nb09, nb10, record
from helpers.exercises.judging import Judge, NotJudged, TooLong, Wrong, first_line, gone, time_limit, unanswered

__all__ = ["EXERCISES", "LIMIT_S", "check", "progress"]

LIMIT_S = 90.0  # for all that one check runs: a real model's long answers fit, an endless loop ends


@dataclass(frozen=True)
class Exercise:
    """A judge, and what a learner reads after a try.

    Attributes:
        hints: for the first wrong try, the second, …; the last one stays. A judge that knows the mistake gives a hint
            of its own instead.
        why: shown with a right answer: what is worth remembering.
    """

    judge: Judge
    hints: tuple[str, ...]
    why: str


_TEXTS = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text(encoding="utf-8"))
EXERCISES = {
    exercise_id: Exercise(judge, tuple(_TEXTS[exercise_id]["hints"]), _TEXTS[exercise_id]["why"])
    for notebook in (nb01, nb02, nb03, nb04, nb05, nb06, nb07, nb08, nb09, nb10)
    for exercise_id, judge in notebook.JUDGES.items()
}


def check(exercise_id: str, *answers: object) -> None:
    """Judge the answers to one exercise and print the verdict: right and why, or what is wrong and a hint.

    An answer that does not end is stopped after `LIMIT_S` seconds. An untouched placeholder
    (`...`) is no try. Nothing is raised.

    Args:
        exercise_id: for example `03-2`, as in the exercise's title.
        answers: what the exercise asks for, in the order in which the cell names it.
    """
    exercise = EXERCISES.get(exercise_id) if isinstance(exercise_id, str) else None
    if exercise is None:
        known = [name for name in EXERCISES if name[:2] == str(exercise_id)[:2]] or list(EXERCISES)
        print(f"没有编号为 {exercise_id!r} 的练习。有这些：{'、'.join(known)}。")
        return
    try:
        _judge(exercise, exercise_id, answers)
    except NotJudged as reason:
        print(f"○ {exercise_id} {reason}")
    except Wrong as reason:
        tries = record.note(exercise_id, solved=False).tries
        hint = reason.hint or exercise.hints[min(max(tries, 1), len(exercise.hints)) - 1]
        print(f"✗ {exercise_id} 还不对：{reason}\n  提示：{hint}")
    else:
        record.note(exercise_id, solved=True)
        print(f"✓ {exercise_id} 答对了。{exercise.why}")


def progress() -> None:
    """Print, for each notebook, which exercises are solved and after how many tries."""
    entries = record.read()
    solved = 0
    for notebook in sorted({exercise_id[:2] for exercise_id in EXERCISES}):
        shown = []
        for exercise_id in (name for name in EXERCISES if name[:2] == notebook):
            entry = entries.get(exercise_id, record.Entry())
            mark = "✓" if entry.solved else "✗" if entry.tries else "○"
            shown.append(f"{mark} {exercise_id}" + (f"（试了 {entry.tries} 次）" if entry.tries else ""))
            solved += entry.solved
        print("   ".join(shown))
    print(f"共 {len(EXERCISES)} 题，答对 {solved} 题。✓ 答对了，✗ 试过、还没答对，○ 还没做。")


def _judge(exercise: Exercise, exercise_id: str, answers: tuple[object, ...]) -> None:
    names = list(signature(exercise.judge).parameters)
    if len(answers) != len(names):
        wanted = ", ".join([f'"{exercise_id}"', *names])
        raise NotJudged(f"要交 {len(names)} 样东西，现在是 {len(answers)} 样。写成 check({wanted})。")
    if any(unanswered(answer) for answer in answers):
        raise NotJudged("还没有作答：把 ... 换成你的答案，再运行这一格。")
    try:
        with time_limit(LIMIT_S):
            exercise.judge(*answers)
    except (Wrong, NotJudged):
        raise
    except TooLong:
        engine = any(hasattr(answer, "llm_engine") for answer in answers)
        raise Wrong(
            f"{LIMIT_S:.0f} 秒还没有运行完，已经停下。",
            hint="多半有个循环停不下来：看看 while 的条件会不会变成假。"
            + ("引擎可能停在了半路，先重新运行第 2 节建引擎的那一格。" if engine else ""),
        ) from None
    except Exception as error:
        if reason := gone(error):
            raise reason from None
        # an answer of a kind that no judge foresaw
        raise Wrong(f"检查到一半出了 {type(error).__name__}（{first_line(error)}），多半是答案的类型不对。") from None
