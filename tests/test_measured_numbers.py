"""What the prose says of the committed figures: no cell can fail on them, so they are compared here, without a kernel.

A new report changes the figures; what then fails here names the cell whose prose has to follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import nbformat
import pytest

from helpers.authoring import series
from helpers.bench import measured, paired_ratio, spread
from helpers.bench.roofline import decode_limit, weights_read
from helpers.models import SEVEN_B_CONFIG, model_size
from helpers.models.size import CARD_24GB_GIB, RUNTIME_GIB, kv_budget_gib

GPU, CPU = measured("gpu"), measured("cpu")
PROSE = {
    cell.id: cell.source
    for path in series.notebook_paths()
    for cell in nbformat.read(path, as_version=4).cells
    if cell.cell_type == "markdown"
}
WORDS = {3: "三", 5: "五"}
COPY_GB_S = GPU["limits"]["copy_gb_s"]


def limit_4090(batch: int, context: int, size: float = 2) -> float:
    return decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=1008, batch=batch, context=context, bytes_per_weight=size)


def numbers() -> Iterator[tuple[str, str, object]]:
    """Cell, a phrase of its prose with `{}` where a number stands, and that number."""
    yield "09-09", "批量从 1 加到 64，上限是原来的 {} 倍", round(limit_4090(64, 128) / limit_4090(1, 128))
    yield "09-09", "8 位的上限是原来的 {} 倍", round(limit_4090(1, 128, 1) / limit_4090(1, 128), 1)
    yield "09-27", "7B 就不同了：每一步要读 {} GB", round(2 * weights_read(SEVEN_B_CONFIG) / 1e9)
    yield "09-32", "启动了{}次 `LLM`", WORDS[len(GPU["startup"].keys() - {"serve"})]
    [rounds] = {len(row["ours"]) for row in CPU["figures"] if "ready" in row["name"]}
    yield "09-34", "各测{}次", WORDS[rounds]
    yield "09-34", "一台 {} 核的 CPU 机器", CPU["machine"]["cores"]
    [rounds] = {len(row["output_tok_per_s"]) for row in GPU["pairs"]}
    yield "09-39", "轮流测了{}轮", WORDS[rounds]
    yield "09-44", "在生成的中段取 {} 步", round(GPU["step"]["steps"])


def claims() -> Iterator[tuple[str, str, bool]]:
    """Cell, a phrase of its prose, and whether it is true."""
    yield (
        "09-09",
        "上下文从 128 加到 2048，上限少了三分之一",
        0.31 < 1 - limit_4090(64, 2048) / limit_4090(64, 128) < 0.35,
    )
    yield "09-09", "4 位的是三倍多", 3 < limit_4090(1, 128, 0.5) / limit_4090(1, 128) < 4

    figures = {row["name"]: row for row in CPU["figures"]}
    pairs = figures["vLLM, 25 prompts : transformers, batch 25"]
    ratios = [ours / theirs for ours, theirs in zip(pairs["ours"], pairs["theirs"], strict=True)]
    yield "07-29", "成对测过五轮，快一成多", len(ratios) == 5 and 1.1 < median(ratios) < 1.2
    many = figures["32 requests: AsyncOpenAI at once : one by one"]
    slower = median(many["ours"]) / (median(many["theirs"]) / 32)
    yield "06-29", "在 2 核的 CPU 上慢到两三倍", 2 < slower < 3.5 and CPU["machine"]["cores"] == 2
    each = {row["concurrency"]: row["output_tok_per_s"] / row["concurrency"] for row in GPU["curve"]}
    yield "06-29", "在 H100 上慢两成左右", 1.1 < each[1] / each[32] < 1.3
    usual, small = (GPU["memory"][name]["rest_gib"] for name in ("default", "as_24gb"))
    yield "01-19", f"H100 上 7B 量到 {small:.1f} 和 {usual:.1f} GiB", True

    cold, warm, eager = (GPU["startup"][name] for name in ("cold", "warm", "eager"))
    yield "09-34", "建引擎的时间省了三成左右", 0.25 < 1 - warm["engine"] / cold["engine"] < 0.4
    yield "09-34", "建引擎最快", eager["engine"] < warm["engine"]
    yield "09-34", "每个请求都要多花几倍的时间", eager["second request"] > 3 * warm["second request"]

    yield "09-37", "装的是**撑大的教室模型**", GPU["weights"] == "classroom model widened to the 7B shape"
    speeds = {(row["engine"], row["prompts"]): row["output_tok_per_s"] for row in GPU["pairs"]}
    step = {(engine, n): n / median(values) for (engine, n), values in speeds.items()}
    noisy = {key for key, values in speeds.items() if spread(values).too_noisy}
    wide = {("vllm", 1000), *(key for key in speeds if key[0] == "transformers")}
    yield "09-39", "transformers 的三行和 vLLM 1000 个的那一行，都宽过中位数的两成", noisy == wide
    one, hundred = step["transformers", 1], step["transformers", 100]
    yield "09-41", "transformers 带 1 个请求和带 100 个，一步差不多一样长", 0.7 < hundred / one < 1.4
    yield "09-41", "vLLM 的一步只有它的几分之一", step["vllm", 25] < step["transformers", 25] / 3
    yield "09-41", "vLLM 快好几倍", paired_ratio(speeds["vllm", 25], speeds["transformers", 25]).low > 3

    card = {"bandwidth_gb_s": COPY_GB_S, "context": 64 + 128 / 2}
    used = {n: median(speeds["vllm", n]) / decode_limit(GPU["config"], batch=n, **card) for n in (1, 25, 100)}
    yield (
        "09-44",
        "1 个和 25 个一批，用到了上限的七成多；100 个一批，少一些",
        (all(0.7 <= used[n] < 0.8 for n in (1, 25)) and used[100] < used[25]),
    )
    yield "09-44", "最后一列用厂家标的 3350 GB/s，低一成左右", 0.07 < 1 - COPY_GB_S / 3350 < 0.14
    products = GPU["step"]["matrix products"]
    in_all = sum(ms for name, ms in GPU["step"].items() if name != "steps")
    yield "09-46", "大头是矩阵乘法", products > 0.75 * in_all
    yield "09-48", "和复制内存差不多快", 0.85 < 2 * weights_read(GPU["config"]) / products / 1e6 / COPY_GB_S < 1.1

    curve = {row["concurrency"]: row for row in GPU["curve"]}
    each = {n: row["output_tok_per_s"] / n for n, row in curve.items()}
    *_, before, last = sorted(curve)
    yield "09-51", "并发一步一步加倍", all(b == 2 * a for a, b in zip(sorted(curve), sorted(curve)[1:], strict=False))
    yield "09-53", "到 64 为止，吞吐量一直跟着并发涨", each[64] > 0.65 * each[1]
    yield "09-53", "TPOT 只长了两成多", 1.2 <= curve[64]["tpot_p50_ms"] / curve[1]["tpot_p50_ms"] < 1.3
    total = {n: row["output_tok_per_s"] for n, row in curve.items()}
    yield "09-53", "总数不再涨，这一次还少了", total[last] < total[before]
    yield "09-53", "每个请求的速度，只剩加倍之前的四成左右", 0.35 < each[last] / each[before] < 0.45

    api = {(row["api_servers"], row["stream_interval"], row["concurrency"]): row for row in GPU["api_servers"]}
    speed = {key: row["output_tok_per_s"] for key, row in api.items()}
    usual, full = api[1, 1, 128], [api[1, 1, n] for n in (256, 512)]
    yield "09-53", "总数不再涨", max(row["output_tok_per_s"] for row in full) < 1.05 * usual["output_tok_per_s"]
    yield "09-53", "少多少，每次测都不一样", total[last] / total[before] < 0.9 * speed[1, 1, 256] / speed[1, 1, 128]
    yield "09-53", "这时显卡还没有到顶", speed[4, 1, 256] > 1.2 * curve[last]["output_tok_per_s"]

    slow, *_, fast = GPU["long"]["rows"]
    yield "09-53c", "第一个字却慢了三十多倍", 30 < fast["ttft_p95_ms"] / slow["ttft_p95_ms"] < 40
    yield "09-53a", "回答 500 到 2000 个 token", GPU["long"]["output_len"] == (500 + 2000) / 2
    yield "09-53c", "没有请求在等", not any(row["waiting_most"] or row["preempted"] for row in GPU["long"]["rows"])
    yield "09-53c", "每秒从 2 个加到 12 个", (slow["rate"], fast["rate"]) == (2, 12)
    yield "09-53c", "TPOT 长了近六成", 1.55 < fast["tpot_p50_ms"] / slow["tpot_p50_ms"] < 1.6
    yield "09-53c", "第一个字的 p95 到了一秒以上", 1000 < fast["ttft_p95_ms"] < 1500
    yield "09-53c", "最多用了一成多", 0.1 < max(row["kv_usage_most"] for row in GPU["long"]["rows"]) < 0.15
    room = kv_budget_gib(CARD_24GB_GIB, model_size(SEVEN_B_CONFIG).weights_gib)
    yield "09-53c", "只有这里的十几分之一", 10 < GPU["memory"]["default"]["kv_gib"] / room < 20
    yield "09-56", "客户端的 TPOT 比服务器记的长得多", all(r["tpot_mean_ms"] > 1.3 * r["server_tpot_ms"] for r in full)
    yield "09-56", "就是满了一个核", all(0.95 < row["cores"]["api_server"] < 1.1 for row in full)
    yield "09-56", "要是测速程序自己满了一个核", all(row["cores"]["client"] < 0.9 for row in full)  # not so here
    several = [speed[servers, interval, 128] for servers in (1, 4) for interval in (1, 8)]
    yield "09-58", "128 个并发时差别不大", max(several) < 1.15 * min(several)
    yield "09-58", "那时它快满了，还没有满", 0.85 < usual["cores"]["api_server"] < 0.98
    for n in (256, 512):
        yield (
            "09-58",
            "256 和 512 时，两个参数单独用，都高出默认设置一大截",
            (min(speed[4, 1, n], speed[1, 8, n]) > 1.2 * speed[1, 1, n]),
        )
        yield "09-58", "四个进程的高得更多", speed[4, 1, n] > speed[1, 8, n]


@pytest.mark.parametrize(("cell", "phrase", "value"), list(numbers()))
def test_a_number_in_the_prose_is_the_measured_one(cell: str, phrase: str, value: object) -> None:
    assert phrase.format(value) in PROSE[cell]


@pytest.mark.parametrize(("cell", "phrase", "true"), list(claims()))
def test_what_the_prose_says_of_the_figures_is_true(cell: str, phrase: str, true: bool) -> None:
    assert phrase in PROSE[cell], "the claim has left the prose: delete it here too"
    assert true, "the figures no longer say so: change the prose"


def test_the_rest_that_the_arithmetic_leaves_was_measured() -> None:
    memory = GPU["memory"]
    assert pytest.approx(memory["as_24gb"]["rest_gib"], abs=0.15) == RUNTIME_GIB
    assert memory["cuda_gib"] == pytest.approx(memory["default"]["card_gib"], abs=0.01)
    assert memory["default"]["weights_gib"] == pytest.approx(model_size(SEVEN_B_CONFIG).weights_gib, abs=0.2)
