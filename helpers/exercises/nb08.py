"""The exercises of notebook 08: reading latencies, a curve and a server's own books. They need no server."""

from __future__ import annotations

from helpers.exercises.judging import Judge, Wrong, call, kind, letter, number, same, short

__all__ = ["JUDGES"]

ARRIVALS: list[tuple[float, list[float], int, tuple[float, float | None, float | None], str]] = [
    (0.0, [0.2, 0.25, 0.3, 0.4, 0.45], 5, (200.0, 62.5, 100.0), "5 个 token，5 段"),
    (100.0, [100.5, 100.6, 100.7, 100.8], 7, (500.0, 50.0, 100.0), "7 个 token，4 段，从第 100 秒发出"),
    (3.0, [3.05, 3.06, 3.5, 3.51], 4, (50.0, 460 / 3, 440.0), "中间卡了一下的一次"),
    (2.0, [2.08], 1, (80.0, None, None), "只有一个 token"),
]


def latencies_of(latencies: object) -> None:
    for sent, arrivals, tokens, wanted, about in ARRIVALS:
        value = call(latencies, sent, list(arrivals), tokens, about=f"对{about}")
        if not isinstance(value, tuple | list) or len(value) != 3:
            raise Wrong(f"对{about}，要返回三个数，得到的是 {short(value)}。")
        for name, mine, theirs in zip(("TTFT", "TPOT", "最长的 ITL"), value, wanted, strict=True):
            if mine is None or theirs is None:
                same(mine, theirs, about=f"对{about}，{name}")
            elif abs(number(mine) - theirs) > 0.01:
                note = "单位是毫秒。" if abs(1000 * number(mine) - theirs) < 0.01 else ""
                raise Wrong(f"对{about}，{name} 成了 {short(mine)}。{note}")


def the_curve(knee_at: object, most_allowed: object) -> None:
    measured = (1, 4, 16, 64, 256)
    found, most = number(knee_at), number(most_allowed)
    for name, value in (("knee_at", found), ("most_allowed", most)):
        if value not in measured:
            raise Wrong(f"{name} 要填测过的并发之一，得到的是 {value:g}。")
    if found == 256:
        raise Wrong("knee_at 不对：合计还在涨，可是拐点看的是每个请求的速度。")
    if found != 64:
        raise Wrong("knee_at 不对：再大一些的并发，每个请求的速度还有单独跑时的一半吗？")
    if most != 16:
        how = "太大了，有一项要求没有达到" if most > 16 else "太小了，再大一些，两项要求也都能达到"
        raise Wrong(f"knee_at 对了，most_allowed {how}。")


def _books(**stages: tuple[float, int]) -> dict[str, float]:
    """What `read_metrics` returns, cut to the stages: seconds in all, and requests."""
    books: dict[str, float] = {"vllm:num_requests_running": 2.0}
    for stage, (total, count) in stages.items():
        books |= {f"vllm:request_{stage}_time_seconds_sum": total, f"vllm:request_{stage}_time_seconds_count": count}
    return books


OLD_JAM = _books(queue=(900.0, 100), prefill=(5.0, 100), decode=(80.0, 100))
BOOKS: list[tuple[dict[str, float], dict[str, float], str | None, str]] = [
    (OLD_JAM, _books(queue=(900.1, 120), prefill=(6.0, 120), decode=(96.0, 120)), "decode", "很久以前堵过的服务器"),
    (OLD_JAM, _books(queue=(990.0, 110), prefill=(5.5, 110), decode=(88.0, 110)), "queue", "正在排队的服务器"),
    (
        _books(queue=(1.0, 10), prefill=(3.0, 10), decode=(40.0, 10)),
        _books(queue=(1.2, 30), prefill=(90.0, 30), decode=(60.0, 30)),
        "prefill", "提示词很长的一段时间",
    ),
    (OLD_JAM, OLD_JAM, None, "没有请求的一段时间"),
    ({}, _books(queue=(0.1, 4), prefill=(0.3, 4), decode=(8.0, 4)), "decode", "刚启动的服务器"),
]  # fmt: skip


def slowest_stage(slowest: object) -> None:
    for before, after, wanted, about in BOOKS:
        given = (dict(before), dict(after))
        value = call(slowest, *given, about=f"对于{about}")
        if given != (before, after):
            raise Wrong(f"对于{about}，传进来的字典被改动了。")
        if wanted is None:
            if value is not None:
                raise Wrong(f"对于{about}，一个请求也没有完成，函数却返回 {short(value)}。")
            continue
        same(value, wanted, about=f"对于{about}")


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
    "08-1": latencies_of,
    "08-2": the_curve,
    "08-3": slowest_stage,
    "08-4": two_tables,
}
