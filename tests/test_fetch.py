"""`python -m helpers.models`, as `make tutorial` calls it on a machine with a card. The hub is the course's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from download_kit import make_model

from helpers.classroom.mirror import Mirror
from helpers.config import REPO_ROOT
from helpers.errors import DownloadError
from helpers.models import check_model
from helpers.models.__main__ import fetch

SEVEN_B = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    make_model(tmp_path / "site" / SEVEN_B, weights=1000)
    with Mirror(tmp_path / "site") as mirror:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", mirror.endpoint)
        yield mirror


def command(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"TUTORIAL_PROFILE": "gpu", "TUTORIAL_MODEL_DIR": str(folder)} | environ
    words = [sys.executable, "-m", "helpers.models"]
    return subprocess.run(words, cwd=REPO_ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_it_downloads_a_whole_model_once(hub: Mirror, tmp_path: Path) -> None:
    first = command(tmp_path / "model")
    assert first.returncode == 0 and str(tmp_path / "model") in first.stdout
    assert check_model(tmp_path / "model").weight_files
    hub.served.clear()
    assert command(tmp_path / "model").returncode == 0
    assert not hub.served


def test_the_classroom_needs_no_download(tmp_path: Path) -> None:
    done = command(tmp_path / "model", TUTORIAL_PROFILE="classroom", MODELSCOPE_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0 and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "environ"),
    [("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", {}), ("someone/Else", {"TUTORIAL_MODEL": "someone/Else"})],
)
def test_without_a_card_it_downloads_the_small_one_or_the_named_one(
    name: str, environ: dict[str, str], hub: Mirror, tmp_path: Path
) -> None:
    make_model(tmp_path / "site" / name, weights=500)
    done = command(tmp_path / "model", TUTORIAL_PROFILE="cpu", **environ)
    assert done.returncode == 0, done.stderr
    assert check_model(tmp_path / "model").parameters == 500


def test_without_a_hub_it_ends_in_a_sentence(tmp_path: Path) -> None:
    done = command(tmp_path / "model", MODELSCOPE_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "下一步" in done.stderr and "Traceback" not in done.stderr


def test_no_gigabyte_moves_where_the_disk_has_no_room(
    hub: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**8))
    with pytest.raises(DownloadError, match="TUTORIAL_MODEL_DIR"):
        fetch(SEVEN_B, tmp_path / "model")
    assert hub.sent_bytes == 0


@pytest.mark.parametrize(("model", "refused"), [("32b", True), ("7b", False)])
def test_no_gigabyte_moves_for_a_model_that_the_card_cannot_hold(
    model: str, refused: bool, hub: Mirror, tmp_path: Path
) -> None:
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\n[ $1 = -L ] && echo 'GPU 0: RTX 4090 (UUID: GPU-1)' || echo GPU-1, [N/A], 24564, 400\n")
    smi.chmod(0o755)
    done = command(tmp_path / "model", TUTORIAL_MODEL=model, PATH=f"{smi.parent}:{os.environ['PATH']}")
    assert (done.returncode, bool(hub.served)) == ((1, False) if refused else (0, True))
    assert ("TUTORIAL_MODEL" in done.stderr) is refused
