"""What fits which card, quantizing by rounding, the engine's log, and what notebook 10 says of all this."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from safetensors.torch import load_file

from helpers.authoring import series
from helpers.authoring.model import corpus
from helpers.bench import measured, spread
from helpers.bench.engine import EngineLog
from helpers.config import CLASSROOM_MODEL_DIR
from helpers.models import model_size
from helpers.models.fit import CARDS_GIB, FAMILY, PRECISIONS, advice, fits
from helpers.models.quantize import quantize, to_int
from helpers.models.size import GIB, RUNTIME_GIB, quantized_gib

[LESSON] = [path for path in series.notebook_paths() if path.name.startswith("10")]
CELLS = nbformat.read(LESSON, as_version=4).cells
PROSE = "\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
PARAMETERS = {"1.5B": 1_777_088_000, "7B": 7_615_616_512, "14B": 14_770_033_664, "32B": 32_763_876_352}
ROWS = measured("gpu_family")["family"]
BY_CASE = {(row["model"], row["setting"], row["cards"]): row for row in ROWS}


@pytest.mark.parametrize("name", FAMILY)
def test_the_shapes_have_the_published_numbers_of_parameters(name: str) -> None:
    assert model_size(FAMILY[name]).parameters == PARAMETERS[name]


def test_what_is_left_of_a_card_is_kv_cache() -> None:
    found = fits(FAMILY["7B"], 24.0)
    assert found.weights_gib == pytest.approx(PARAMETERS["7B"] * 2 / GIB)
    assert found.kv_gib == pytest.approx(24 * 0.9 - found.weights_gib - RUNTIME_GIB)
    assert found.tokens == int(found.kv_gib * GIB / (56 * 1024))
    assert fits(FAMILY["7B"], 24.0, kv_bits=8).tokens == pytest.approx(2 * found.tokens, abs=1)
    assert fits(FAMILY["7B"], 12.0).tokens == 0 and fits(FAMILY["7B"], 12.0).kv_gib < 0


def test_two_cards_share_the_weights_and_each_keeps_its_own_rest() -> None:
    one, two = fits(FAMILY["7B"], 24.0), fits(FAMILY["7B"], 24.0, cards=2)
    assert two.weights_gib == one.weights_gib
    assert two.kv_gib - one.kv_gib == pytest.approx(24 * 0.9 - RUNTIME_GIB)


def test_fewer_bits_and_larger_cards_never_hold_less() -> None:
    for config in FAMILY.values():
        by_precision = [
            [fits(config, gib, **options).tokens for gib in CARDS_GIB.values()] for options in PRECISIONS.values()
        ]
        assert all(row == sorted(row) for row in by_precision)
        assert all(list(column) == sorted(column) for column in zip(*by_precision, strict=True))


@pytest.mark.parametrize(
    ("card_gib", "cards", "says"),
    [
        (23.6, 1, ["bf16 最大放得下 7B", "int8 最大放得下 14B", "int4 最大放得下 32B"]),
        (11.6, 1, ["bf16 最大放得下 1.5B", "int4 最大放得下 7B"]),
        (23.6, 2, ["2 块", "bf16 最大放得下 14B"]),
        (2.0, 1, ["一个也放不下"]),
    ],
)
def test_a_card_gets_a_sentence(card_gib: float, cards: int, says: list[str]) -> None:
    sentence = advice(card_gib, cards=cards)
    assert all(part in sentence for part in says) and sentence.endswith("。")


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, None), (4, 32), (4, 128)])
def test_rounding_errs_by_half_a_step_at_most(bits: int, group: int | None) -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    numbers, scale = to_int(weight, bits=bits, group=group)
    assert numbers.shape == (16, 256 // (group or 256), group or 256) and numbers.dtype == torch.int8
    assert int(numbers.abs().max()) == 2 ** (bits - 1) - 1
    assert ((numbers * scale).reshape(16, 256) - weight).abs().max() <= scale.max() / 2 * 1.001
    assert (numbers[3] == 0).all()


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 32)])
def test_a_quantized_checkpoint_holds_the_matrix_and_leaves_the_rest_alone(
    bits: int, group: int | None, tmp_path: Path
) -> None:
    from compressed_tensors.compressors import unpack_from_int32  # type: ignore[import-untyped]

    files = quantize(CLASSROOM_MODEL_DIR, tmp_path, bits=bits, group=group)
    before, after = load_file(CLASSROOM_MODEL_DIR / "model.safetensors"), load_file(files.weight_files[0])
    layer = "model.layers.2.mlp.down_proj"
    original, scale = before[f"{layer}.weight"].float(), after[f"{layer}.weight_scale"].float()
    if bits == 4:
        numbers = unpack_from_int32(after[f"{layer}.weight_packed"], 4, torch.Size(after[f"{layer}.weight_shape"]))
    else:
        numbers = after[f"{layer}.weight"]
    restored = (numbers.reshape(len(original), -1, group or original.shape[1]) * scale[..., None]).reshape_as(original)
    assert ((restored - original).norm() / original.norm()) < (0.01 if bits == 8 else 0.13)
    alone = [name for name in before if not name.endswith("_proj.weight")]
    assert alone and all(torch.equal(before[name], after[name]) for name in alone)
    config = json.loads((tmp_path / "config.json").read_text())
    [layers] = config["quantization_config"]["config_groups"].values()
    assert layers["weights"]["num_bits"] == bits and layers["weights"].get("group_size") == group


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger("vllm")
    before = root.level, [*root.handlers]
    yield root
    root.setLevel(before[0])
    root.handlers = before[1]


@pytest.mark.engine
def test_the_log_of_each_engine_is_whole_though_vllm_writes_a_line_only_once(root_logger: logging.Logger) -> None:
    from vllm.logger import init_logger

    writer, kept = init_logger("vllm.test"), []
    for _ in range(2):
        with EngineLog() as log:
            writer.info_once("KV cache size: %s tokens", 7)
            writer.info("something else")
        writer.info("after it")
        kept.append(log)
    assert [log.lines for log in kept] == [["KV cache size: 7 tokens", "something else"]] * 2
    assert kept[0].about("cache size", "memory") == ["KV cache size: 7 tokens"]


# What notebook 10 says ------------------------------------------------------------------------------------------------


def share(name: str) -> float:
    return quantized_gib(FAMILY[name], bits=4, group=128) / quantized_gib(FAMILY[name], bits=16)


def speed_up(size: str) -> float:
    fast, plain = (spread(BY_CASE["7B", kind, 1]["output_tok_per_s"][size]).median for kind in ("fp8 weights", "bf16"))
    return fast / plain


def claims() -> Iterator[tuple[str, bool]]:
    """A phrase of the prose, and whether it is true."""
    kv = {name: model_size(config).kv_bytes_per_token for name, config in FAMILY.items()}
    left = {gb: fits(FAMILY["7B"], CARDS_GIB[gb], bits=4, group=128) for gb in (8, 12)}
    yield f"7B 的 int4 是 bf16 的 {share('7B'):.0%}，32B 的是 {share('32B'):.0%}", True
    yield "32B 的一个 token，要占 7B 的 4 倍多", 4.4 < kv["32B"] / kv["7B"] < 4.7
    yield f"估计 {RUNTIME_GIB:g} GiB", True
    yield (
        "8 GB 的卡，照这样算，7B 用 int4 也放不下：int4 的权重 5.2 GiB",
        left[8].tokens == 0 and 5.1 < left[8].weights_gib < 5.25,
    )
    memory = [row for row in ROWS if row["setting"] != "fp8 KV cache" and row.get("weights_gib")]
    bits = {"bf16": 16, "fp8 weights": 8}
    gaps = [
        row["weights_gib"] - quantized_gib(FAMILY[row["model"]], bits=bits[row["setting"]]) / row["cards"]
        for row in memory
    ]
    yield "权重差不到 0.3 GiB", all(abs(gap) < 0.3 for gap in gaps)
    rests = [measured("gpu_family")["cuda_gib"] * 0.9 - row["weights_gib"] - row["kv_gib"] for row in memory]
    yield "“其余”从 2 GiB 上下到 4 GiB 上下，模型大的多", 1.7 < min(rests) < 2.3 and 3.6 < max(rests) < 4.4
    one_card = {
        row["model"]: rest
        for row, rest in zip(memory, rests, strict=True)
        if (row["setting"], row["cards"]) == ("bf16", 1)
    }
    in_order = [one_card[name] for name in FAMILY if name in one_card]
    yield "模型大的多", in_order == sorted(in_order)
    usual, small = (measured("gpu")["memory"][name]["rest_gib"] for name in ("default", "as_24gb"))
    yield f"“其余”就少了 {usual - small:.1f} GiB，只有 {small:.1f}：第 2 节的 2 GiB", abs(small - RUNTIME_GIB) < 0.3
    plain = BY_CASE["7B", "bf16", 1]
    large = fits(FAMILY["32B"], CARDS_GIB[80])
    yield "在 80 GB 上刚好放得下 32K", 32768 <= large.tokens < 36000
    tokens = {name: (large.kv_gib + RUNTIME_GIB - other) * GIB / kv["32B"] for name, other in one_card.items()}
    yield f"按这里 7B 的“其余”，只有 {tokens['7B'] / 1e4:.1f} 万", tokens["7B"] < 32768
    yield f"按 14B 的，只有 {tokens['14B'] / 1e4:.1f} 万，都不到 32K", tokens["14B"] < 32768
    yield "一个人用，快将近一半；128 个一起，只快一成多", 1.4 < speed_up("1") < 1.5 and 1.1 < speed_up("128") < 1.2
    if fp8 := BY_CASE.get(("7B", "fp8 KV cache", 1)):  # not measured in every report
        yield "真模型从 bf16 变过来，是 2 倍", 1.95 < fp8["kv_tokens"] / plain["kv_tokens"] < 2.05
    weight = load_file(CLASSROOM_MODEL_DIR / "model.safetensors")["model.layers.0.mlp.down_proj.weight"].float()
    eight, four_bits, grouped = (
        float(((numbers * scale).reshape_as(weight) - weight).norm() / weight.norm())
        for numbers, scale in (to_int(weight, bits=8), to_int(weight, bits=4), to_int(weight, bits=4, group=32))
    )
    yield "少 4 位，误差大了将近二十倍", 17 < four_bits / eight < 20
    yield "分成 32 个一组，小了四分之一", 0.22 < 1 - grouped / four_bits < 0.28


@pytest.mark.parametrize(("phrase", "true"), list(claims()))
def test_what_the_lesson_says_is_true(phrase: str, true: bool) -> None:
    assert phrase in PROSE, "the claim has left the prose: change it here too"
    assert true, "the figures no longer say so: change the prose"


def test_the_solution_says_how_long_four_people_can_use() -> None:
    solution = (series.NOTEBOOKS_DIR / "solutions" / LESSON.name).read_text(encoding="utf-8")
    short, long = (fits(FAMILY["7B"], CARDS_GIB[24], kv_bits=bits).tokens // 4 // 1024 * 1024 for bits in (16, 8))
    assert f"4 个人每人 {short}；KV 缓存换成 8 位，每人 {long}" in solution


def test_the_sums_of_the_lesson_were_held_out_of_training() -> None:
    [cell] = [cell for cell in CELLS if "held_out = " in cell.source]
    found: dict[str, list[tuple[int, int]]] = {}
    lines = [line for line in cell.source.splitlines() if line.startswith(("pairs =", "held_out ="))]
    exec("from zlib import crc32\n" + "\n".join(lines), found)
    assert len(found["held_out"]) == 32 and all(corpus.is_held_out(*pair) for pair in found["held_out"])


@pytest.mark.engine
def test_the_defaults_on_a_24_gb_card_are_those_that_the_lesson_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.engine import arg_utils
    from vllm.usage.usage_lib import UsageContext

    card = SimpleNamespace(
        get_device_total_memory=lambda: int(23.6 * GIB), get_device_name=lambda: "NVIDIA GeForce RTX 4090",
        is_tpu=lambda: False, is_cpu=lambda: False,
    )  # fmt: skip
    monkeypatch.setattr(arg_utils, "current_platform", card)
    tokens, seqs = arg_utils.EngineArgs.get_batch_defaults(1)
    server = UsageContext.OPENAI_API_SERVER
    assert f"前两个默认是 {seqs[server]} 和 {tokens[server]}" in PROSE
    card.get_device_total_memory, card.get_device_name = lambda: int(79.2 * GIB), lambda: "NVIDIA H100 80GB HBM3"
    assert f"默认一步最多算 {arg_utils.EngineArgs.get_batch_defaults(1)[0][server]} 个 token" in PROSE
