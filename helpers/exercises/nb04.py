"""The exercises of notebook 04. They need no running server: where one is asked, a small stand-in answers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers.exercises.judging import Judge, NotJudged, Wrong, call, kind, number, same, short

__all__ = ["JUDGES"]


def shorter_context(answer: object, log: object) -> None:
    found = re.search(r"KV cache size: ([\d,]+)", log) if isinstance(log, str) else None
    if not found:
        raise NotJudged("第二样要交第 3 节读到的启动日志 log，里面要有 KV cache size 那一行。")
    tokens, value = int(found[1].replace(",", "")), number(answer)
    if abs(value - tokens / 512) <= max(1.0, 0.002 * tokens / 512):
        return
    if abs(value - tokens) < 1:
        raise Wrong("这是 KV 缓存一共能放的 token 数。要的是同时能放几个请求。")
    now = re.search(r"Maximum concurrency .*?: ([\d.]+)x", str(log))
    if now and abs(value - float(now[1])) <= 1:
        raise Wrong("这是现在的数。每个请求的上限变小以后，它会变。")
    if now and value < float(now[1]):
        raise Wrong(f"{short(answer)} 比现在的还少，方向反了：每个请求最多占的变小了。")
    raise Wrong(f"{short(answer)} 和日志里的数对不上。")


POST_ONLY = ("/v1/chat/completions", "/inference/v1/generate", "/tokenize", "/invocations", "/generative_scoring")
GUARDED = ("/v1", "/v2", "/inference", "/cohere")  # what vLLM asks a key for
POLL_S = 0.02  # how long the stand-in may take to stop
PATHS = ["/v1/models", "/health", "/metrics", *POST_ONLY]


@contextmanager
def _gate(refusal: Callable[[str], int | None]) -> Iterator[str]:
    """A server on a free port that refuses some paths with a status, and answers the others as vLLM does."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            wrong_method = (self.command == "POST") != (self.path in POST_ONLY)
            body = json.dumps({}).encode()
            self.send_response(refusal(self.path) or (405 if wrong_method else 200))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the learner's cell clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


PROXIED = ("/v1/models", "/v1/completions", "/v1/chat/completions")  # the three that a class needs
GATES: list[tuple[str, Callable[[str], int | None], list[str]]] = [
    ("像 vLLM 那样的服务", lambda path: 401 if path.startswith(GUARDED) else None,
     ["/health", "/metrics", "/tokenize", "/invocations", "/generative_scoring"]),
    ("没有设密钥的服务", lambda path: None, PATHS),
    ("前面有反向代理的服务", lambda path: 401 if path in PROXIED else 403, []),
    ("只漏了 /invocations 的服务", lambda path: None if path == "/invocations" else 401, ["/invocations"]),
]  # fmt: skip


def open_doors(unguarded: object) -> None:
    for about, refusal, wanted in GATES:
        about = f"对{about}"
        with _gate(refusal) as base_url:
            value = call(unguarded, base_url, list(PATHS), about=about)
        if not isinstance(value, list | tuple | set):
            raise Wrong(f"{about}，要返回一个列表，得到的是{kind(value)}。")
        missed, extra = [p for p in wanted if p not in value], [p for p in value if p not in wanted]
        if missed:
            method = "用 GET 问它，得到的 405 只是说方法不对。" if missed[0] in POST_ONLY else ""
            raise Wrong(f"{about}，漏了 {missed[0]}：没有密钥，它也没有拒绝你。{method}")
        if extra:
            raise Wrong(f"{about}，{extra[0]} 明明拒绝了你（{refusal(extra[0])}），却在名单里。")


