"""helpers.classroom.mirror: the protocol, streaming, and that nobody gets out of its folder."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
from download_kit import MODEL_ID, ROOT, WEIGHTS, make_model
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.classroom.mirror import Mirror, main
from helpers.classroom.mirror_app import find_file
from helpers.errors import MirrorError

SECRET = b"TOP SECRET"
API = "/api/v1/models"
REPO = f"{API}/{MODEL_ID}/repo"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DIR with one honest model, full of ways out: links, a FIFO, hidden and unfinished files."""
    base = tmp_path_factory.mktemp("mirror")
    root = base / "DIR"
    model = make_model(root / MODEL_ID)
    (model / "figures").mkdir()
    (model / "figures" / "图.png").write_bytes(b"png")
    (model / "empty.txt").touch()
    secrets = [base / "secret.txt", base / "DIRsecret" / "x", root / "top.txt", root / ".git" / "config"]
    secrets += [model / ".hidden", model / f"{WEIGHTS}.incomplete", root / "classroom" / "beside.txt"]
    for secret in secrets:
        secret.parent.mkdir(exist_ok=True)
        secret.write_bytes(SECRET)
    for name, target in {
        "link.txt": base / "secret.txt", "up": base, "etc": Path("/etc"), "relative": Path("../../../secret.txt"),
        "loop": Path("loop"), "hidden-link": root / ".git" / "config", "dangling": Path("nothing"),
    }.items():  # fmt: skip
        (model / name).symlink_to(target)
    (root / "classroom" / "Outside").symlink_to(base)
    os.mkfifo(model / "fifo")
    return root


@pytest.fixture(scope="module")
def mirror(root: Path) -> Iterator[Mirror]:
    with Mirror(root) as mirror:
        yield mirror


@pytest.fixture
def client(mirror: Mirror) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mirror.endpoint, trust_env=False) as client:
        yield client


def fetch(client: httpx.Client, name: str, **headers: str) -> httpx.Response:
    return client.get(REPO, params={"Revision": "master", "FilePath": name}, headers=headers)


