"""A read-only mirror of model folders that speaks ModelScope's download protocol. Introduced in notebook 02.

One machine of a class downloads the model, the others fetch it from there over the LAN:
`python -m helpers.classroom.mirror DIR --host 0.0.0.0`, where the files lie in `DIR/<owner>/<name>/`.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import socket
import threading
import time
from collections import deque
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from helpers.classroom.mirror_app import Served, create_app, list_files, list_models, sha256
from helpers.config import CLASSROOM_MODEL_DIR, REPO_ROOT, Profile
from helpers.errors import MirrorError
from helpers.machine import lan_address

__all__ = ["Mirror", "Served", "classroom_hub", "create_app", "main"]


class Mirror:
    """The mirror in a thread of this process: `with Mirror(folder) as mirror: ...`, or `start()` and `stop()`.

    Attributes:
        endpoint: the value for `MODELSCOPE_ENDPOINT`, once started.
        served: the last 10 000 requests, oldest first; `served.clear()` begins a new count.
    """

    def __init__(self, root: Path, *, host: str = "127.0.0.1", port: int = 0, log: bool = False) -> None:
        """Prepare to serve `root`; port 0 is any free one; `log`: print a line for each request.

        Raises MirrorError if `root` is no folder.
        """
        app = create_app(root)
        self.app: ASGIApp = app
        self.served: deque[Served] = app.state.served
        self.endpoint = ""
        self._address = (host, port)
        self._log_level = "info" if log else "error"
        self._server: uvicorn.Server | None = None

    @property
    def sent_bytes(self) -> int:
        """Bytes of model files sent; listings and refusals do not count."""
        return sum(entry.sent_bytes for entry in self.served if entry.file and entry.status in (200, 206))

    def start(self) -> Mirror:
        """Return when the mirror answers; after `stop()`, at the same address. Raises MirrorError if it is taken."""
        if self._server is None:
            try:
                listener = socket.create_server(self._address)
            except (OSError, OverflowError) as error:
                raise MirrorError("镜像不能用 {}:{}（{}）。请换一个端口。".format(*self._address, error)) from None
            host, port = self._address = listener.getsockname()[:2]
            self.endpoint = f"http://{lan_address() if host == '0.0.0.0' else host}:{port}"
            config = uvicorn.Config(self.app, lifespan="off", log_level=self._log_level, timeout_graceful_shutdown=1)
            self._server = uvicorn.Server(config)
            self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
            self._thread.start()
            while self._thread.is_alive() and not self._server.started:
                time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Stop; transfers that still run are cut after one second. A second call does nothing."""
        if self._server is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = None

    __enter__ = start

    def __exit__(self, *error: object) -> None:
        self.stop()


def classroom_hub(profile: Profile) -> Mirror | None:
    """Notebook 02's hub: for `classroom` a mirror of the shipped model, which this process will download from.

    Sets `MODELSCOPE_ENDPOINT`; the SDK reads it once, so call this before modelscope is imported. A second call keeps
    the mirror that runs, and brings a stopped one back at the address that the SDK remembers. For `gpu` nothing is
    started or set, and None is returned: the model comes from modelscope.cn, or from where the reader points.

    Raises MirrorError if there is no room for its files, or its address was taken meanwhile.
    """
    if profile.name != "classroom":
        return None
    folder = REPO_ROOT / "build" / "hub"
    try:
        shutil.copytree(CLASSROOM_MODEL_DIR, folder / profile.model_id, dirs_exist_ok=True)
        mirror = _hub(folder).start()
    except OSError as error:
        raise MirrorError(f"镜像站的文件放不进 {folder}（{error}）。下一步：腾出空间或改好权限，再运行一次。") from None
    except MirrorError as error:
        raise MirrorError(f"{error}在笔记本里：重启内核，再从第一格运行起。") from None
    os.environ["MODELSCOPE_ENDPOINT"] = mirror.endpoint
    return mirror


@functools.cache
def _hub(folder: Path) -> Mirror:
    return Mirror(folder)


def main(arguments: list[str] | None = None) -> int:
    """Serve a folder until Ctrl-C. Return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.classroom.mirror", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from the LAN")
    parser.add_argument("--port", type=int, default=8090)
    chosen = parser.parse_args(arguments)
    try:
        mirror = Mirror(chosen.folder, host=chosen.host, port=chosen.port, log=True)
        for model_id in list_models(chosen.folder):
            print(f"{model_id}：计算 SHA-256 …", flush=True)  # now, for the SDK waits only 15 s for a listing
            for file in list_files(chosen.folder, model_id).values():
                sha256(file)
        mirror.start()
    except MirrorError as error:
        print(error)
        return 1
    print(
        f"镜像已就绪，Ctrl-C 停止。学员在下载之前设这一行：\nexport MODELSCOPE_ENDPOINT={mirror.endpoint}", flush=True
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        mirror.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
