"""The real ModelScope SDK against the mirror. Each fault ends in a model that is whole, or that is refused."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from download_kit import MODEL_ID, WEIGHTS, Fault, Instead, listener, make_certificate, make_model, start_download
from filelock import FileLock
from modelscope_hub.config import set_default_config

from helpers.classroom.mirror import Mirror, classroom_hub
from helpers.config import REPO_ROOT, Profile, get_profile
from helpers.errors import DownloadError, MirrorError, ModelError
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


def test_the_lessons_download_cell_ends_in_one_sentence(
    hub: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelscope import snapshot_download

    lesson = nbformat.read(REPO_ROOT / "notebooks" / "02_download.ipynb", as_version=4)
    [cell] = [cell.source for cell in lesson.cells if "def download(" in cell.source]
    unknown = replace(profile(tmp_path), model_id="a/Nope")
    names = globals() | {"snapshot_download": snapshot_download, "profile": unknown}
    with pytest.raises(DownloadError, match="a/Nope") as caught:
        exec(cell, names)
    assert caught.value.__suppress_context__ and "\n" not in str(caught.value)
    assert "model_dir" not in names, "no later cell goes on with a path that is not there"

    hub.app = Instead(hub.app, 200, b'{"Code": 500, "Success": false, "Data": {"Files": []}}')
    hub.stop()
    hub.start()
    with pytest.raises(ModelError, match="什么也没有下到"):  # the SDK is content with an empty list
        exec(cell, names | {"profile": profile(tmp_path / "m")})


ANSWERS: dict[str, tuple[Any, str]] = {
    "401": ((401,), "登录"),
    "403": ((403, b'{"Message": "gated"}'), "不许下载.*gated"),
    "quota": ((403, b'{"code": "QuotaLimitExceed"}'), "额度"),
    "404": ((404,), "没有这个模型"),
    "416": ((416,), "从断点接着传"),
    "418": ((418,), "不是 ModelScope 的站点"),
    "429": ((429, b"", {"Retry-After": "30"}), "等 30 秒"),
    "500": ((500, b'{"Message": "busy"}'), "500.*不是你这里的问题.*busy"),
    "503": ((503, b"<html>x</html>"), "503.*不是你这里的问题"),
    "a login page": ((200, b"<!DOCTYPE html><title>Login</title>"), "登录的网页"),
    "nothing": ((200,), "不是模型清单"),
    "null": ((200, b"null"), "不是模型清单"),
    "another JSON": ((200, b'{"Data": {"Files": ["a"]}}'), "不是模型清单"),
    "half a JSON": ((200, b'{"Data": {"Fil'), "不是模型清单"),
    "no gzip": ((200, b"x", {"Content-Encoding": "gzip"}), "不是模型清单"),
    "a loop": ((302, b"", {"Location": "/again?FilePath=a"}), "不是模型清单"),
    "a redirect to ftp": ((302, b"", {"Location": "ftp://x/y"}), "不是模型清单"),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own retries would take half a minute; proxies of the machine stay out of it."""
    from modelscope_hub import _download, _legacy_api

    monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
    monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 0)
    monkeypatch.setattr(_download, "DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.01)
    monkeypatch.setattr(_download, "DOWNLOAD_FILE_LOCK_TIMEOUT_SECONDS", 1)
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)


def failure(tmp_path: Path, **options: Any) -> str:
    """What the learner reads of a download that fails."""
    set_default_config(None)
    with pytest.raises(Exception) as caught:
        download(**{"local_dir": tmp_path / "m", **options})
    said = explain_download_error(caught.value)
    assert "下一步" in said and "\n" not in said and len(said) < 400
    return said


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("files", [False, True])
def test_whatever_a_site_answers_is_told_with_what_to_do(
    files: bool, case: str, hub: Mirror, tmp_path: Path, impatient: None
) -> None:
    answer, says = ANSWERS[case]
    if files and answer[0] == 200:
        says = "校验不对.*登录的网页"
    if files and answer[0] >= 400:
        says = says.partition(".*")[0]
    hub.stop()
    hub.app = Instead(hub.app, *answer, files=files)
    hub.start()
    said = failure(tmp_path)
    assert re.search(says, said) and "127.0.0.1" in said


