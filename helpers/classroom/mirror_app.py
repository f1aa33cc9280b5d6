"""What the mirror answers: ModelScope's file listing and file download, and which files may be read at all.

The protocol is what `snapshot_download` of modelscope 1.40 asks for: `GET …/repo/files` and `GET …/repo?FilePath=`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.errors import MirrorError
from helpers.models.files import LEFTOVER

__all__ = ["Served", "create_app", "find_file", "list_files", "list_models", "sha256"]

MODEL = "/api/v1/models/{owner}/{name}"
REVISIONS = ("", "master")  # a folder holds one version, under the name of ModelScope's default branch
HASHING = threading.Lock()  # thirty learners who start together wait for one computation


@dataclass
class Served:
    """One request and what was sent for it. `sent_bytes` grows while the answer runs."""

    client: str
    path: str
    file: str  # the model file asked for; empty: a listing
    range: str  # the Range header; empty: the whole file
    status: int = 0
    first_byte: int = 0
    total_bytes: int = 0  # of the whole file, even if only its rest was asked for
    sent_bytes: int = 0


def create_app(root: Path) -> Starlette:
    """Build the mirror of `root/<owner>/<name>/` as an ASGI application; `app.state.served` lists its requests.

    Args:
        root: folder of the models; nothing outside it is ever read.

    Raises:
        MirrorError: `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise MirrorError(f"没有文件夹 {root}。镜像要一个装模型的文件夹，模型文件在它下面的 <owner>/<name>/ 里。")

    def listing(request: Request) -> Response:
        model_id, folder = _asked(request), request.query_params.get("Root", "").strip("/")
        entries = [
            {"Name": file.name, "Path": name, "Type": "blob", "Size": file.stat().st_size, "Sha256": sha256(file)}
            for name, file in list_files(root, model_id).items()
            if name.startswith(f"{folder}/" if folder else "")
        ]
        if not entries or request.query_params.get("Revision", "") not in REVISIONS:
            return refuse(request, model_id)
        return JSONResponse({"Code": 200, "Success": True, "Data": {"Files": entries}})

    def download(request: Request) -> Response:
        name = f"{_asked(request)}/{request.query_params.get('FilePath', '')}"
        file = find_file(root, name)
        if not file or request.query_params.get("Revision", "") not in REVISIONS:
            return refuse(request, name)
        return _ModelFile(file, stat_result=file.stat(), headers={"X-Linked-ETag": f'"{sha256(file)}"'})

    def about(request: Request) -> Response:
        if not list_files(root, _asked(request)):
            return refuse(request, _asked(request))
        return JSONResponse({"Code": 200, "Success": True, "Data": {"Path": _asked(request)}})

    def refuse(request: Request, name: str) -> Response:
        revision, models = request.query_params.get("Revision", ""), "、".join(list_models(root))
        message = f"镜像里没有 {name}{revision and f'（版本 {revision}）'}。它有：{models or '（空）'}（版本 master）"
        return JSONResponse({"Code": 404, "Success": False, "Message": message}, status_code=404)

    served: deque[Served] = deque(maxlen=10_000)
    app = Starlette(
        routes=[Route(f"{MODEL}/repo/files", listing), Route(f"{MODEL}/repo", download), Route(MODEL, about)],
        middleware=[Middleware(_Count, served=served)],
    )
    app.router.redirect_slashes = False
    app.state.served = served
    return app


class _ModelFile(FileResponse):
    chunk_size = 1 << 20  # each chunk costs a change of thread: with Starlette's 64 KiB that is most of the time


class _Count:
    """ASGI middleware that records each request and counts the bytes sent for it."""

    def __init__(self, app: ASGIApp, *, served: deque[Served]) -> None:
        self._app, self._served = app, served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        client = request.client.host if request.client else "?"
        file, part = request.query_params.get("FilePath", ""), request.headers.get("range", "")
        entry = Served(client, scope["path"], file, part)
        self._served.append(entry)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {key.decode().lower(): value.decode() for key, value in message["headers"]}
                entry.status, entry.total_bytes = message["status"], int(headers.get("content-length", 0))
                if found := re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("content-range", "")):
                    entry.first_byte, entry.total_bytes = int(found[1]), int(found[2])
            entry.sent_bytes += len(message.get("body", b""))  # before sending: who has the bytes finds them counted
            await send(message)

        await self._app(scope, receive, counted)


def _asked(request: Request) -> str:
    return f"{request.path_params['owner']}/{request.path_params['name']}"


def find_file(root: Path, name: str) -> Path | None:
    """Return the real path of the regular file `root/name`; None unless every condition holds.

    It exists; it still lies below `root` when symbolic links are followed; no part of its name is empty or begins
    with a dot (`..`, `.git`, an absolute path); it is not the rest of an unfinished download.
    """
    real = _inside(root, name)
    return real if real and real.is_file() and not LEFTOVER.fullmatch(real.name) else None


def list_files(root: Path, model_id: str) -> dict[str, Path]:
    """Map the names of a model's files, as `find_file` allows them, to their real paths; empty: no such model."""
    folder = _inside(root, model_id)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) if folder else []
    found = {name: find_file(root, f"{model_id}/{name}") for name in names}
    return {name: file for name, file in found.items() if file}


def list_models(root: Path) -> list[str]:
    """Return `<owner>/<name>` of each folder that holds a `config.json`."""
    ids = sorted("/".join(config.parts[-3:-1]) for config in root.glob("*/*/config.json"))
    return [model_id for model_id in ids if find_file(root, f"{model_id}/config.json")]


def sha256(file: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, computed once per path, size and time of change."""
    status = file.stat()
    with HASHING:
        return _sha256(file, status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _inside(root: Path, name: str) -> Path | None:
    parts = name.split("/")
    if any(not part or part.startswith(".") for part in parts):
        return None
    try:
        root = root.resolve(strict=True)
        real = root.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, name too long, loop of links, NUL
        return None
    return real if real.is_relative_to(root) and "/." not in f"/{real.relative_to(root)}" else None
