"""helpers.models: sizes from config.json, whole and broken folders, and every place where a model may lie."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from download_kit import MODEL_ID, TINY, WEIGHTS, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.config import REPO_ROOT, Profile, get_profile
from helpers.errors import ModelError
from helpers.models import (
    SEVEN_B_CONFIG,
    ModelSize,
    check_model,
    explain_download_error,
    find,
    find_model,
    model_size,
)
from helpers.models.size import CARD_24GB_GIB, RUNTIME_GIB, context_that_fits, kv_budget_gib, quantized_gib

SHARD = "model-00002-of-000002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "m", weights=100)


def profile(model_dir: Path, *, name: str = "gpu", model_id: str = MODEL_ID) -> Profile:
    return replace(get_profile({"TUTORIAL_PROFILE": name}), model_id=model_id, model_dir=model_dir)


# --- sizes


def test_the_published_shape_gives_the_published_figures() -> None:
    size = model_size(SEVEN_B_CONFIG)
    assert size == ModelSize(7_615_616_512, 7_615_616_512 * 2 / 1024**3, 56 * 1024, 6_525_288_448)
    assert round(size.weights_gib, 1) == 14.2


def test_the_lessons_table_says_what_its_lines_compute() -> None:
    """Each row: a name in the lesson's `count_parameters`, and its value for the 7B."""
    lesson = nbformat.read(REPO_ROOT / "notebooks" / "02_download.ipynb", as_version=4)
    [code] = [cell.source for cell in lesson.cells if "def count_parameters" in cell.source]
    [table] = [cell.source for cell in lesson.cells if "| 这一行代码 |" in cell.source]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \|$", table, re.MULTILINE))
    names: dict[str, Any] = {"c": SEVEN_B_CONFIG}
    *lines, last = ast.parse(code).body[0].body  # type: ignore[attr-defined]
    exec(compile(ast.Module(lines, []), "lesson", "exec"), names)
    assert {name: int(value.replace(",", "")) for name, value in rows.items()} == {name: names[name] for name in rows}
    assert len(rows) == 7 and eval(ast.unparse(last.value), names) == 7_615_616_512


@pytest.mark.parametrize(
    "change", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4, "num_hidden_layers": 3}]
)
def test_the_count_is_that_of_a_real_checkpoint(change: dict[str, Any], tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {key: value for key, value in (TINY | change).items() if key != "model_type"}
    Qwen2ForCausalLM(Qwen2Config(**shape)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    files, size = check_model(tmp_path), model_size(tmp_path, bytes_per_weight=4)
    assert size.parameters == files.parameters and files.weight_bytes == 4 * size.parameters
    assert size.weights_gib == pytest.approx(files.weight_bytes / 1024**3)
    heads = shape["num_key_value_heads"]
    assert size.kv_bytes_per_token == 2 * shape["num_hidden_layers"] * heads * 4 * 4  # head_dim 16/4, float32


def test_matrices_of_the_layers_are_those_of_a_real_model() -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in SEVEN_B_CONFIG.items() if k != "model_type"}))
    matrices = [weight for name, weight in model.model.layers.named_parameters() if weight.dim() == 2]
    assert model_size(SEVEN_B_CONFIG).weights_in_layers == sum(weight.numel() for weight in matrices)


def test_quantization_leaves_both_ends_of_the_vocabulary_alone() -> None:
    four, eight = (quantized_gib(SEVEN_B_CONFIG, bits=bits, group=group) for bits, group in [(4, 128), (8, None)])
    assert (round(four, 1), round(eight, 1)) == (5.2, 8.1)
    assert quantized_gib(SEVEN_B_CONFIG, bits=16) == pytest.approx(model_size(SEVEN_B_CONFIG).weights_gib)
    assert quantized_gib(SEVEN_B_CONFIG, bits=4) < four < quantized_gib(SEVEN_B_CONFIG, bits=4, group=32)


