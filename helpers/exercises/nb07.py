"""The exercises of notebook 07: reading a benchmark before believing it. They need no engine."""

from __future__ import annotations

from typing import Any

from helpers.exercises.judging import Judge, Wrong, call, kind, letter, number, short
from helpers.models import SEVEN_B_CONFIG, model_size

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


SMALL = SEVEN_B_CONFIG | {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12,
                          "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}  # fmt: skip
LIMITS: list[tuple[dict[str, Any], float, float, int, str]] = [
    (SEVEN_B_CONFIG, 1008.0, 2.0, 1, "7B、bf16、RTX 4090（1008 GB/s）、一个请求"),
    (SEVEN_B_CONFIG, 4300.0, 2.0, 25, "7B、fp16、实测 4300 GB/s 的卡、25 个请求"),
    (SEVEN_B_CONFIG, 1008.0, 0.5, 1, "7B、4 位量化、RTX 4090、一个请求"),
    (SMALL, 1008.0, 2.0, 8, "Qwen2.5-1.5B、bf16、RTX 4090、8 个请求"),
]


def memory_bound(decode_limit: object) -> None:
    for config, bandwidth, size, batch, about in LIMITS:
        settings = {"bandwidth_gb_s": bandwidth, "bytes_per_param": size, "batch": batch}
        value = number(call(decode_limit, dict(config), **settings, about=about))
        wanted = batch * bandwidth * 1e9 / (model_size(config).parameters * size)
        if abs(value - wanted) <= 0.02 * wanted:
            continue
        if abs(value * batch - wanted) <= 0.02 * wanted:
            raise Wrong(f"{about}：读一遍权重，这一批里的每个请求都得到一个 token。")
        if 0.02 < abs(value / wanted - 1) < 0.09:
            raise Wrong(f"{about}，函数返回 {value:.1f}，差了百分之几。GB 是 10⁹ 字节，参数要全部算上。")
        raise Wrong(f"{about}，函数返回 {value:.4g}，{'太大' if value > wanted else '太小'}了。")


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
    "07-3": memory_bound,
    "07-4": two_tables,
}
