"""The exercises of notebook 09: what a limit says about a card and about a measurement. They need no engine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from helpers.bench.roofline import decode_limit
from helpers.exercises.judging import Judge, Wrong, call, choices, kind, letter, number, short
from helpers.models import SEVEN_B_CONFIG

__all__ = ["JUDGES"]

TIME_LIMIT_S: Final = 2.0
SMALL = SEVEN_B_CONFIG | {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12,
                          "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}  # fmt: skip
ROOMS: list[tuple[dict[str, Any], float, int, float, str]] = [
    (SEVEN_B_CONFIG, 1008.0, 2048, 20.0, "7B、RTX 4090（1008 GB/s）、上下文 2048、每人至少 20 tok/s"),
    (SEVEN_B_CONFIG, 1008.0, 2048, 60.0, "7B、RTX 4090、上下文 2048、每人至少 60 tok/s"),
    (SEVEN_B_CONFIG, 1008.0, 8192, 20.0, "7B、RTX 4090、上下文 8192、每人至少 20 tok/s"),
    (SEVEN_B_CONFIG, 300.0, 2048, 30.0, "7B、L4（300 GB/s）、上下文 2048、每人至少 30 tok/s"),
    (SMALL, 300.0, 1024, 30.0, "Qwen2.5-1.5B、L4、上下文 1024、每人至少 30 tok/s"),
]


def room_for(max_users: object) -> None:
    for config, bandwidth, context, each, about in ROOMS:
        settings = {"bandwidth_gb_s": bandwidth, "context": context, "each": each}
        with _time_limit():
            value = number(call(max_users, dict(config), **settings, about=about))
        users = 0
        while _each(config, bandwidth, context, users + 1) >= each:
            users += 1
        if value == users:
            continue
        if users == 0:
            raise Wrong(f"{about}，函数返回 {value:g}。只有一个人的时候，他能到这个速度吗？")
        if value != int(value):
            raise Wrong(f"{about}，函数返回 {value:g}。人数要是整数，多出来的零头不够一个人用。")
        how = "太多了，这么多人的时候，每个人到不了" if value > users else "少了，再多一个人，每个人也还能到"
        raise Wrong(f"{about}，函数返回 {value:g}，{how} {each:g} tok/s。")


def _each(config: dict[str, Any], bandwidth: float, context: int, users: int) -> float:
    return decode_limit(config, bandwidth_gb_s=bandwidth, batch=users, context=context) / users


@contextmanager
def _time_limit() -> Iterator[None]:
    """End a loop that never ends: comparing the speed of all together, which only grows, is the likeliest mistake."""

    def stop(*_: object) -> NoReturn:
        raise TimeoutError(f"过了 {TIME_LIMIT_S:g} 秒还没有返回，多半是循环停不下来")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# bandwidth (GB/s), arithmetic (TFLOP/s), bytes per weight, requests together
CASES = {1: (1008, 165, 2, 16), 2: (1008, 165, 2, 400), 3: (1008, 165, 0.5, 100), 4: (300, 121, 2, 200)}


def which_bound(bounds: object) -> None:
    read = choices(bounds, keys=list(CASES), letters="AB")
    wrong = [
        case
        for case, (bandwidth, tflops, size, batch) in CASES.items()
        if read[case] != ("A" if size / (bandwidth * 1e9) > batch * 2 / (tflops * 1e12) else "B")
    ]
    if wrong:
        raise Wrong(f"第 {wrong[0]} 行不对：读权重和算，哪个花的时间长？")


JAMMED = {"X": "Q", "Y": "P", "Z": "R"}
WHY_NOT = {
    "X": "X 的 token 早就算出来了，客户端却晚得多才收到。看看谁占满了一个核。",
    "Y": "Y 两边的 TPOT 差多少？",
    "Z": "Z 里占满一个核的是谁？",
}


def where_it_is_jammed(where: object, flag: object) -> None:
    read = choices(where, keys=list(JAMMED), letters="PQR")
    wrong = [service for service, place in JAMMED.items() if read[service] != place]
    if wrong:
        raise Wrong(WHY_NOT[wrong[0]])
    if not isinstance(flag, str):
        raise Wrong(f"flag 要填一个字母，得到的是{kind(flag)}。")
    if letter(flag) not in tuple("EFGH"):
        raise Wrong("flag 要填 E、F、G、H 里的一个字母。")
    if letter(flag) != "F":
        raise Wrong("where 对了，flag 不对：哪一个参数让忙不过来的那种进程多几个？")


def percent_of_the_limit(answer: object) -> None:
    percent = number(answer)
    limit = decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=2039, batch=32, context=1024 + 128 / 2)
    right = 100 * 2700 / limit
    if abs(percent - right) < 0.7:
        return
    if abs(percent - right / 100) < 0.01:
        raise Wrong("这是小数，题目要的是百分之几。")
    if abs(percent - 100 * 2700 / decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=2039, batch=32, context=0)) < 0.7:
        raise Wrong("KV 缓存没有算进去：每个请求已有一千多个 token，每一步都要读。")
    if percent > 100:
        raise Wrong("测到的不会超过上限。上限是 32 个请求合计的吗？")
    raise Wrong(f"{short(answer)} 和算出来的差得多了些。")


JUDGES: dict[str, Judge] = {
    "09-1": room_for,
    "09-2": which_bound,
    "09-3": where_it_is_jammed,
    "09-4": percent_of_the_limit,
}