@pytest.mark.parametrize(
    ("kv_gib", "length"), [(40, 32768), (3.6, 32768), (3.4, 16384), (1.7, 8192), (0.4, 2048), (0.2, None), (-1, None)]
)
@pytest.mark.parametrize("utilization", [0.9, 0.5])
def test_the_context_is_the_largest_of_which_two_fit(kv_gib: float, utilization: float, length: int | None) -> None:
    size = model_size(SEVEN_B_CONFIG)  # by hand: two requests of 32768 tokens, 56 KiB each, are 3.5 GiB
    card_gib = (size.weights_gib + RUNTIME_GIB + kv_gib) / utilization
    assert kv_budget_gib(card_gib, size.weights_gib, utilization=utilization) == pytest.approx(kv_gib)
    assert context_that_fits(card_gib, size, utilization=utilization) == length


def test_a_24_gb_card_has_room_for_a_reasoning_model() -> None:
    assert context_that_fits(CARD_24GB_GIB, model_size(SEVEN_B_CONFIG)) == 32768


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"]
)
@pytest.mark.parametrize("value", [None, 0, -1, "28", 2.5, True, []])
def test_a_number_that_cannot_be_is_named(key: str, value: object) -> None:
    with pytest.raises(ModelError, match=key):
        model_size({**SEVEN_B_CONFIG, key: value})


@pytest.mark.parametrize("config", [None, [], 7, {}, {**SEVEN_B_CONFIG, "model_type": "llama"}])
def test_no_qwen2_config_is_refused(config: Any) -> None:
    with pytest.raises(ModelError):
        model_size(config)


@pytest.mark.parametrize("width", [0, -2, float("nan"), None, "2"])
def test_no_width_is_refused(width: Any) -> None:
    with pytest.raises(ModelError, match="bytes_per_weight"):
        model_size(SEVEN_B_CONFIG, bytes_per_weight=width)


# --- whole or not


def test_a_whole_folder_is_counted(tmp_path: Path) -> None:
    found = check_model(make_model(tmp_path / "m", weights=100, shards=2))
    assert (found.parameters, found.weight_bytes) == (200, 800)
    assert [file.name for file in found.weight_files] == ["model-00001-of-000002.safetensors", SHARD]
    assert check_model(str(tmp_path / "m")) == found


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


BREAKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no config": ("config.json", Path.unlink),
    "empty config": ("config.json", lambda f: f.write_bytes(b"")),
    "cut config": ("config.json", cut),
    "config is a list": ("config.json", lambda f: f.write_text("[]")),
    "config is no UTF-8": ("config.json", lambda f: f.write_bytes(b'{"a": "\xff\xfe"}')),
    "config is nested without end": ("config.json", lambda f: f.write_text("[" * 100_000)),
    "config is a folder": ("config.json", lambda f: (f.unlink(), f.mkdir())),
    "no tokenizer": ("tokenizer.json", Path.unlink),
    "cut tokenizer": ("tokenizer.json", cut),
    "no tokenizer config": ("tokenizer_config.json", Path.unlink),
    "missing shard": (SHARD, Path.unlink),
    "empty shard": (SHARD, lambda f: f.write_bytes(b"")),
    "shard cut in the header": (SHARD, lambda f: os.truncate(f, 20)),
    "shard one byte short": (SHARD, cut),
    "shard one byte long": (SHARD, lambda f: f.write_bytes(f.read_bytes() + b"\0")),
    "shard is a web page": (SHARD, lambda f: f.write_text("<html>404 Not Found</html>")),
    "header longer than memory": (SHARD, lambda f: f.write_bytes(struct.pack("<Q", 2**63) + b"{}")),
    "header is a list": (SHARD, lambda f: f.write_bytes(struct.pack("<Q", 2) + b"[]")),
    "header without shapes": (SHARD, lambda f: f.write_bytes(struct.pack("<Q", 10) + b'{"w": {}}\n')),
    "cut index": ("model.safetensors.index.json", cut),
    "index without map": ("model.safetensors.index.json", lambda f: f.write_text('{"weight_map": []}')),
    "unfinished file": (f"{WEIGHTS}.incomplete", Path.touch),
    "unfinished part": (f"{WEIGHTS}_0_167772159", Path.touch),
    "unfinished merge": (f"{WEIGHTS}.parallel_tmp", Path.touch),
    "git-lfs pointer": (SHARD, lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")),
    "pointer for JSON": ("tokenizer.json", lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\n")),
    "tokenizer is a web page": ("tokenizer.json", lambda f: f.write_text("<!DOCTYPE html><html>")),
    "broken link": (SHARD, lambda f: (f.unlink(), f.symlink_to("../../blobs/gone"))),
    "link to itself": ("config.json", lambda f: (f.unlink(), f.symlink_to(f))),
}
# of aria2, wget and lftp, browsers, rsync, Xunlei, BitTorrent, WinSCP, Baidu
LEFTOVERS = [
    f"{WEIGHTS}.aria2", f"{WEIGHTS}.aria2__temp", f"{WEIGHTS}.part", f"{WEIGHTS}.partial", f"{WEIGHTS}.crdownload",
    "Unconfirmed 12345.crdownload", f"{WEIGHTS}.downloading", f"{WEIGHTS}.baiduyun.p.downloading", f"{WEIGHTS}.tmp",
    f"{WEIGHTS}.download", f"{WEIGHTS}.!qB", f"{WEIGHTS}.!ut", f"{WEIGHTS}.xltd", f"{WEIGHTS}.td.cfg", f"{WEIGHTS}.st",
    f"{WEIGHTS}.filepart", f"{WEIGHTS}.opdownload", f"{WEIGHTS}.lftp-pget-status", f".{WEIGHTS}.Ab12Cd", "a.PART",
]  # fmt: skip
HARMLESS = [
    ".lock", f"{WEIGHTS}.lock", ".mdl", ".msc", ".mv", ".gitattributes", "README.md", "notes.tmp", "LICENSE", "a.td.py",
    "figures", "partial_results.json", "download.py", "chat_template.jinja", f"{WEIGHTS}.1", f"{WEIGHTS}.sha256",
]  # fmt: skip


@pytest.mark.parametrize("fault", BREAKS)
def test_a_broken_folder_is_refused_by_the_name_of_the_file(fault: str, tmp_path: Path) -> None:
    name, harm = BREAKS[fault]
    folder = make_model(tmp_path / "m", weights=100, shards=2)
    harm(folder / name)
    with pytest.raises(ModelError) as caught:
        check_model(folder)
    assert str(folder / name) in str(caught.value)
    with pytest.raises(ModelError) as caught:
        find_model(profile(folder))
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_another_program_left_beside_whole_files_is_refused_by_name(name: str, folder: Path) -> None:
    (folder / name).touch()
    with pytest.raises(ModelError, match="没下完") as caught:
        check_model(folder)
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_leftover_does_no_harm(name: str, folder: Path) -> None:
    (folder / name).touch()
    assert check_model(folder).parameters == 100


@pytest.mark.parametrize(
    ("fault", "says"),
    [("git-lfs pointer", "git-lfs"), ("pointer for JSON", "git-lfs"), ("tokenizer is a web page", "网页"),
     ("broken link", "../../blobs/gone"), ("shard is a web page", "网页")],
)  # fmt: skip
def test_a_file_of_another_kind_is_called_what_it_is(fault: str, says: str, tmp_path: Path) -> None:
    name, harm = BREAKS[fault]
    folder = make_model(tmp_path / "m", weights=100, shards=2)
    harm(folder / name)
    with pytest.raises(ModelError, match=says):
        check_model(folder)


def test_a_link_to_a_folder_that_is_gone_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "m").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelError, match="失效的链接"):
        check_model(tmp_path / "m")


def test_a_single_missing_weight_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=WEIGHTS):
        check_model(folder)


@pytest.mark.parametrize("path", [None, 7, b"\xff", "", "/nowhere", "a\0b", "x" * 5000, Path(__file__)])
def test_no_folder_is_refused(path: Any) -> None:
    with pytest.raises(ModelError, match=r"没有模型文件夹|要一个模型文件夹"):
        check_model(path)


