"""The exercises of notebook 07: reading a benchmark before believing it. They need no engine."""

from __future__ import annotations

import re
import unicodedata
from typing import TypeGuard

from helpers.bench.stats import paired_ratio
from helpers.exercises.judging import Judge, Wrong, call, kind, number, same, short

__all__ = ["JUDGES"]


def measured_length(answer: object) -> None:
    tokens = number(answer)
    if tokens == 64:
        raise Wrong("64 是命令里写的。结果文件里的 token 总数对得上吗？")
    if 1150 <= tokens <= 1152:
        raise Wrong("这是提示词加输出的长度。")
    if tokens == 1024:
        raise Wrong("1024 是默认的长度。这一次真正有多长，要从结果文件里的数算。")
    if not 1022.5 <= tokens <= 1023.5:
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


ROUNDS: list[tuple[list[float], list[float], str]] = [
    ([5000.0, 5200.0, 5100.0], [5500.0, 5720.0, 5610.0], "每一轮都快一成"),
    ([5500.0, 5720.0, 5610.0], [5000.0, 5200.0, 5100.0], "每一轮都慢一些"),
    ([4000.0, 6000.0, 8000.0], [4400.0, 6600.0, 8800.0], "机器一轮比一轮快，可是比值都是 1.1"),
    ([5000.0, 5000.0, 5000.0], [5100.0, 4950.0, 5050.0], "有一轮慢了"),
    ([5000.0, 5000.0, 5000.0], [5000.0, 5000.0, 5000.0], "一点没变"),
    ([1000.0, 1000.0, 1000.0], [4200.0, 3000.0, 5470.0], "比值从 3 到 5.47"),
    ([5000.0, 5000.0, 5000.0], [4000.0, 5000.0, 6500.0], "比值从 0.8 到 1.3"),
]


def really_faster(verdict: object) -> None:
    for before, after, about in ROUNDS:
        ratio = paired_ratio(after, before)
        faster, slower = ratio.low > 1, ratio.high < 1
        wanted = "noisy" if ratio.too_noisy else "faster" if faster else "slower" if slower else "unclear"
        given = (list(before), list(after))
        value = call(verdict, *given, about=f"对于{about}的几轮")
        if given != (before, after):
            raise Wrong(f"对于{about}的几轮，传进来的列表被改动了。")
        same(value, wanted, about=f"对于{about}的几轮")


WHY = {
    "A": "4 位的权重小得多，做的活不一样，A 也要改成一样。",
    "B": "少写了 token，却按写满了算，速度就虚高，B 也要改成一样。",
    "C": "调度正是引擎的本事，是要比的东西，C 不用改。",
    "D": "没有预热的一边吃亏，D 也要改成一样。",
    "E": "两张卡的快慢本来就不同，E 也要改成一样。",
    "F": "端口不影响速度，F 不用改。",
}


def fair(answer: object) -> None:
    letters = answer if isinstance(answer, str) else "".join(answer) if _letters(answer) else None
    if letters is None:
        raise Wrong(f"要几个字母，得到的是{kind(answer)}。")
    chosen = set(re.sub(r"[\s,、，]", "", unicodedata.normalize("NFKC", letters)).upper())
    if not chosen or chosen - set(WHY):
        raise Wrong(f"只能填 A 到 F 里的字母，得到的是 {short(answer)}。")
    for name in sorted(chosen ^ set("ABDE")):
        raise Wrong(WHY[name])


def _letters(answer: object) -> TypeGuard[list[str] | tuple[str, ...] | set[str]]:
    return isinstance(answer, list | tuple | set) and all(isinstance(part, str) for part in answer)


JUDGES: dict[str, Judge] = {
    "07-1": measured_length,
    "07-2": without_the_cold_run,
    "07-3": really_faster,
    "07-4": fair,
}