def raw(mirror: Mirror, target: str | bytes, *, method: str = "GET") -> tuple[int, bytes]:
    """Send a request line exactly as given, as no HTTP library would; return status and body (0: no answer)."""
    target = target.encode() if isinstance(target, str) else target
    host, port = mirror.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(method.encode() + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


# --- protocol


def test_the_listing_holds_what_may_be_fetched_with_size_and_digest(client: httpx.Client, root: Path) -> None:
    files = client.get(f"{REPO}/files", params={"Revision": "", "Recursive": "True"}).json()["Data"]["Files"]
    honest = ["config.json", "empty.txt", "figures/图.png", WEIGHTS, "tokenizer.json", "tokenizer_config.json"]
    assert [file["Path"] for file in files] == honest
    for file in files:
        content = (root / MODEL_ID / file["Path"]).read_bytes()
        assert (file["Size"], file["Sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert fetch(client, file["Path"]).content == content
    inside = client.get(f"{REPO}/files", params={"Root": "figures"}).json()["Data"]["Files"]
    assert [file["Path"] for file in inside] == ["figures/图.png"]
    assert client.get(f"{REPO}/files", params={"Root": "fig"}).status_code == 404


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=5-14", 206, slice(5, 15)),
        ("bytes=1000-", 206, slice(1000, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=10-99999999", 206, slice(10, None)),
    ],
)
def test_a_range_gets_that_range(wanted: str, status: int, part: slice, client: httpx.Client, root: Path) -> None:
    content = (root / MODEL_ID / WEIGHTS).read_bytes()
    answer = fetch(client, WEIGHTS, Range=wanted)
    start, stop, _ = part.indices(len(content))
    assert answer.status_code == status and answer.content == content[part]
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=9-3", "bytes=", "lines=1-2", "bytes=x-y", "bytes=--5"])
def test_an_impossible_range_is_refused(wanted: str, client: httpx.Client) -> None:
    assert fetch(client, WEIGHTS, Range=wanted).status_code in (400, 416)


def test_a_missing_model_revision_or_file_is_named_with_what_there_is(client: httpx.Client) -> None:
    for path, query in [
        (f"{API}/classroom/Nope/repo/files", {}),
        (f"{API}/classroom/Nope/repo", {"FilePath": "config.json"}),
        (f"{API}/classroom/Nope", {}),
        (REPO, {"FilePath": "config.json", "Revision": "v9"}),
        (f"{REPO}/files", {"Revision": "v9"}),
        (REPO, {"FilePath": "nope.json"}),
        (REPO, {}),
    ]:
        answer = client.get(path, params=query)
        assert answer.status_code == 404 and MODEL_ID in answer.json()["Message"], path
    assert "v9" in client.get(f"{REPO}/files", params={"Revision": "v9"}).json()["Message"]
    assert client.get(f"{API}/{MODEL_ID}").json()["Data"]["Path"] == MODEL_ID


def test_requests_and_bytes_are_counted(root: Path) -> None:
    size = (root / MODEL_ID / WEIGHTS).stat().st_size
    with Mirror(root) as mirror, httpx.Client(base_url=mirror.endpoint, trust_env=False) as client:
        fetch(client, WEIGHTS)
        fetch(client, WEIGHTS, Range="bytes=1000-")
        fetch(client, "nope")
        client.head(REPO, params={"FilePath": WEIGHTS})
        assert mirror.sent_bytes == 2 * size - 1000
        seen = [(entry.status, entry.range, entry.first_byte, entry.sent_bytes) for entry in mirror.served]
        assert seen[:2] == [(200, "", 0, size), (206, "bytes=1000-", 1000, size - 1000)]
        assert seen[2][0] == 404 and seen[3][3] == 0
        mirror.served.clear()
        assert mirror.sent_bytes == 0


def test_a_digest_is_computed_once_even_for_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "hub" / MODEL_ID, weights=10)
    computed, real = [], hashlib.file_digest

    def slow(file: BinaryIO, kind: str) -> Any:
        computed.append(file.name)
        time.sleep(0.05)  # long enough for the others to come meanwhile
        return real(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", slow)
    with Mirror(tmp_path / "hub") as mirror, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: httpx.get(f"{mirror.endpoint}{REPO}/files", trust_env=False).json(), range(24)))
        assert len(computed) == len(set(computed)) == 4
        config = tmp_path / "hub" / MODEL_ID / "config.json"
        config.write_bytes(config.read_bytes().replace(b"qwen2", b"qwen3"))  # of the same size
        listed = httpx.get(f"{mirror.endpoint}{REPO}/files", trust_env=False).json()["Data"]["Files"]
    assert len(computed) == 5
    assert listed[0]["Sha256"] == hashlib.sha256(config.read_bytes()).hexdigest()


# --- nobody gets out


def hostile_targets() -> list[str | bytes]:
    """Return request targets of which none may be answered with a file."""
    ups = [
        "..",
        "%2e%2e",
        "%2E%2e",
        ".%2e",
        "%252e%252e",
        "..%00",
        "%c0%ae%c0%ae",
        "．．",
        "..;",
        "...",
        ".",
        "\\..",
        "..\\",
    ]
    slashes = ["/", "%2f", "%2F", "%5c", "\\", "//", "%252f", "/./", "%c0%af"]
    ends = ["secret.txt", "DIRsecret/x", "top.txt", ".git/config", "etc/passwd", "beside.txt"]
    climbs = [
        (up + slash) * depth + end for up, slash, end in itertools.product(ups, slashes, ends) for depth in (1, 3)
    ]
    names = [
        "", "/", ".", "..", "/etc/passwd", "//etc/passwd", "/proc/self/environ", "file:///etc/passwd", "~/.ssh/id_rsa",
        "link.txt", "up/secret.txt", "etc/passwd", "relative", "loop", "dangling", "hidden-link", "fifo", "figures",
        ".hidden", ".", "./config.json", "figures/", "figures/..", "figures/../config.json",
        "config.json/", "//config.json",
        "config.json%00", "config.json%00.png", "%00", "a%00/../config.json", f"{WEIGHTS}.incomplete",
        "C:\\windows\\win.ini",
        "x" * 300, "x/" * 3000, "%2e%2e/" * 500 + "etc/passwd", "%ff%fe", "%ed%a0%80", "config.json%20", "CONFIG.JSON",
        "*",
        f"../../{MODEL_ID}/config.json", "../Outside/secret.txt", "\u202econfig.json",
    ]  # fmt: skip
    by_query = [f"{REPO}?Revision=master&FilePath={name}" for name in climbs + names]
    ids = [
        "../..",
        "%2e%2e/%2e%2e",
        "classroom/..",
        "../classroom",
        "classroom/%2e%2e",
        "./classroom",
        "classroom/Outside",
    ]
    ids += [
        "/etc",
        "etc/",
        "%2fetc/x",
        ".git/x",
        "classroom%2fTiny/figures",
        "classroom/Tiny%00",
        "x" * 300 + "/y",
        "DIR/..",
    ]
    by_path = [
        f"{API}/{id}/repo{end}" for id in ids for end in ("/files", "?FilePath=secret.txt", "?FilePath=config", "")
    ]
    by_path += [f"/{climb}" for climb in climbs[::7]] + [f"{REPO}/{climb}" for climb in climbs[::11]]
    odd: list[str | bytes] = [
        f"{REPO}/files/",
        f"{REPO}/",
        "/",
        "//",
        "/docs",
        "/openapi.json",
        "*",
        "http://x/etc/passwd",
    ]
    odd += [
        f"{REPO}?FilePath=../x&FilePath=top.txt",
        f"{REPO}?filepath=config.json",
        b"/\xff\xfe",
        b"/\x00",
        b"/" + b"x" * 100_000,
    ]
    return [*by_query, *by_path, *odd]


def test_hundreds_of_hostile_targets_are_refused(mirror: Mirror, client: httpx.Client) -> None:
    assert raw(mirror, f"{REPO}?FilePath=config.json")[0] == 200, "the control: an honest target is answered"
    targets = [t.encode() if isinstance(t, str) else t for t in hostile_targets()]
    assert len(targets) > 1000
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda target: raw(mirror, target), targets))
    answered = {
        target[:200]: answer for target, answer in zip(targets, answers, strict=True) if not 400 <= answer[0] < 500
    }
    assert answered == {}
    leaked = [target for target, (_, body) in zip(targets, answers, strict=True) if SECRET in body or b"root:" in body]
    assert leaked == []
    assert fetch(client, "config.json").status_code == 200, "and it still serves"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_other_methods_are_refused(method: str, mirror: Mirror, root: Path) -> None:
    for target in (f"{REPO}?FilePath=config.json", f"{REPO}/files", f"{API}/{MODEL_ID}"):
        assert 400 <= raw(mirror, target, method=method)[0] < 500
    assert (root / MODEL_ID / "config.json").exists()


PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "\0", "etc", "passwd", "up", "link.txt", "classroom", "Tiny", "config.json", " "]
)


@settings(max_examples=400, deadline=None)
@given(name=st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES).map("/".join)))
def test_any_name_is_inside_or_nothing(name: str, root: Path) -> None:
    found = find_file(root, name)
    assert found is None or (
        found.is_relative_to(root.resolve()) and found == (root / name).resolve() and ".." not in name
    )


# --- streaming, and the process around it


@pytest.fixture
def command_line(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The mirror's command with a model and a file of 400 MB, and the endpoint from the line for learners."""
    with (make_model(tmp_path / MODEL_ID) / "big.bin").open("wb") as big:
        big.truncate(400_000_000)
    command = [sys.executable, "-m", "helpers.classroom.mirror", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        found = None
        while found is None and (line := process.stdout.readline()):
            found = re.fullmatch(r"export MODELSCOPE_ENDPOINT=(http://127\.0\.0\.1:\d+)\n", line)
        yield process, found[1] if found else ""
        process.kill()


def test_a_large_file_is_streamed_and_who_fetches_it_is_shown(command_line: tuple[subprocess.Popen[str], str]) -> None:
    process, endpoint = command_line

    def size(_: int) -> int:
        with httpx.stream("GET", f"{endpoint}{REPO}?FilePath=big.bin", trust_env=False) as answer:
            return sum(len(block) for block in answer.iter_raw())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(size, range(4))) == [400_000_000] * 4
    peak_kb = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1])  # type: ignore[index]
    assert peak_kb < 200_000
    process.send_signal(signal.SIGINT)
    shown = process.communicate(timeout=20)[0]
    assert process.returncode == 0 and "Traceback" not in shown
    assert len(re.findall(r"127\.0\.0\.1:\d+ - .*FilePath=big\.bin.* 200", shown)) == 4


def test_a_client_that_leaves_ends_its_transfer(tmp_path: Path) -> None:
    with (make_model(tmp_path / MODEL_ID) / "big.bin").open("wb") as big:
        big.truncate(200_000_000)
    with Mirror(tmp_path) as mirror:
        with httpx.stream("GET", f"{mirror.endpoint}{REPO}?FilePath=big.bin", trust_env=False) as answer:
            next(answer.iter_raw())
        assert httpx.get(f"{mirror.endpoint}{REPO}?FilePath=config.json", trust_env=False).status_code == 200
        before = -1
        while before != mirror.sent_bytes:
            before = mirror.sent_bytes
            time.sleep(0.3)
        assert 0 < mirror.sent_bytes < 100_000_000


@pytest.mark.parametrize("case", ["no folder", "port taken", "no such host", "port out of range"])
def test_what_cannot_start_says_why(case: str, mirror: Mirror, tmp_path: Path) -> None:
    taken = mirror.endpoint.rsplit(":", 1)[1]
    arguments = {
        "no folder": [str(tmp_path / "none")],
        "port taken": [str(tmp_path), "--port", taken],
        "no such host": [str(tmp_path), "--host", "192.0.2.1"],
        "port out of range": [str(tmp_path), "--port", "99999"],
    }[case]
    assert main(arguments) == 1


def test_the_reasons_are_in_chinese_and_name_the_culprit(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="没有文件夹"):
        Mirror(tmp_path / "none")
    taken = int(mirror.endpoint.rsplit(":", 1)[1])
    with pytest.raises(MirrorError, match=f"{taken}.*换一个端口"):
        Mirror(tmp_path, port=taken).start()


def test_start_and_stop_twice_and_start_again(root: Path) -> None:
    mirror = Mirror(root)
    assert mirror.start() is mirror
    first = mirror.endpoint
    assert mirror.start().endpoint == first
    mirror.stop()
    mirror.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(first, trust_env=False)
    with mirror:
        assert httpx.get(f"{mirror.endpoint}{REPO}/files", trust_env=False).status_code == 200


def test_on_every_interface_it_names_an_address_that_others_can_use(root: Path) -> None:
    with Mirror(root, host="0.0.0.0") as mirror:
        assert "0.0.0.0" not in mirror.endpoint
