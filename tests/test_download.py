"""The real ModelScope SDK against the mirror. Each fault ends in a model that is whole, or that is refused."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from download_kit import MODEL_ID, WEIGHTS, Fault, make_model, start_download
from modelscope_hub.config import set_default_config

from helpers.classroom.mirror import Mirror, classroom_hub
from helpers.config import REPO_ROOT, Profile, get_profile
from helpers.errors import DownloadError, ModelError
from helpers.models import check_model, explain_download_error, find_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror of one tiny model, already set as this process's hub; nothing is written outside tmp_path."""
    make_model(tmp_path / "mirrored" / MODEL_ID)
    with Mirror(tmp_path / "mirrored") as mirror:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", mirror.endpoint)
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        set_default_config(None)  # the SDK reads both variables once per process
        yield mirror
    set_default_config(None)


@pytest.fixture
def weights(hub: Mirror, tmp_path: Path) -> bytes:
    return (tmp_path / "mirrored" / MODEL_ID / WEIGHTS).read_bytes()


def download(**options: Any) -> Path:
    from modelscope import snapshot_download

    return Path(snapshot_download(MODEL_ID, **options))


def harm(mirror: Mirror, **fault: Any) -> Fault:
    """Put a fault between the mirror and whoever asks it."""
    address = int(mirror.endpoint.rsplit(":", 1)[1])
    mirror.stop()
    mirror.app = harmful = Fault(mirror.app, **fault)
    mirror._address = ("127.0.0.1", address)
    mirror.start()
    return harmful


def profile(model_dir: Path, *, name: str = "gpu") -> Profile:
    return replace(get_profile({"TUTORIAL_PROFILE": name}), model_id=MODEL_ID, model_dir=model_dir)


def test_local_dir_gets_every_file_and_a_second_call_transfers_none(hub: Mirror, tmp_path: Path) -> None:
    folder = download(local_dir=tmp_path / "m")
    assert folder == tmp_path / "m" == find_model(profile(tmp_path / "m"))
    source = tmp_path / "mirrored" / MODEL_ID
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in source.iterdir()}
    assert hub.sent_bytes == sum(f.stat().st_size for f in source.iterdir())
    hub.served.clear()
    assert download(local_dir=tmp_path / "m") == folder
    assert hub.sent_bytes == 0 and [entry.path[-6:] for entry in hub.served] == ["/files"]


