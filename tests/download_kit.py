"""What the download tests share: a tiny whole model, faults between mirror and SDK, the SDK in its own process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
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


class Instead:
    """ASGI application that gives one answer to every request, or only to those for a file."""

    def __init__(
        self,
        app: ASGIApp,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        files: bool = False,
    ) -> None:
        self.app, self.status, self.body, self.headers, self.files = app, status, body, headers or {}, files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.files and b"FilePath=" not in scope["query_string"]:
            await self.app(scope, receive, send)
            return
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": pairs})
        await send({"type": "http.response.body", "body": self.body})


@contextmanager
def listener(answer: bytes | None, *, certificate: Path | None = None) -> Iterator[int]:
    """Answer each connection with these bytes, or with silence (None), and close it. Yields the port on localhost."""
    server = socket.create_server(("127.0.0.1", 0))
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    def serve() -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                connection = server.accept()[0]
                threading.Thread(target=reply, args=[connection], daemon=True).start()

    def reply(connection: socket.socket) -> None:
        with suppress(OSError):
            connection = context.wrap_socket(connection, server_side=True) if context else connection
            connection.recv(65536)
            if answer is None:
                connection.recv(65536)
            else:
                connection.sendall(answer)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    with server:
        yield server.getsockname()[1]


def make_certificate(file: Path, host: str, *, valid_from_day: int = -1, days: int = 2) -> Path:
    """Write a certificate that vouches for itself, with its key, into one PEM file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    start = datetime.now(UTC) + timedelta(days=valid_from_day)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    return file


def start_download(endpoint: str, cache: Path, *, local_dir: Path, **environ: str) -> subprocess.Popen[str]:
    """Run the real SDK in a process of its own."""
    code = "import sys; from modelscope import snapshot_download; snapshot_download(sys.argv[1], local_dir=sys.argv[2])"
    return subprocess.Popen(
        [sys.executable, "-c", code, MODEL_ID, str(local_dir)],
        env={**os.environ, "MODELSCOPE_ENDPOINT": endpoint, "MODELSCOPE_CACHE": str(cache), **environ},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