@pytest.mark.parametrize(
    ("token", "says"), [("ms-old", "不认"), ("ms-老师", "不该有的字符"), ("ms-a\nb", "不该有的字符")]
)
def test_a_token_that_the_site_does_not_know_is_named(
    token: str, says: str, hub: Mirror, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.stop()
    hub.app = Instead(hub.app, 401)
    hub.start()
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", token)
    said = failure(tmp_path)
    assert says in said and "MODELSCOPE_API_TOKEN" in said and token not in said


PROXIES: dict[str, tuple[str, str]] = {
    "nobody there": ("http://127.0.0.1:1", r"连不上代理 127\.0\.0\.1:1（环境变量 https_proxy）.*不是站点"),
    "wants a password": ("http://127.0.0.1:PORT 407", "用户名和密码"),
    "refuses the site": ("http://127.0.0.1:PORT 403", "不肯转到 modelscope.test"),
    "socks": ("socks5h://127.0.0.1:7891", "SOCKS.*unset https_proxy"),
    "no number": ("http://me:secret@proxy.corp:port", r"代理的地址写错了：https_proxy=http://\*\*\*@proxy"),
    "no host": ("http://", "代理的地址写错了"),
    "full-width colon": ("http：//127.0.0.1:7890", "代理的地址写错了"),
    "unknown name": ("http://no-such-proxy.invalid:80", "连不上代理 no-such-proxy.invalid:80"),
    "only http": ("https://127.0.0.1:PORT 407", "http:// 开头"),
}


@pytest.mark.parametrize("case", PROXIES)
def test_a_proxy_is_blamed_by_name_and_its_password_is_not_shown(
    case: str, hub: Mirror, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, says = PROXIES[case]
    address, _, status = address.partition(" ")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "https://modelscope.test")
    with listener(f"HTTP/1.1 {status or 500} No\r\nContent-Length: 0\r\n\r\n".encode()) as port:
        monkeypatch.setenv("https_proxy", address.replace("PORT", str(port)))
        said = failure(tmp_path)
    assert re.search(says, said) and "secret" not in said


def test_a_site_behind_a_proxy_is_not_blamed_alone(
    hub: Mirror, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://modelscope.test")
    with listener(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") as port:
        monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{port}")
        said = failure(tmp_path)
        monkeypatch.setenv("no_proxy", "modelscope.test")
        assert "代理" not in failure(tmp_path)
    assert "502" in said and f"经过了代理 127.0.0.1:{port}（环境变量 all_proxy）" in said


CERTIFICATES: dict[str, tuple[dict[str, Any], str]] = {
    "nobody vouches": ({"host": "localhost"}, "REQUESTS_CA_BUNDLE"),
    "another name": ({"host": "other.test"}, "别的名字"),
    "expired": ({"host": "localhost", "valid_from_day": -9}, "date"),
    "not yet": ({"host": "localhost", "valid_from_day": 9}, "date"),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_a_certificate_that_is_not_accepted_is_called_that(
    case: str, hub: Mirror, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, says = CERTIFICATES[case]
    file = make_certificate(tmp_path / "site.pem", **options)
    if case != "nobody vouches":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    with listener(b"", certificate=file) as port:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"https://localhost:{port}")
        said = failure(tmp_path)
        assert re.search(says, said) and "证书" in said and f"localhost:{port}" in said
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))
        assert "gone.pem" in failure(tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "answer", "says"),
    [
        ("https://127.0.0.1:PORT", b"HTTP/1.1 400 Bad Request\r\n\r\n", "不是 https"),
        ("http://127.0.0.1:PORT", b"", "连接断了"),
        ("http://127.0.0.1:PORT", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "连接断了"),
        ("http://127.0.0.1:PORT", b"SSH-2.0-OpenSSH_9.6\r\n", "不是模型清单"),
        ("http://127.0.0.1:PORT", None, "超时"),
        ("http://127.0.0.1:1", b"", "classroom_hub"),
        ("http://no-such-host.invalid", b"", "找不到主机 no-such-host.invalid"),
        ("http://127.0.0.1:99999", b"", "地址写错了：MODELSCOPE_ENDPOINT"),
        ("'http://10.0.0.5:8090'", b"", "地址写错了：MODELSCOPE_ENDPOINT"),
        ("http//10.0.0.5", b"", "地址写错了：MODELSCOPE_ENDPOINT"),
    ],
)
def test_what_lies_on_the_way_to_the_site_is_told_apart(
    endpoint: str, answer: bytes | None, says: str,
    hub: Mirror, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with listener(answer) as port:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", endpoint.replace("PORT", str(port)))
        assert re.search(says, failure(tmp_path))


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("file", "挡住了路.*文件夹"), ("file/below", "挡住了路"), ("link", "失效的链接"), ("x" * 300, "太长"),
        ("~/models", "绝对路径"), ("taken", "挡住了路"), ("cache", "MODELSCOPE_CACHE"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_blamed_with_its_path(
    place: str, says: str, hub: Mirror, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone/too")
    (tmp_path / "taken" / "config.json").mkdir(parents=True)
    if place == "cache":
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "file"))
    assert re.search(says, failure(tmp_path, local_dir=place if place[0] == "~" else tmp_path / place))


def test_a_file_that_another_program_downloads_is_waited_for_and_then_said(
    hub: Mirror, tmp_path: Path, impatient: None
) -> None:
    download(local_dir=tmp_path / "m")
    locks = [FileLock(file) for file in (tmp_path / "cache" / ".lock").iterdir()]
    for lock in locks:
        lock.acquire()
    assert "另一个程序" in failure(tmp_path, local_dir=tmp_path / "other")
    for lock in locks:
        lock.release()


def test_the_lessons_hub_is_kept_and_comes_back_where_the_sdk_remembers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("helpers.classroom.mirror.REPO_ROOT", tmp_path)
    mirror = classroom_hub(profile(tmp_path, name="classroom"))
    assert mirror is not None
    set_default_config(None)
    try:
        download(local_dir=tmp_path / "m")
        sent = mirror.sent_bytes
        assert classroom_hub(profile(tmp_path, name="classroom")) is mirror and mirror.sent_bytes == sent > 0
        mirror.stop()
        assert classroom_hub(profile(tmp_path, name="classroom")) is mirror
        assert download(local_dir=tmp_path / "again").is_dir()
    finally:
        mirror.stop()
        set_default_config(None)
    port = int(mirror.endpoint.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), pytest.raises(MirrorError, match="重启内核"):
        classroom_hub(profile(tmp_path, name="classroom"))


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
