"""The arithmetic of the limits, against numbers worked out by hand, and the two measurements."""

from __future__ import annotations

import pytest

from helpers.bench import roofline
from helpers.models import SEVEN_B_CONFIG

READ = 7_615_616_512 - 152_064 * 3584  # all parameters but the input embedding


def test_weights_read_leaves_out_an_untied_embedding_only() -> None:
    assert roofline.weights_read(SEVEN_B_CONFIG) == READ
    tied = SEVEN_B_CONFIG | {"tie_word_embeddings": True}
    assert roofline.weights_read(tied) == READ  # one matrix fewer, and that one is read as output layer


def test_one_request_reads_the_weights_once_per_token() -> None:
    found = roofline.decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=1008, batch=1, context=0)
    assert found == pytest.approx(1008e9 / (2 * READ))


def test_every_request_adds_its_own_kv_cache() -> None:
    found = roofline.decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=1008, batch=64, context=2048)
    assert found == pytest.approx(64 * 1008e9 / (2 * READ + 64 * 2048 * 57_344))


@pytest.mark.parametrize(("size", "of_the_output_layer"), [(4, 4), (2, 2), (1, 2), (0.5, 2)])
def test_quantized_weights_raise_the_limit_but_the_output_layer_keeps_its_16_bits(
    size: float, of_the_output_layer: int
) -> None:
    found = roofline.decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=1008, batch=1, context=0, bytes_per_weight=size)
    output_layer = 152_064 * 3584
    assert found == pytest.approx(1008e9 / (size * (READ - output_layer) + of_the_output_layer * output_layer))


def test_the_kv_cache_has_a_dtype_of_its_own() -> None:
    case = {"bandwidth_gb_s": 1008, "batch": 64, "context": 100_000}
    usual = roofline.decode_limit(SEVEN_B_CONFIG, **case)
    found = roofline.decode_limit(SEVEN_B_CONFIG, **case, bytes_per_kv=1)
    assert found == pytest.approx(usual * (2 * READ + 64e5 * 57_344) / (2 * READ + 64e5 * 57_344 / 2))


@pytest.mark.parametrize("tied", [False, True])
def test_prefill_takes_two_operations_per_weight_and_token_but_for_the_output_layer(tied: bool) -> None:
    config = SEVEN_B_CONFIG | {"tie_word_embeddings": tied}
    assert roofline.prefill_limit(config, tflops=165) == pytest.approx(165e12 / (2 * (READ - 152_064 * 3584)))


def test_the_fastest_run_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 1, 10, 15, 20, 23, 30, 34])  # the runs take 1 (not counted), 5, 3 and 4 seconds
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert roofline.best_time(lambda: calls.append(1), repeats=3) == 3
    assert len(calls) == 4


def test_bandwidth_counts_bytes_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "best_time", lambda action: action() is None or 0.5)
    assert roofline.copy_bandwidth("cpu", gib=0.125) == pytest.approx(2 * 2**27 / 0.5 / 1e9)


def test_a_matrix_product_counts_two_operations_per_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "best_time", lambda action: action() is None or 2.0)
    assert roofline.matmul_rate("cpu", "float32", size=100) == pytest.approx(2 * 100**3 / 2 / 1e12)
