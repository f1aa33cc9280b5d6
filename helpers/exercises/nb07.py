"""The exercises of notebook 07: reading a benchmark before believing it. They need no engine."""

from __future__ import annotations

from helpers.exercises.judging import Judge, Wrong, call, kind, letter, number, short

__all__ = ["JUDGES"]


def measured_length(answer: object) -> None:
    tokens = number(answer)
    if tokens == 64:
        raise Wrong("64 是命令里写的。结果文件里的 token 总数对得上吗？")
    if 1150 <= tokens <= 1152:
        raise Wrong("这是提示词加输出的长度。")
    if not 1022.5 <= tokens <= 1024.5:
        raise Wrong(f"{short(answer)} 和结果文件里的数对不上。")


RUNS: list[tuple[list[float], tuple[float, float, float] | None, str]] = [
    ([3102.0, 5410.0, 5388.0, 5496.0, 5402.0], (5406.0, 5388.0, 5496.0), "第一次最慢的五次"),
    ([5600.0, 5410.0, 5388.0, 5496.0, 5402.0], (5406.0, 5388.0, 5496.0), "冷启动那次碰巧最快的五次"),
    ([10.0, 30.0, 20.0, 50.0], (30.0, 20.0, 50.0), "四次"),
    ([900.0, 1000.0], (1000.0, 1000.0, 1000.0), "只剩一次可用"),
    ([900.0], None, "只跑了冷启动的一次"),
    ([], None, "一次也没跑"),
]


def without_the_cold_run(summary: object) -> None:
    for runs, wanted, about in RUNS:
        given = list(runs)
        value = call(summary, given, about=f"对{about}")
        if given != runs:
            raise Wrong(f"对{about}，传进来的列表被改动了。")
        if wanted is None:
            if value is not None:
                raise Wrong(f"对{about}，没有可用的结果，函数却返回 {short(value)}。")
            continue
        if not isinstance(value, tuple | list) or len(value) != 3:
            raise Wrong(f"对{about}，要返回三个数（中位数，最小，最大），得到的是 {short(value)}。")
        for name, mine, theirs in zip(("中位数", "最小", "最大"), value, wanted, strict=True):
            if abs(number(mine) - theirs) > 1e-6 * theirs:
                raise Wrong(f"对{about}，{name}成了 {short(mine)}。")


def two_tables(trust: object, cause: object) -> None:
    for name, answer, letters in (("trust", trust, "AB"), ("cause", cause, "PQRS")):
        if not isinstance(answer, str):
            raise Wrong(f"{name} 要填一个字母，得到的是{kind(answer)}。")
        if letter(answer) not in tuple(letters):
            raise Wrong(f"{name} 要填 {'、'.join(letters)} 里的一个字母。")
    if letter(trust) != "B":
        raise Wrong("trust 不对。先看看并发从 1 加到 4，哪一轮的变化合乎道理。")
    if letter(cause) != "Q":
        raise Wrong("trust 对了，cause 不对：两轮只有种子不同，要能解释这个差别。")


JUDGES: dict[str, Judge] = {
    "07-1": measured_length,
    "07-2": without_the_cold_run,
    "07-4": two_tables,
}