START = """(APIServer pid=811) INFO [api_server.py:1278] vLLM API server version 0.32.0
(APIServer pid=811) INFO [utils.py:253] non-default args: {'model_tag': '%s', 'host': '127.0.0.1', 'port': 8000, \
'max_model_len': 2048, 'reasoning_parser': 'deepseek_r1'}
"""
TRACE = 'Traceback (most recent call last):\n  File "vllm", line 10, in <module>\n    sys.exit(main())\n'
LOGS = [
    (START % "/root/autodl-tmp/R1" + TRACE + "OSError: [Errno 98] Address already in use\n", "port", "第一份日志"),
    (START % "/root/autodl-temp/R1" + TRACE + "huggingface_hub.errors.HFValidationError: Repo id must be in the form "
     "'repo_name' or 'namespace/repo_name': '/root/autodl-temp/R1'. Use `repo_type` argument if needed.\n", "path",
     "第二份日志"),
    (START % "/root/autodl-tmp/R1" + TRACE + "pydantic_core.ValidationError: 1 validation error for ModelConfig\n  "
     "Value error, User-specified max_model_len (4096) is greater than the derived max_model_len "
     "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json).\n", "length", "第三份日志"),
    ("usage: vllm serve [model_tag] [options]\nvllm: error: unrecognized arguments: --enable-reasoning\n", "flag",
     "第四份日志"),
    (START % "/root/autodl-tmp/R1" + "(APIServer pid=811) INFO [launcher.py:46] Starting vLLM server on "
     "http://127.0.0.1:8000\n", None, "一份启动成功的日志"),
    (START % "/root/autodl-tmp/Repo" + TRACE + "torch.OutOfMemoryError: CUDA out of memory.\n", None,
     "一份显存不够的日志"),
]  # fmt: skip


def read_the_log(cause: object) -> None:
    for log, wanted, about in LOGS:
        try:
            value = call(cause, log, about=about)
        except Wrong as wrong:
            if isinstance(wrong.__context__, NameError) and "MESSAGES" in str(wrong):
                raise NotJudged("MESSAGES 还没有：先运行第 8 节定义它的那一格，再运行这一格。") from None
            raise
        none = "四种都不是，要返回 None。" if wanted is None and value is not None else ""
        same(value, wanted, about=about, note=f"{none}那份日志的最后一行是：{log.splitlines()[-1]}")


Rows = list[tuple[int, int, str]]
HEALTHY: Rows = [(1, 0, "systemd"), (900, 1, "jupyter-lab"), (1000, 900, "vllm"), (1001, 1000, "python"),
                 (1002, 1000, "VLLM::EngineCore"), (1003, 1002, "VLLM::Worker")]  # fmt: skip
KILLED: Rows = [(1, 0, "systemd"), (900, 1, "jupyter-lab"), (1001, 1, "python"), (1002, 1, "VLLM::EngineCore"),
                (1003, 1002, "VLLM::Worker")]  # fmt: skip
ADOPTED: Rows = [(1, 0, "tini"), (900, 1, "jupyter-lab"), (2002, 900, "VLLM::EngineCore"),
                 (2003, 2002, "VLLM::Worker"), (2004, 2002, "VLLM::Worker")]  # fmt: skip
HIDDEN: Rows = [(900, 1, "jupyter-lab"), (3002, 3000, "VLLM::EngineCore")]
TABLES: list[tuple[Rows, set[int], str]] = [
    (HEALTHY, set(), "服务好好的"),
    (KILLED, {1002, 1003}, "vllm 被 kill -9 之后"),
    (HEALTHY + ADOPTED[2:], {2002, 2003, 2004}, "两个服务只杀了一个时"),
    (ADOPTED, {2002, 2003, 2004}, "孤儿被 pid 900 收养时"),
    (HIDDEN, {3002}, "表里看不到父进程时"),
    ([(1, 0, "systemd"), (50, 1, "python")], set(), "根本没有 vLLM 时"),
]


def left_behind(orphans: object) -> None:
    for rows, wanted, about in TABLES:
        table = [{"pid": pid, "ppid": ppid, "name": name} for pid, ppid, name in rows]
        value = call(orphans, table, about=about)
        if not isinstance(value, list | tuple | set):
            raise Wrong(f"{about}，要返回一个列表，得到的是{kind(value)}。")
        names, parents = {pid: name for pid, _, name in rows}, {pid: ppid for pid, ppid, _ in rows}
        if odd := [one for one in value if one not in names]:
            raise Wrong(f"{about}，{short(odd[0])} 不在表里。要返回的是 pid（整数）。")
        missed, extra = wanted - set(value), set(value) - wanted
        if extra:
            one = extra.pop()
            owner = "往上找得到 vllm，它还有主人" if names[one].startswith("VLLM::") else "它不是 vLLM 的进程"
            raise Wrong(f"{about}，{one} 不该结束：{owner}。")
        if missed:
            one = min(missed)
            parent = "它的父进程也是孤儿" if parents[one] in wanted else "往上找不到 vllm"
            raise Wrong(f"{about}，漏了 {one}：{parent}。它还占着显存。")


JUDGES: dict[str, Judge] = {
    "04-1": shorter_context,
    "04-2": open_doors,
    "04-3": read_the_log,
    "04-4": left_behind,
}
