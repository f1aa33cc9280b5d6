"""The class server's keys and arguments: neither nginx nor engine."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from helpers.classroom import server as class_server
from helpers.classroom.keys import add_keys, read_keys, write_map
from helpers.errors import ServerError
from helpers.server.state import State, StateFile, ident


def test_keys_are_private_and_only_the_new_ones_are_shown(class_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert class_server.main(["keys", "30"]) == 0
    first = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(first)[::29] == ["learner-01", "learner-30"]
    assert len(set(first.values())) == 30 and min(map(len, first.values())) >= 22
    assert read_keys(class_dir) == first
    assert stat.S_IMODE((class_dir / "keys.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE(class_dir.stat().st_mode) == 0o700

    text = (class_dir / "keys.txt").read_text().replace("learner-02 ", "安娜\t") + "# a note"
    (class_dir / "keys.txt").write_text(text)
    assert class_server.main(["keys", "2"]) == 0
    new = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(new) == ["learner-02", "learner-31"]
    assert read_keys(class_dir)["安娜"] == first["learner-02"]
    assert "# a note\n" in (class_dir / "keys.txt").read_text()
    write_map(class_dir)
    assert stat.S_IMODE((class_dir / "learners.conf").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [
        "anna", "anna short", "an;na 0123456789abcdef", 'anna 0123456789"abcdef', "anna 0123456789abcdef extra",
        "anna $http_authorization", "anna 0123456789abc.*ef", "known 0123456789abcdef0", "other 0123456789abcdef-known",
    ],
)  # fmt: skip
def test_a_bad_line_of_the_keys_file_is_named_by_its_number(class_dir: Path, line: str) -> None:
    class_dir.mkdir()
    (class_dir / "keys.txt").write_text(f"known 0123456789abcdef-known\n{line}\n")
    with pytest.raises(ServerError, match="第 2 行") as caught:
        read_keys(class_dir)
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start", "--host", "0.0.0.0; include /etc/passwd"], "--host"), (["start", "--host", "everywhere"], "--host"),
        (["start", "--port", "80"], "1024"), (["start", "--port", "65535"], "1024"),
        (["keys", "0"], "500"), (["keys", "501"], "500"), (["keys", "many"], "many"), (["keys"], "N"), ([], "action"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_in_a_few_words(
    class_dir: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        class_server.main(arguments)
    said = capsys.readouterr().err
    assert says in said and len(said) <= 300
    assert not class_dir.exists()


def test_what_is_missing_is_told(
    class_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(action: str) -> str:
        assert class_server.main([action]) == 1
        return capsys.readouterr().err

    add_keys(class_dir, 1)
    assert "没有在运行" in says("reload")
    (class_dir / "keys.txt").unlink()
    (tmp_path / "nginx").write_text("#!/bin/sh\n")
    (tmp_path / "nginx").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "helpers.classroom.server keys 30" in says("start")
    monkeypatch.setenv("PATH", str(class_dir))
    monkeypatch.setattr(class_server, "SBIN", str(class_dir))
    assert "apt-get install -y nginx" in says("start")
    assert class_server.main(["stop"]) == class_server.main(["status"]) == 0
    assert capsys.readouterr().out.count("没有班级服务器在运行") == 2


def test_the_status_of_an_nginx_that_is_not_listening_yet(class_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class_dir.mkdir()
    with subprocess.Popen(["sleep", "60"]) as process:
        who = ident(process.pid)
        StateFile(class_dir / "nginx.json").write(State(6006, "/m", ["nginx"], "x.log", [], *who, [who]))
        assert class_server.main(["status"]) == 0
        process.kill()
    assert "没有在听端口" in capsys.readouterr().out
