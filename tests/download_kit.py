"""What the download tests share: a tiny whole model, faults between mirror and SDK, the SDK in its own process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ROOT = Path(__file__).resolve().parent.parent
MODEL_ID = "classroom/Tiny"
WEIGHTS = "model.safetensors"
TINY = {
    "model_type": "qwen2", "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40, "tie_word_embeddings": False,
}  # fmt: skip


def make_model(folder: Path, *, weights: int = 750_000, shards: int = 1) -> Path:
    """Write a model folder that `check_model` accepts: `shards` files of `weights` float32 numbers each."""
    folder.mkdir(parents=True)
    for name, content in {"config.json": TINY, "tokenizer_config.json": {}, "tokenizer.json": {"版本": 1}}.items():
        (folder / name).write_text(json.dumps(content))
    names = [WEIGHTS] if shards == 1 else [f"model-{i + 1:05}-of-{shards:06}.safetensors" for i in range(shards)]
    for i, name in enumerate(names):
        save_file({f"w{i}": np.random.default_rng(i).random(weights, dtype=np.float32)}, folder / name)
    if shards > 1:
        index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


class Fault:
    """ASGI middleware outside the mirror: does harm to the first `times` answers that carry `file`."""

    def __init__(
        self, app: ASGIApp, *, file: str = WEIGHTS, times: int = 1,
        cut_after: int | None = None, flip_at: int | None = None, pause_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.app, self.file, self.times = app, file, times
        self.cut_after, self.flip_at, self.pause_s = cut_after, flip_at, pause_s
        self.delivered: list[int] = []  # bytes of each answer that carried the file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["query_string"].endswith(f"FilePath={self.file}".encode()):
            await self.app(scope, receive, send)
            return
        turn = len(self.delivered)
        self.delivered.append(0)

        async def harmed(message: Message) -> None:
            body = bytearray(message.get("body", b""))
            done = self.delivered[turn]
            cut = turn < self.times and self.cut_after is not None and done + len(body) > self.cut_after
            if cut:
                del body[self.cut_after - done :]
            if turn < self.times and self.flip_at is not None and done <= self.flip_at < done + len(body):
                body[self.flip_at - done] ^= 1
            if body:
                message = {**message, "body": bytes(body), "more_body": cut or message.get("more_body", False)}
                self.delivered[turn] += len(body)
                await asyncio.sleep(self.pause_s)
            await send(message)
            if cut:
                raise ConnectionResetError("the test cuts the connection here")

        await self.app(scope, receive, harmed)


def start_download(endpoint: str, cache: Path, *, local_dir: Path, **environ: str) -> subprocess.Popen[str]:
    """Run the real SDK in a process of its own."""
    code = "import sys; from modelscope import snapshot_download; snapshot_download(sys.argv[1], local_dir=sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, "-c", code, MODEL_ID, str(local_dir)],
        env={**os.environ, "MODELSCOPE_ENDPOINT": endpoint, "MODELSCOPE_CACHE": str(cache), **environ},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
