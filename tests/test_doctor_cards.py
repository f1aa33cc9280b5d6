"""Several cards: which one CUDA shows first, which one is best, and what the doctor says of it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import pytest

import helpers.doctor
from helpers.config import get_profile
from helpers.doctor import cards, fit, run_checks, smi, where
from helpers.doctor import gpu as card
from helpers.doctor.check import failed, ok, warned
from helpers.machine import cuda_gpus

GTX_1080 = "0, GPU-10aa, 580.95.05, 11264, [N/A], 11100, 6.1, [N/A], NVIDIA GeForce GTX 1080 Ti\n"
RTX_3090 = "1, GPU-30bb, 580.95.05, 24576, [N/A], 24300, 8.6, [N/A], NVIDIA GeForce RTX 3090\n"
FULL_3090 = "0, GPU-30cc, 580.95.05, 24576, [N/A], 500, 8.6, [N/A], NVIDIA GeForce RTX 3090\n"
LOST_3090 = "0, GPU-30dd, 580.95.05, [Unknown Error], [N/A], [Unknown Error], 8.6, [N/A], NVIDIA GeForce RTX 3090\n"
MIG = "0, GPU-ee, 580.65.06, [N/A], [N/A], [N/A], 9.0, Enabled, NVIDIA H100 80GB HBM3\n"
MIXED, ALIKE = GTX_1080 + RTX_3090, FULL_3090 + RTX_3090
PCI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("text", "variable", "order", "indices"),
    [
        (ALIKE, None, "", [0, 1]), (ALIKE, "1", "", [1]), (ALIKE, "1,0", "", [1, 0]), (ALIKE, " 0 , 1 ", "", [0, 1]),
        (ALIKE, "GPU-30bb", "", [1]), (ALIKE, "", "", []), (ALIKE, "-1", "", []), (ALIKE, "0,9,1", "", [0]),
        (ALIKE, "MIG-0f", "", []), (ALIKE, "all", "", []), (MIG, "MIG-0f3c", "", [0]),
        (MIXED, None, "", [1, 0]), (MIXED, "0", "", [1]), (MIXED, "GPU-10", "", [0]), (MIXED, "2", "", []),
        (MIXED, None, "PCI_BUS_ID", [0, 1]), (MIXED, "0", "PCI_BUS_ID", [0]), (MIXED, None, "FASTEST_FIRST", [1, 0]),
    ],
)  # fmt: skip
def test_cards_that_cuda_shows(text, variable, order, indices):
    environ = {"CUDA_DEVICE_ORDER": order} | ({} if variable is None else {"CUDA_VISIBLE_DEVICES": variable})
    assert [gpu.index for gpu in cards.visible_gpus(smi.parse_gpus(text), environ)] == indices


def test_best_card():
    good, poor, bad = ok("a", ""), warned("a", "", "x"), failed("a", "", "x")
    assert cards.best([[bad, good], [poor, poor]]) == 1
    assert cards.best([[good, poor], [good, good]]) == 1
    assert cards.best([[good], [good]]) == 0


SMI_L = """GPU 0: NVIDIA H100 (UUID: GPU-aa11)
  MIG 3g.40gb     Device  0: (UUID: MIG-bb22)
