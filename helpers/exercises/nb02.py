"""The exercises of notebook 02: what a download leaves on disk, and what fits on a card."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from helpers.exercises.judging import Judge, Wrong, call, kind, number, short
from helpers.models import SEVEN_B_CONFIG, model_size
from helpers.models.size import CARD_24GB_GIB, GIB, RUNTIME_GIB, kv_budget_gib

__all__ = ["JUDGES"]

TWO_FILES = {"config.json", "generation_config.json"}


def two_files(folder: object) -> None:
    if not isinstance(folder, str | os.PathLike):
        raise Wrong(f"要 snapshot_download 返回的路径，得到的是{kind(folder)}。")
    place = Path(folder)
    if not place.is_dir():
        raise Wrong(f"没有这个文件夹：{place}")
    found = {file.name for file in place.rglob("*") if file.suffix in (".json", ".jinja", ".safetensors")}
    unfinished = sorted(file.name for file in place.rglob("*.incomplete"))
    if unfinished:
        raise Wrong(f"{unfinished[0]} 还没有下完：再下载一次。")
    missing, extra = sorted(TWO_FILES - found), sorted(found - TWO_FILES)
    if missing:
        raise Wrong(f"文件夹里没有 {'、'.join(missing)}。")
    if extra:
        stale = "模式要是没有错，它可能是上一次留下的：交一个新的空文件夹。"
        raise Wrong(f"多下了 {'、'.join(extra[:3])}。{stale}")


def nothing_matched(missing: object) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, empty = Path(name, "model"), Path(name, "half")
        for file in ("config.json", "tokenizer.json", "model.safetensors.incomplete"):
            _write(folder / file)
        _write(folder / "figures" / "accuracy.png")
        _write(folder / "._____temp" / "generation_config.json")  # where older SDKs keep what is under way
        _write(empty / "model.safetensors.incomplete")
        (empty / "assets").mkdir()
        cases: list[tuple[Path, list[str], list[str], str]] = [
            (folder, ["*.json"], [], "文件夹里有两个 JSON"),
            (folder, ["*.jsn"], ["*.jsn"], "没有名字以 .jsn 结尾的文件"),
            (folder, ["config.json", "*.txt"], ["*.txt"], "config.json 有，*.txt 没有"),
            (folder, ["*.safetensors"], ["*.safetensors"], "权重只有一个 .incomplete，还没有下完"),
            (folder, ["*.bin", "tokenizer*", "*.pt"], ["*.bin", "*.pt"], "三个模式里有两个没有匹配到"),
            (folder, ["model*"], ["model*"], "匹配到的只有 model.safetensors.incomplete，它还没有下完"),
            (folder, ["fig*"], ["fig*"], "匹配到的 figures 是文件夹，不是文件"),
            (folder, ["*.png"], ["*.png"], "accuracy.png 在子文件夹里，不在这一层"),
            (folder, ["generation*"], ["generation*"], "generation_config.json 在隐藏的子文件夹里，还没有下完"),
            (empty, ["*"], ["*"], "里面只有一个文件夹和一个 .incomplete"),
        ]
        for place, patterns, wanted, note in cases:
            about = f"模式是 {patterns} 时"
            value = call(missing, place, list(patterns), about=about)
            if not isinstance(value, list | tuple | set):
                raise Wrong(f"{about}，要返回一个列表，得到的是{kind(value)}。")
            if sorted(map(str, value)) != sorted(wanted):
                raise Wrong(f"{about}，函数返回 {short(list(value))}。{note}。")


def _write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}", encoding="utf-8")


MODEL_ID = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
NEW, OLD = "models/deepseek-ai--DeepSeek-R1-Distill-Qwen-7B/snapshots", MODEL_ID


def _cache(root: Path, *folders: str, config: bool = True) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        if config:
            _write(root / folder / "config.json")
    return root


def three_paths(locate: object) -> None:
    with tempfile.TemporaryDirectory() as name:
        disk = Path(name)
        other = "models/Qwen--Qwen2.5-7B/snapshots/master"
        cases = [
            (_cache(disk / "new", f"{NEW}/master", other), f"{NEW}/master", "新版 SDK 下载的缓存"),
            (_cache(disk / "old", OLD), OLD, "旧版 SDK 下载的缓存"),
            (_cache(disk / "tag", f"{NEW}/v1.0"), f"{NEW}/v1.0", "revision 是 v1.0 的缓存"),
            (_cache(disk / "other", other), None, "缓存里只有别的模型"),
            (_cache(disk / "half", f"{NEW}/master", OLD, config=False), None, "文件夹建好了，里面还没有 config.json"),
            (disk / "autodl-temp", None, "cache_dir 拼错了，根本不存在"),
        ]
        for cache_dir, wanted, about in cases:
            value = call(locate, cache_dir, MODEL_ID, about=about)
            shown = str(value).replace(str(cache_dir), "<cache_dir>")
            if wanted is None and value is not None:
                raise Wrong(f"{about}，应该找不到，函数却返回 {shown}。")
            if wanted is not None and value is None:
                raise Wrong(f"{about}，模型在里面，函数却返回了 None。")
            if wanted is not None and (not isinstance(value, str | os.PathLike) or Path(value) != cache_dir / wanted):
                raise Wrong(f"{about}，函数返回 {shown}，那里没有 config.json。")


ONE_POINT_FIVE_B = SEVEN_B_CONFIG | {
    "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2,
    "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
KV_OF_7B = model_size(SEVEN_B_CONFIG).kv_bytes_per_token
ROOMS = [
    (SEVEN_B_CONFIG, CARD_24GB_GIB, "7B 在 24 GB 的卡上"),
    (SEVEN_B_CONFIG | {"num_key_value_heads": 28}, CARD_24GB_GIB, "没有 GQA 的 7B 在 24 GB 的卡上"),
    (SEVEN_B_CONFIG, 48.0, "7B 在 48 GiB 的卡上"),
    (ONE_POINT_FIVE_B, CARD_24GB_GIB, "Qwen2.5-1.5B 在 24 GB 的卡上"),
    (SEVEN_B_CONFIG, 16.0, "7B 在 16 GiB 的卡上"),
]  # fmt: skip


def room_on_card(tokens_that_fit: object) -> None:
    for config, card_gib, about in ROOMS:
        size = model_size(config)
        budget_gib = kv_budget_gib(card_gib, size.weights_gib)
        wanted = max(0.0, budget_gib * GIB / size.kv_bytes_per_token)
        value = number(call(tokens_that_fit, dict(config), card_gib, about=about))
        if abs(value - wanted) <= max(1.0, 0.005 * wanted):
            continue
        if not wanted:
            raise Wrong(f"{about}，权重都放不下，函数却返回 {value:.0f}。")
        slips = {
            2 * wanted: "K 和 V 要各算一份",
            (budget_gib + card_gib * 0.1) * GIB / size.kv_bytes_per_token: "只能用卡的九成",
            (budget_gib + RUNTIME_GIB) * GIB / size.kv_bytes_per_token: f"还要再减 {RUNTIME_GIB:g} GiB",
            budget_gib * GIB / KV_OF_7B: "每个 token 的字节数要从 config 里算，不能照抄 7B 的",
        }
        slip = next((said for slipped, said in slips.items() if abs(value - slipped) <= 0.001 * slipped), "")
        how = slip or ("多了" if value > wanted else "少了")
        raise Wrong(f"{about}，函数返回 {value:.0f}：{how}。")


JUDGES: dict[str, Judge] = {
    "02-1": two_files,
    "02-2": nothing_matched,
    "02-3": three_paths,
    "02-4": room_on_card,
}
