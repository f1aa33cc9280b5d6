"""The exercises of notebook 10: which card holds what, rounding by hand, and which flag helps. They need no engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from helpers.exercises.judging import Judge, Wrong, call, choices, kind, number, short
from helpers.models.fit import FAMILY, PRECISIONS, fits

__all__ = ["JUDGES"]

LENGTH = 16384  # tokens
OFFERS = {"A": ("1.5B", "bf16"), "B": ("7B", "int4"), "C": ("7B", "int8"), "D": ("14B", "int4"), "E": ("32B", "int8")}
PEOPLE = {"P": (11.6, 1), "Q": (14.6, 1), "R": (23.6, 1), "S": (23.6, 2)}  # GiB of a card, cards


def room(person: str, offer: str) -> int:
    """Tokens that are left for one person's choice."""
    (card_gib, cards), (model, precision) = PEOPLE[person], OFFERS[offer]
    return fits(FAMILY[model], card_gib, cards=cards, **PRECISIONS[precision]).tokens


def best_choices(choice: object) -> None:
    read = choices(choice, keys=list(PEOPLE), letters="ABCDE")
    for person in PEOPLE:
        chosen, best = read[person], max(offer for offer in OFFERS if room(person, offer) >= LENGTH)
        if room(person, chosen) < LENGTH:
            raise Wrong(f"{person} 选的 {chosen}，KV 缓存只剩 {room(person, chosen)} 个 token，不到 16K。")
        if chosen != best:
            raise Wrong(f"{person} 选的 {chosen} 放得下，不过还有更大的、或者位数更多的也放得下。")


SHARED: list[tuple[str, float, int, dict[str, int], str]] = [
    ("7B", 23.6, 4, {}, "7B 的 bf16、24 GB 的卡、4 个人"),
    ("7B", 23.6, 4, {"kv_bits": 8}, "7B 的 bf16、24 GB 的卡、KV 缓存 8 位、4 个人"),
    ("1.5B", 23.6, 1, {}, "1.5B 的 bf16、24 GB 的卡、1 个人"),
    ("7B", 11.6, 3, {"bits": 4, "group": 128}, "7B 的 int4、12 GB 的卡、3 个人"),
    ("7B", 11.6, 8, {"bits": 8}, "7B 的 int8、12 GB 的卡、8 个人"),
    ("32B", 23.6, 1, {"bits": 8}, "32B 的 int8、24 GB 的卡、1 个人"),
]


def longest_for_each(longest: object) -> None:
    for model, card_gib, users, options, about in SHARED:
        config = FAMILY[model]
        value = number(call(longest, dict(config), card_gib, users, about=about, **options))
        tokens, most = fits(config, card_gib, **options).tokens, int(config["max_position_embeddings"])
        if value == min(tokens // users // 1024 * 1024, most):
            continue
        if value > most:
            raise Wrong(f"{about}，函数返回 {value:g}，超过了模型自己的上限。")
        if value % 1024:
            raise Wrong(f"{about}，函数返回 {value:g}，不是 1024 的整数倍。")
        if value * users > tokens:
            raise Wrong(f"{about}，函数返回 {value:g}，{users} 个人一共要 {value * users:g}，KV 缓存放不下。")
        raise Wrong(f"{about}，函数返回 {value:g}，还能再长一些。")


ROWS: list[tuple[list[float], int, int, str]] = [
    ([0.51, -1.0, 0.25, 0.1], 8, 4, "一组四个、8 位"),
    ([0.51, -1.0, 0.26, 0.1], 4, 4, "一组四个、4 位"),
    ([0.09, 0.2, 8.0, -4.2], 4, 2, "两组、第二组有大数"),
    ([0.0, 0.0, 3.0, 1.4], 4, 2, "两组、第一组全是 0"),
]


def round_trips(round_trip: object) -> None:
    for row, bits, group, about in ROWS:
        value = call(round_trip, list(row), bits, group, about=about)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise Wrong(f"{about}，要返回一个列表，得到的是{kind(value)}。")
        if len(value) != len(row):
            raise Wrong(f"{about}，返回的列表有 {len(value)} 个数，应当和 row 一样长。")
        got = [number(part) for part in value]
        if _near(got, _restored(row, bits, group)):
            continue
        for other, says in SLIPS:
            if _near(got, other(row, bits, group)):
                raise Wrong(f"{about}，{says}")
        raise Wrong(f"{about}，返回 {short(got)}，和量化再还原的结果不同。")


def _restored(row: Sequence[float], bits: int, group: int) -> list[float]:
    top, restored = 2 ** (bits - 1) - 1, list[float]()
    for begin in range(0, len(row), group):
        part = row[begin : begin + group]
        scale = max(map(abs, part)) / top or 1.0
        restored += [round(value / scale) * scale for value in part]
    return restored


def _numbers(row: Sequence[float], bits: int, group: int) -> list[float]:
    top = 2 ** (bits - 1) - 1
    parts = [row[begin : begin + group] for begin in range(0, len(row), group)]
    return [float(round(value * top / (max(map(abs, part)) or 1.0))) for part in parts for value in part]


SLIPS: list[tuple[Callable[[Sequence[float], int, int], list[float]], str]] = [
    (lambda row, bits, group: _restored(row, bits, len(row)), "整行用了一个系数，没有分组。"),
    (lambda row, bits, group: _restored(row, bits + 1, group), "最大的整数大了一倍：有一位是正负号。"),
    (lambda row, bits, group: _restored(row, 8, group), "不管几位，都按 8 位算了。"),
    (_numbers, "这是整数，还没有乘回系数。"),
    (lambda row, bits, group: list(row), "返回的就是原来的数，没有四舍五入。"),
]


def _near(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(math.isclose(x, y, rel_tol=1e-4, abs_tol=1e-9) for x, y in zip(a, b, strict=True))


WHICH = {"X": "E", "Y": "F", "Z": "G"}
WHY_NOT = {
    "X": "X 的 KV 缓存还空着一大半，挡住排队的人的是什么？",
    "Y": "Y 的 KV 缓存满了，还在不停地抢占：收的请求是多了还是少了？",
    "Z": "Z 的位置和 KV 缓存都够。大家顿一下的那一步里，算的是什么？",
}


def which_flag(flags: object) -> None:
    read = choices(flags, keys=list(WHICH), letters="EFGH")
    wrong: list[Any] = [service for service, flag in WHICH.items() if read[service] != flag]
    if wrong:
        raise Wrong(WHY_NOT[wrong[0]])


JUDGES: dict[str, Judge] = {
    "10-1": best_choices,
    "10-2": longest_for_each,
    "10-3": round_trips,
    "10-4": which_flag,
}