@settings(max_examples=200, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.binary(max_size=80).map(lambda b: struct.pack("<Q", len(b)) + b)))
def test_any_bytes_as_weights_are_refused_with_our_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-bytes"
    if not folder.exists():
        make_model(folder, weights=10)
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=WEIGHTS):
        check_model(folder)


# --- where it lies


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "none"))


@pytest.mark.parametrize(
    "place",
    [
        "models/acme--R1.5-7B/snapshots/master",
        "models/acme--R1.5-7B/snapshots/v1.0",
        "acme/R1.5-7B",
        "acme/R1___5-7B",
        "hub/acme/R1.5-7B",
        "hub/models/acme/R1___5-7B",
        "models/acme/R1___5-7B",
        "models/acme/R1.5-7B",
        "models--acme--R1.5-7B/snapshots/0a1b2c",
        "hub/models--acme--R1.5-7B/snapshots/0a1b2c",
    ],
)
@pytest.mark.parametrize("root", ["MODELSCOPE_CACHE", "home", "above"])
def test_every_cache_layout_is_found(root: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cache = {"home": tmp_path / "home/.cache/modelscope", "above": tmp_path / "disk"}.get(root, tmp_path / "cache")
    monkeypatch.delenv("MODELSCOPE_CACHE")
    if root == "MODELSCOPE_CACHE":
        monkeypatch.setenv("MODELSCOPE_CACHE", str(cache))
    wanted = profile(tmp_path / "disk" / "weights" / "acme" / "mine", model_id="acme/R1.5-7B")
    with pytest.raises(ModelError):
        find_model(wanted)
    folder = make_model(cache / place, weights=10)
    assert find_model(wanted) == folder


def test_model_dir_comes_before_the_cache_and_master_before_other_revisions(tmp_path: Path) -> None:
    snapshots = tmp_path / "none" / "models" / "classroom--Tiny" / "snapshots"
    make_model(snapshots / "aaa", weights=10)
    make_model(snapshots / "master", weights=10)
    wanted = profile(tmp_path / "a" / "b" / "m")
    assert find_model(wanted) == snapshots / "master"
    (snapshots / "master" / WEIGHTS).unlink()
    assert find_model(wanted) == snapshots / "aaa"
    make_model(wanted.model_dir, weights=10)
    assert find_model(wanted) == wanted.model_dir


@pytest.mark.parametrize("below", ["", "models--acme--Tiny", "models/acme--Tiny", "hub/models--acme--Tiny"])
def test_the_top_of_a_cache_leads_down_to_the_revision_it_names(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Hugging Face keeps it: links into `blobs`, and `refs/main` says which of the revisions is meant."""
    top = tmp_path / "disk" / below
    wanted, blobs = top / "snapshots" / "0a1b2c", make_model(top / "blobs", weights=10)
    for revision in (wanted, top / "snapshots" / "ffffff"):
        revision.mkdir(parents=True)
        for blob in blobs.iterdir():
            (revision / blob.name).symlink_to(Path("../../blobs") / blob.name)
    (top / "refs").mkdir()
    (top / "refs" / "main").write_text("0a1b2c")
    named = replace(profile(tmp_path / "disk", model_id="acme/Tiny"), model_dir_is_named=True)
    assert find_model(named) == wanted
    assert str(wanted) in capsys.readouterr().out
    with pytest.raises(ModelError, match="snapshots/0a1b2c"):
        check_model(top)
    (blobs / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="失效的链接"):
        find_model(named)


def test_the_shipped_model_serves_the_classroom_profile_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = make_model(tmp_path / "shipped", weights=10)
    monkeypatch.setattr(find, "CLASSROOM_MODEL_DIR", shipped)
    assert find_model(profile(tmp_path / "a/b/m", name="classroom")) == shipped
    with pytest.raises(ModelError, match="02 号笔记本") as caught:
        find_model(profile(tmp_path / "a/b/m"))
    assert str(tmp_path / "a/b/m") in str(caught.value) and str(tmp_path / "none") in str(caught.value)


def test_a_broken_folder_that_the_reader_named_is_not_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "CLASSROOM_MODEL_DIR", make_model(tmp_path / "shipped", weights=10))
    mine = make_model(tmp_path / "mine", weights=10)
    (mine / "tokenizer.json").unlink()
    wanted = profile(mine, name="classroom")
    assert find_model(wanted) == tmp_path / "shipped"
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        find_model(replace(wanted, model_dir_is_named=True))


def test_a_folder_that_the_reader_named_and_that_is_not_there_is_said_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = make_model(tmp_path / "shipped", weights=10)
    monkeypatch.setattr(find, "CLASSROOM_MODEL_DIR", shipped)
    wanted = profile(tmp_path / "mistyped", name="classroom")
    assert find_model(wanted) == shipped
    assert capsys.readouterr().out == ""
    assert find_model(replace(wanted, model_dir_is_named=True)) == shipped
    said = capsys.readouterr().out
    assert str(tmp_path / "mistyped") in said and str(shipped) in said


# --- why a download failed (errors of the real SDK are in test_download.py)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "磁盘满了"),
        (ConnectionError("HTTPConnectionPool(host='10.0.0.9', port=8090): refused"), "10.0.0.9:8090"),
        (TimeoutError(), "MODELSCOPE_ENDPOINT"),
        (ValueError("Expected one thing\nand more"), "ValueError）：Expected one thing"),
        (OSError("server refused to resume from byte 3722 (HTTP 416)"), "从断点接着传"),
        (KeyboardInterrupt(), "停下"),
        (ModelError("缺文件 a。"), "缺文件 a。"),
    ],
)
def test_any_error_becomes_one_line(error: BaseException, says: str) -> None:
    assert says in explain_download_error(error) and "\n" not in explain_download_error(error)


def test_the_error_of_the_file_that_failed_is_explained() -> None:
    error = RuntimeError("1 of 4 files failed")
    error.failed_files = {WEIGHTS: OSError(errno.ENOSPC, "full")}  # type: ignore[attr-defined]
    assert "磁盘满了" in explain_download_error(error) and WEIGHTS in explain_download_error(error)


MODEL_FILE = "/data/m/model.safetensors"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "配额"),
        (OSError(errno.EFBIG, "File too large"), "单个文件"),
        (OSError(errno.EROFS, "Read-only file system", MODEL_FILE), "只读"),
        (PermissionError(errno.EACCES, "Permission denied", MODEL_FILE), "权限"),
        (OSError(errno.EACCES, "Permission denied", "/root/.cache/modelscope/.lock"), "MODELSCOPE_CACHE"),
        (FileExistsError(errno.EEXIST, "File exists", "/data/m"), "挡住了路"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/data/m"), "文件夹"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", MODEL_FILE), "挡住了路"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), "太长"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "~/m/config.json"), "绝对路径"),
        (OSError(errno.EMFILE, "Too many open files"), "打开的文件太多"),
        (OSError(errno.ENOLCK, "No locks available"), "文件锁"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "没有联网"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "没有联网"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "下载失败"),  # of a socket: no disk to blame
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_who_is_to_blame_is_found_under_what_the_sdk_wraps_around_it(
    wrapped: bool, error: OSError, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELSCOPE_ENDPOINT", raising=False)
    outer = RuntimeError("下载 model.safetensors 在 5 次重试后失败：OSError")
    outer.__cause__ = error
    said = explain_download_error(outer if wrapped else error)
    assert says in said and "下一步" in said and len(said) < 400


def test_importing_loads_no_engine_and_no_sdk() -> None:
    import subprocess
    import sys

    code = "import json, sys, helpers.models, helpers.classroom.mirror; "
    code += "print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert not {"torch", "vllm", "modelscope", "modelscope_hub", "transformers", "numpy"} & set(loaded)
