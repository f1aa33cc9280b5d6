"""What lies under the packages, from recorded inputs: WSL, glibc, headers, FlashInfer's tools."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from helpers.doctor import system

PIN = "VLLM_WSL2_ENABLE_PIN_MEMORY"


@pytest.mark.parametrize(
    ("release", "environ", "gpu", "status", "fix"),
    [
        ("6.8.0-45-generic", {}, True, "OK", ""),
        ("5.15.167.4-microsoft-standard-WSL2", {}, True, "WARN", f"export {PIN}=1"),
        ("5.15.167.4-microsoft-standard-WSL2", {PIN: "1"}, True, "OK", ""),
        ("5.15.167.4-microsoft-standard-WSL2", {PIN: "0"}, True, "FAIL", f"export {PIN}=1"),
        ("5.15.167.4-microsoft-standard-WSL2", {}, False, "OK", ""),
        ("4.19.104-microsoft-standard", {}, True, "FAIL", "wsl --update"),
        ("4.19.121-microsoft-standard", {}, True, "WARN", PIN),
        ("4.4.0-19041-Microsoft", {}, True, "FAIL", "--set-version"),
        ("4.4.0-19041-Microsoft", {}, False, "WARN", "--set-version"),
    ],
)
def test_wsl(release, environ, gpu, status, fix):
    check = system.check_wsl(release, environ, gpu=gpu)
    assert check.status == status
    assert fix in check.fix


@pytest.mark.parametrize(
    ("library", "gpu", "status"),
    [
        (("glibc", "2.35"), True, "OK"),
        (("glibc", "2.34"), True, "OK"),
        (("glibc", "2.31"), True, "WARN"),
        (("glibc", "2.31"), False, "OK"),
        (("glibc", "2.28"), True, "FAIL"),
        (("glibc", "2.17"), False, "FAIL"),
        (("musl", "1.2.4"), False, "FAIL"),
        (("", ""), True, "WARN"),
        (("glibc", "2"), True, "WARN"),
    ],
)
def test_glibc(library, gpu, status):
    check = system.check_glibc(library, gpu=gpu)
    assert check.status == status
    assert ("22.04" in check.fix) == (status == "FAIL" or (library[1] == "2.31" and gpu))


def test_headers(tmp_path):
    missing = system.check_headers(tmp_path, version=(3, 12), gpu=True)
    assert missing.status == "FAIL"
    assert "python3.12-dev" in missing.fix
    assert system.check_headers(tmp_path, version=(3, 12), gpu=False).status == "OK"
    (tmp_path / "Python.h").write_text("")
    assert system.check_headers(tmp_path, version=(3, 12), gpu=True).status == "OK"
    assert system.check_headers(Path(sysconfig.get_path("include")), version=(3, 11), gpu=False).status == "OK"


def test_tools_of_flashinfer():
    missing = system.check_flashinfer(["ninja", "nvcc"], gpu=True, switched_on=True)
    assert (missing.status, missing.fix) == ("FAIL", "export VLLM_USE_FLASHINFER_SAMPLER=0")
    assert "ninja、nvcc" in missing.found
    unused = system.check_flashinfer(["nvcc"], gpu=True, switched_on=False)
    assert unused.status == "OK"
    assert "不要紧" in unused.found
    assert system.check_flashinfer([], gpu=True, switched_on=True).status == "OK"
    assert system.check_flashinfer(["nvcc"], gpu=False, switched_on=False).status == "OK"