@pytest.mark.parametrize("where", ["MODELSCOPE_CACHE", "above model_dir"])
def test_the_new_cache_layout_is_found(
    where: str, hub: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "disk" if where == "above model_dir" else None
    folder = download(cache_dir=cache)
    assert folder == (cache or tmp_path / "cache") / "models" / "classroom--Tiny" / "snapshots" / "master"
    if cache is None:
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    assert find_model(profile(tmp_path / "disk" / "models" / MODEL_ID)) == folder


def test_a_cut_connection_is_resumed_where_it_stopped(hub: Mirror, weights: bytes, tmp_path: Path) -> None:
    fault = harm(hub, cut_after=1_500_000)
    folder = download(local_dir=tmp_path / "m")
    assert (folder / WEIGHTS).read_bytes() == weights
    ranges = [entry.range for entry in hub.served if entry.file == WEIGHTS]
    assert len(ranges) == 2 and ranges[0] == "" and ranges[1].startswith("bytes=")
    resumed_at = int(ranges[1][6:-1])
    assert 0 < resumed_at <= 1_500_000 and fault.delivered == [1_500_000, len(weights) - resumed_at]


def test_a_flipped_byte_on_the_way_is_found_and_mended(hub: Mirror, weights: bytes, tmp_path: Path) -> None:
    fault = harm(hub, flip_at=2_000_000)
    folder = download(local_dir=tmp_path / "m")
    assert fault.delivered == [len(weights)] * 2 and (folder / WEIGHTS).read_bytes() == weights


def test_a_flipped_byte_on_the_disk_is_found_and_mended(hub: Mirror, weights: bytes, tmp_path: Path) -> None:
    folder = download(local_dir=tmp_path / "m")
    broken = bytearray(weights)
    broken[-5] ^= 1
    (folder / WEIGHTS).write_bytes(broken)
    hub.served.clear()
    download(local_dir=tmp_path / "m")
    assert hub.sent_bytes == len(weights) and (folder / WEIGHTS).read_bytes() == weights


def test_a_hub_that_keeps_sending_a_wrong_byte_leaves_no_model(hub: Mirror, tmp_path: Path) -> None:
    fault = harm(hub, flip_at=2_000_000, times=9)
    with pytest.raises(Exception) as caught:
        download(local_dir=tmp_path / "m")
    assert len(fault.delivered) == 3 and "校验" in explain_download_error(caught.value)
    with pytest.raises(ModelError, match=WEIGHTS):
        check_model(tmp_path / "m")


def test_killed_in_the_middle_it_is_refused_and_then_finished(hub: Mirror, weights: bytes, tmp_path: Path) -> None:
    fault = harm(hub, pause_s=0.4)
    partial = tmp_path / "m" / f"{WEIGHTS}.incomplete"
    process = start_download(hub.endpoint, tmp_path / "cache", local_dir=tmp_path / "m")
    wait_for(lambda: partial.exists() and partial.stat().st_size >= 1 << 20)
    process.kill()
    process.communicate()
    with pytest.raises(ModelError, match="临时文件"):
        check_model(tmp_path / "m")
    with pytest.raises(ModelError, match="临时文件"):
        find_model(profile(tmp_path / "m"))
    rest = len(weights) - partial.stat().st_size
    fault.pause_s = 0
    folder = download(local_dir=tmp_path / "m")
    assert fault.delivered[-1] == rest < len(weights) and (folder / WEIGHTS).read_bytes() == weights
    assert check_model(folder).weight_bytes == 3_000_000


def test_two_processes_share_one_download(hub: Mirror, weights: bytes, tmp_path: Path) -> None:
    fault = harm(hub, pause_s=0.2, times=0)
    both = [start_download(hub.endpoint, tmp_path / "cache", local_dir=tmp_path / "m") for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert fault.delivered == [len(weights)], "the second process waits for the first and takes its file"
    assert check_model(tmp_path / "m").weight_bytes == 3_000_000


def test_a_full_disk_is_named_and_leaves_no_model(hub: Mirror, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        with pytest.raises(Exception) as caught:
            download(local_dir=disk / "m")
        assert "磁盘满了" in explain_download_error(caught.value)
        with pytest.raises(ModelError):
            check_model(disk / "m")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_unknown_id_is_named_with_what_the_mirror_has(hub: Mirror, tmp_path: Path) -> None:
    from modelscope import snapshot_download

    with pytest.raises(Exception) as caught:
        snapshot_download("classroom/Nope", local_dir=tmp_path / "m")
    message = explain_download_error(caught.value)
    assert "classroom/Nope" in message and MODEL_ID in message
    with pytest.raises(Exception, match="v9"):
        download(revision="v9", local_dir=tmp_path / "m")


def test_the_lessons_download_cell_ends_in_one_sentence(hub: Mirror, tmp_path: Path) -> None:
    from modelscope import snapshot_download

    lesson = nbformat.read(REPO_ROOT / "notebooks" / "02_download.ipynb", as_version=4)
    [cell] = [cell.source for cell in lesson.cells if "model_dir = snapshot_download(" in cell.source]
    unknown = replace(profile(tmp_path), model_id="a/Nope")
    names = globals() | {"snapshot_download": snapshot_download, "profile": unknown}
    with pytest.raises(DownloadError, match="a/Nope") as caught:
        exec(cell, names)
    assert caught.value.__suppress_context__ and "\n" not in str(caught.value)
    assert "model_dir" not in names, "no later cell goes on with a path that is not there"


def test_only_the_classroom_gets_a_hub_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://10.0.0.5:8090")
    assert classroom_hub(profile(tmp_path)) is None
    assert os.environ["MODELSCOPE_ENDPOINT"] == "http://10.0.0.5:8090"


def test_an_unreachable_hub_is_named_with_its_address(hub: Mirror, tmp_path: Path) -> None:
    hub.stop()
    with pytest.raises(Exception) as caught:
        download(local_dir=tmp_path / "m")
    assert hub.endpoint.removeprefix("http://") in explain_download_error(caught.value)


def test_a_whole_copy_is_used_offline(hub: Mirror, tmp_path: Path) -> None:
    folder = download(local_dir=tmp_path / "m")
    hub.stop()
    assert download(local_dir=tmp_path / "m", local_files_only=True) == folder


def test_patterns_fetch_only_what_matches(hub: Mirror, tmp_path: Path) -> None:
    folder = download(local_dir=tmp_path / "m", allow_patterns=["*.json"])
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    with pytest.raises(ModelError, match=WEIGHTS):
        check_model(folder)
    assert list(download(local_dir=tmp_path / "none", allow_patterns=["figures/*"]).iterdir()) == []


def test_one_file_alone_is_checked_too(hub: Mirror, weights: bytes, tmp_path: Path) -> None:
    from modelscope import model_file_download

    fault = harm(hub, flip_at=10)
    file = Path(model_file_download(MODEL_ID, WEIGHTS, local_dir=str(tmp_path / "m")))
    assert file.read_bytes() == weights and len(fault.delivered) == 2


def wait_for(condition: Any, *, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)