GPU 1: NVIDIA H100 (UUID: GPU-cc33)
"""


def fake_smi(folder: Path, *, listed: str = "", queried: str = "", apps: str = "", status: int = 0) -> None:
    for name, text in {"listed": listed, "queried": queried, "apps": apps}.items():
        (folder / name).write_text(text)
    file = folder / "nvidia-smi"
    file.write_text(
        f"#!/bin/sh\ncd {folder}\ncase $1 in -L) cat listed;; *compute-apps*) cat apps;; *) cat queried;; esac\n"
        f"exit {status}\n"
    )
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("variable", "numbers"),
    [
        (None, "01"), ("", ""), ("-1", ""), ("1", "1"), ("1,0", "10"), ("0,7,1", "0"), ("GPU-cc33", "1"),
        ("MIG-bb22", "0"), ("GPU-zz", ""), ("x", ""),
    ],
)  # fmt: skip
def test_cards_counted_without_cuda(variable, numbers, tmp_path, monkeypatch):
    fake_smi(tmp_path, listed="Unable to determine the device handle for GPU2: Unknown Error\n" + SMI_L, status=15)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [line[4] for line in cuda_gpus()] == list(numbers)


def doctor(folder: Path, queried: str, *, apps: str = "", **environ: str) -> dict[str, dict[str, str]]:
    """The doctor's lines on a machine whose `nvidia-smi` answers with `queried`."""
    fake_smi(folder, queried=queried, apps=apps)
    clean = {name: text for name, text in os.environ.items() if not name.startswith("CUDA_")}
    path = {"TUTORIAL_PROFILE": "gpu", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    terminal = mock.patch.object(where, "in_kernel", return_value=False)  # the plugins of pytest load ipykernel
    with mock.patch.dict(os.environ, clean | path | environ, clear=True), terminal:
        return {check.name: asdict(check) for check in run_checks(get_profile())}


def use_of(index: int) -> str:
    return f"export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={index}"


@pytest.mark.parametrize(
    ("text", "environ", "status", "index"),
    [
        (RTX_3090.replace("1,", "0,", 1), {}, "OK", None),
        (MIXED, {}, "WARN", 1),  # CUDA most likely takes the 3090; nobody should have to guess
        (MIXED, PCI, "FAIL", 1),
        (MIXED, PCI | {"CUDA_VISIBLE_DEVICES": "1"}, "OK", None),
        (MIXED, {"CUDA_VISIBLE_DEVICES": "GPU-30bb"}, "OK", None),
        (MIXED, {"CUDA_VISIBLE_DEVICES": "GPU-30"}, "WARN", 1),
        (ALIKE, {}, "FAIL", 1),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "1"}, "OK", None),
        (ALIKE, {"CUDA_VISIBLE_DEVICES": "1,2,3"}, "WARN", 1),
        (LOST_3090 + RTX_3090, {}, "FAIL", 1),
    ],
)
def test_the_best_card_is_judged_and_named(text, environ, status, index, tmp_path):
    lines = doctor(tmp_path, text, **environ)
    assert lines[cards.USE]["status"] == status
    assert lines[cards.USE]["fix"] == ("" if index is None else use_of(index))
    for name in (card.CARD, fit.FIT, fit.FREE):
        assert lines[name]["status"] == "OK"
        assert "显卡 1" in lines[name]["found"] or text.count("\n") == 1


def test_one_card_that_somebody_uses(tmp_path):
    lines = doctor(tmp_path, FULL_3090, apps="99999999, 24000, GPU-30cc, python3\n")
    assert [lines[name]["status"] for name in (card.DRIVER, cards.USE, card.CARD, fit.FIT)] == ["OK"] * 4
    assert lines[fit.FREE]["status"] == "FAIL"
    assert "python3 23.4 GiB" in lines[fit.FREE]["found"]
    assert "99999999" not in str(lines[fit.FREE])  # nobody here has that number


def test_only_cards_that_fail(tmp_path):
    lines = doctor(tmp_path, ALIKE, CUDA_VISIBLE_DEVICES="0")
    assert lines[cards.USE]["status"] == "OK"  # no other card is visible: the line of the memory says what is wrong
    assert lines[fit.FREE]["status"] == "FAIL"
    lines = doctor(tmp_path, GTX_1080 + GTX_1080.replace("0, GPU-10", "1, GPU-11"))
    assert lines[card.CARD]["status"] == "FAIL"


@pytest.mark.parametrize(
    ("variable", "word"), [("", "空的"), ("-1", "一张也不用"), ("4", "编号有 0、1"), ("GPU-9", "GPU-9")]
)
def test_hidden_cards(variable, word, tmp_path):
    lines = doctor(tmp_path, ALIKE, CUDA_VISIBLE_DEVICES=variable)
    assert (lines[cards.USE]["status"], lines[cards.USE]["fix"]) == ("FAIL", "unset CUDA_VISIBLE_DEVICES")
    assert word in lines[cards.USE]["found"]
    assert cards.USE in lines[fit.FREE]["fix"]
    assert lines[card.DRIVER]["status"] == "OK"


@pytest.mark.parametrize(("variable", "status"), [("-1", "FAIL"), ("0", "OK"), (None, "OK")])
def test_cards_hidden_from_a_machine_without_the_cpu_build(variable, status, tmp_path, monkeypatch):
    """There `classroom` was chosen only because no card is visible."""
    fake_smi(tmp_path, queried=ALIKE)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(helpers.doctor, "installed_version", lambda name: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    lines = {check.name: check for check in run_checks(get_profile({"TUTORIAL_PROFILE": "classroom"}))}
    assert lines[cards.USE].status == status
