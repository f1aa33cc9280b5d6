"""Put together a `vllm serve` command; read one: which model, which name, which address, and whether it can be run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.config import Profile
from helpers.errors import ServerError
from helpers.models.files import snapshots

__all__ = ["LOOPBACK", "ServeCommand", "readable", "serve_command"]

LOOPBACK = ("127.0.0.1", "localhost")


class ServeCommand:
    """An argv list `["vllm", "serve", model, "--flag", "value", …]`.

    Attributes:
        words: the argv list.
        model: path of the model folder, as written in the command.
        name: the served model name; without the flag vLLM takes the path.
        host, port: where it listens; without the flags vLLM takes every interface and 8000.
        parser: the reasoning parser; empty: none, and then thought and answer come mixed.
        holds_key: a key stands in the command, for all to see.

    Raises:
        ServerError: it cannot be used; the message names the part and what is needed.
    """

    def __init__(self, command: Sequence[str]) -> None:
        if isinstance(command, str | bytes) or not isinstance(command, Sequence):
            raise ServerError("command 要是一个参数列表，例如 serve_command(profile, model_path) 的返回值。")
        self.words = [str(word) for word in command]
        self.model = dict(zip(self.words, self.words[1:], strict=False)).get("serve", "-")
        if self.model.startswith("-"):
            raise ServerError('command 要以 ["vllm", "serve", 模型路径, …] 开头。')
        self.holds_key = bool(self._flag("--api-key", ""))
        self.name = self._flag("--served-model-name", self.model)
        self.host = self._flag("--host", "0.0.0.0")
        port = self._flag("--port", "8000")
        if not port.isascii() or not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65535:
            raise ServerError(f"--port 要是 1 到 65535 之间的整数，现在是 {port[:20]!r}。")
        self.port = int(port)
        self.parser = self._flag("--reasoning-parser", "")

    def at_port(self, port: int) -> ServeCommand:
        """The same command on another port."""
        words = [f"--port={port}" if word.startswith("--port=") else word for word in self.words]
        if "--port" in words[:-1]:
            words[words.index("--port") + 1] = str(port)
        return ServeCommand(words if ServeCommand(words).port == port else [*words, "--port", str(port)])

    def _flag(self, name: str, default: str) -> str:
        """The value of a flag, the last one if it stands twice; vLLM reads `_` in a flag as `-`."""
        value = default
        for word, following in zip(self.words, [*self.words[1:], ""], strict=True):
            flag, equals, text = word.partition("=")
            if flag.replace("_", "-") == name:
                value = text if equals else following
        return value

    def program(self, *, offline: bool = True) -> list[str]:
        """The argv list with the program found: `vllm` beside this Python, since a kernel's PATH may lack it.

        Args:
            offline: the model must be a folder; False: `owner/name` may also be downloaded by vLLM.

        Raises:
            ServerError: the program or the model folder is missing.
        """
        name = self.words[0]
        beside = Path(sys.executable).parent / name
        found = str(beside) if os.sep not in name and beside.is_file() else shutil.which(name)
        if found is None:
            raise ServerError(f"找不到命令 {name}。请按 README 装好环境，并确认笔记本选对了内核。")
        folder = Path(self.model)
        is_repo_id = not offline and not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", self.model)
        if not is_repo_id and not (folder / "config.json").is_file():
            problem = "里没有 config.json" if folder.is_dir() else "不存在"
            whole = next((str(place) for place in snapshots(folder) if (place / "config.json").is_file()), "")
            todo = f"请把路径改成 {whole}。" if whole else "请检查路径；还没有下载的话，先运行 02 号笔记本。"
            raise ServerError(f"{self.model} {problem}，没有启动服务器。{todo}")
        return [found, *self.words[1:]]


def readable(words: Sequence[str]) -> str:
    """The command as one would type it, one flag a line."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(map(shlex.join, lines))


def serve_command(
    profile: Profile, model_path: Path, *, port: int | None = None, extra: Sequence[str] = ()
) -> list[str]:
    """Put together the `vllm serve` command of a profile; `extra` flags come last. Shown whole in notebook 04."""
    command = ["vllm", "serve", str(model_path)]
    command += ["--served-model-name", profile.served_model_name]
    command += ["--host", "127.0.0.1", "--port", str(port or profile.port)]
    command += ["--dtype", profile.dtype]
    command += ["--max-model-len", str(profile.max_model_len)]
    command += ["--gpu-memory-utilization", str(profile.gpu_memory_utilization)]
    command += ["--reasoning-parser", "deepseek_r1"]
    command += ["--shutdown-timeout", "5"]  # seconds that running requests may take to finish after a stop
    if profile.enforce_eager:
        command += ["--enforce-eager"]  # no compilation: on a CPU it costs a minute and gains nothing here
    return [*command, *extra]
