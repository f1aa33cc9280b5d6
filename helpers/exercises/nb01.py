"""The exercises of notebook 01: memory, versions, proxies. Nothing here needs an engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from helpers.exercises.judging import Judge, Wrong, call, kind, number, same, short
from helpers.models.size import CARD_24GB_GIB, GIB, RUNTIME_GIB, SEVEN_B_CONFIG, kv_budget_gib, model_size

__all__ = ["JUDGES"]

SIZE = model_size(SEVEN_B_CONFIG)


def k_tokens(kv_gib: float) -> float:
    return kv_gib * GIB / SIZE.kv_bytes_per_token / 1000


KV_24_GIB, KV_48_GIB = (kv_budget_gib(card, SIZE.weights_gib) for card in (CARD_24GB_GIB, 48.0))
WANTED_48 = k_tokens(KV_48_GIB)
SLIPS_48 = {  # what the slip leads to
    k_tokens(KV_24_GIB): "这是 24 GB 的卡的数：card_gib 还没有改成 48。",
    k_tokens(2 * KV_24_GIB): "这是原来的两倍。权重和计算中间结果要的显存并没有跟着翻倍。",
    k_tokens(KV_48_GIB + 48 * 0.1): "这是把 48 GiB 全用上的数：漏乘了 utilization。",
    k_tokens(KV_48_GIB + RUNTIME_GIB): "太多了：计算中间结果的那一份（working_gib）没有减。",
    k_tokens(KV_48_GIB + SIZE.weights_gib): "太多了：权重没有减。",
    WANTED_48 / 1.024: "单位不对：这里的 K 是一千，不是 1024。",
    KV_48_GIB: "这是 KV 缓存的 GiB 数。再除以每个 token 的字节数，就是能放多少个 token。",
    WANTED_48 * 1000 // 2048: "这是能同时放几个 2048 的请求。题目问的是上一行：多少 K 个 token。",
}


def bigger_card(answer: object) -> None:
    thousands = number(answer)
    if thousands >= 100_000:  # given in tokens
        thousands /= 1000
    if math.isclose(thousands, WANTED_48, abs_tol=1.2):
        return
    slips = [says for value, says in SLIPS_48.items() if math.isclose(thousands, value, rel_tol=0.005)]
    raise Wrong(slips[0] if slips else f"{short(answer)} 不是第 3 节那几行算出来的数。")


NEEDS = {"0.7.1": "2.5.1", "0.32.0": "2.13.0"}
INSTALLS = [
    ([("torch", "2.3.0"), ("vllm", "0.7.1")], ("2.5.1", True), "后装的 vllm 会把 torch 换成它要的版本。"),
    ([("vllm", "0.7.1"), ("torch", "2.3.0")], ("2.3.0", False), "最后一步指定了 torch 的版本，pip 会照办。"),
    ([("vllm", "0.32.0")], ("2.13.0", True), "只装 vllm，torch 由它带来。"),
    ([("torch", "2.13.0")], ("2.13.0", False), "vllm 还没有装。"),
    ([("vllm", "0.7.1"), ("vllm", "0.32.0")], ("2.13.0", True), "升级 vllm，torch 也跟着换。"),
    ([("vllm", "0.32.0"), ("torch", "2.3.0"), ("torch", "2.13.0")], ("2.13.0", True), "最后又换回了配套的版本。"),
]  # fmt: skip


def after_installs(after: object) -> None:
    for steps, wanted, note in INSTALLS:
        about = "依次安装 " + "、".join("==".join(step) for step in steps) + " 之后"
        value = call(after, list(steps), about=about)
        if isinstance(value, tuple | list) and len(value) == 2:
            value = (value[0], bool(value[1]))
        same(value, wanted, about=about, note=note)


TURBO = "localhost,127.0.0.1,modelscope.com,aliyuncs.com,tencentyun.com,wisemodel.cn"  # AutoDL's own exceptions
PROXY = {"http_proxy": "http://10.37.1.23:12798", "https_proxy": "http://10.37.1.23:12798"}
ENVIRONMENTS: list[tuple[dict[str, str], list[str], str]] = [
    (PROXY, [], "只设了代理的环境"),
    (PROXY | {"NO_PROXY": "pypi.tuna.tsinghua.edu.cn"}, ["pypi.tuna.tsinghua.edu.cn"], "原来就有 NO_PROXY 的环境"),
    (PROXY | {"NO_PROXY": ""}, [], "NO_PROXY 是空字符串的环境"),
    (PROXY | {"no_proxy": TURBO}, ["modelscope.com", "aliyuncs.com"], " AutoDL 学术加速的环境（小写的 no_proxy）"),
    ({"PATH": "/usr/bin"}, [], "没有设代理的环境"),
]


def local_stays_local(without_detour: object) -> None:
    for environ, kept, about in ENVIRONMENTS:
        given = dict(environ)
        about = f"对于{about}"
        result = call(without_detour, given, about=about)
        if not isinstance(result, Mapping):
            raise Wrong(f"{about}，要返回一个字典，得到的是{kind(result)}。")
        if given != environ:
            raise Wrong(f"{about}，传进来的字典被改动了。请先复制一份。")
        lost = [name for name in environ if name.upper() != "NO_PROXY" and result.get(name) != environ[name]]
        if lost:
            raise Wrong(f"{about}，{lost[0]} 变了或没了。代理本身要留着，访问 GitHub 还要用。")
        if any(name in environ for name in PROXY):
            _bypass(result, kept, about)


def _bypass(environ: Mapping[str, Any], kept: list[str], about: str) -> None:
    value = str(environ.get("no_proxy") or environ.get("NO_PROXY") or "")

    def direct(host: str) -> bool:
        return bool(proxy_bypass_environment(host, {"no": value}))

    for host in ["localhost", "127.0.0.1", *kept]:
        if not direct(host):
            raise Wrong(f"{about}，例外名单成了 {value!r}，{host} 仍然走代理。")
    if direct("github.com"):
        raise Wrong(f"{about}，例外名单成了 {value!r}，连 github.com 也不走代理了。")


CARDS = [
    ((7_615_616_512, 57_344, 80_000, CARD_24GB_GIB), 1, "24 GB 的卡放得下 7B 和 8 万个 token"),
    ((7_615_616_512, 57_344, 131_072, CARD_24GB_GIB), 2, "24 GB 的卡，7B 加一个 131072 长的请求"),
    ((7_615_616_512, 57_344, 475_000, CARD_24GB_GIB), 4, "24 GB 的卡，7B 加 47.5 万个 token"),
    ((7_615_616_512, 57_344, 10_000, 16.0), 2, "16 GiB 的卡"),
    ((32_763_876_352, 262_144, 16_384, CARD_24GB_GIB), 4, "24 GB 的卡，32B 加 16384 个 token"),
    ((32_763_876_352, 262_144, 131_072, CARD_24GB_GIB), 8, "24 GB 的卡，32B 加 131072 个 token"),
    ((32_763_876_352, 262_144, 16_384, 80.0), 1, "80 GiB 的卡，32B 加 16384 个 token"),
    ((70_553_706_496, 327_680, 131_072, CARD_24GB_GIB), None, "24 GB 的卡，70B 加 131072 个 token"),
]  # fmt: skip


Need = Callable[[float, float, int], float]  # GiB on each of n cards, from weights and KV cache in GiB
SLIPS_CARDS: list[tuple[Need, str]] = [
    (lambda weights, kv, n: weights / n + kv + RUNTIME_GIB, "KV 缓存也由几块卡分担，你让每块卡都放了整份。"),
    (lambda weights, kv, n: weights + kv / n + RUNTIME_GIB, "权重也由几块卡分担，你让每块卡都放了整份。"),
    (lambda weights, kv, n: weights + kv + RUNTIME_GIB, "权重和 KV 缓存都由几块卡分担，你让每块卡都放了整份。"),
    (lambda weights, kv, n: (weights + kv + RUNTIME_GIB) / n, "中间结果（working_gib）每块卡都要留，不能分担。"),
    (lambda weights, kv, n: (weights + kv) / n, "每块卡要留中间结果（working_gib），只能用九成：漏了一条。"),
    (lambda weights, kv, n: weights / n + RUNTIME_GIB, "只算了权重，没有算 KV 缓存。"),
    (lambda weights, kv, n: weights / 2 / n + kv / n + RUNTIME_GIB, "bf16 的一个参数是 2 字节，你只算了 1 字节。"),
]


def how_many_cards(cards: object) -> None:
    values = [call(cards, *arguments, about=about) for arguments, _, about in CARDS]
    if values == [None] * len(CARDS):
        raise Wrong("不管给什么，函数都返回 None。是不是漏了 return，或者单位没有换成 GiB？")
    for need, says in SLIPS_CARDS:
        if values == [_fewest(need, *arguments) for arguments, *_ in CARDS]:
            raise Wrong(says)
    for value, (_, wanted, about) in zip(values, CARDS, strict=True):
        if wanted is None:
            if value is not None:
                raise Wrong(f"{about}，8 块也放不下，函数却返回 {short(value)}。")
            continue
        if value is None:
            raise Wrong(f"{about}，8 块以内放得下，函数却返回 None。看看每块卡上是不是算多了。")
        note = "太少了，每块卡上的几项加起来超过了上限。" if value and value < wanted else "用不了那么多。"
        same(value, wanted, about=about, note=note)


def _fewest(need: Need, parameters: int, kv_bytes: int, tokens: int, card_gib: float) -> int | None:
    weights, kv = parameters * 2 / GIB, kv_bytes * tokens / GIB
    return next((n for n in (1, 2, 4, 8) if need(weights, kv, n) <= card_gib * 0.9), None)


JUDGES: dict[str, Judge] = {
    "01-1": bigger_card,
    "01-2": after_installs,
    "01-3": local_stays_local,
    "01-4": how_many_cards,
}
