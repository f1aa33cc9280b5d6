"""What lessons 07 to 09 say of vLLM, held against the installed vLLM: an upgrade that makes it wrong turns red here."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from transformers import GenerationConfig
from vllm import envs
from vllm.benchmarks import serve, throughput
from vllm.benchmarks.lib.endpoint_request_func import RequestFuncInput, async_request_openai_completions
from vllm.config.scheduler import SchedulerConfig
from vllm.engine import arg_utils
from vllm.entrypoints.cli import serve as serve_cli
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.metrics import loggers

from helpers.authoring import series
from helpers.bench import arrivals_command, serving_command
from helpers.bench.load import Timing
from helpers.bench.metrics import GAUGES
from helpers.exercises import nb08

LESSONS = [path for path in series.notebook_paths() if path.name[:2] in ("07", "08", "09")]
CELLS = {cell.id: cell.source for path in LESSONS for cell in nbformat.read(path, as_version=4).cells}
GIB = 2**30


def options(add_arguments: Any) -> FlexibleArgumentParser:
    parser = FlexibleArgumentParser()
    add_arguments(parser)
    return parser


BENCH_SERVE = options(serve.add_cli_args)


def test_every_flag_of_the_lessons_is_one_of_vllms() -> None:
    parsers = (BENCH_SERVE, options(throughput.add_cli_args), options(make_arg_parser))
    known = {flag for parser in parsers for action in parser._actions for flag in action.option_strings}
    named = {flag for source in CELLS.values() for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+\b", source)}
    assert len(named) > 30 and named - known == set()


def test_the_commands_and_the_flags_of_the_prose_are_parsed_as_meant(tmp_path: Path) -> None:
    where = ("http://127.0.0.1:9", "r1", tmp_path)
    closed = BENCH_SERVE.parse_args(serving_command(*where, concurrency=4, result=tmp_path / "a.json")[3:])
    assert (closed.num_prompts, closed.max_concurrency, closed.request_rate) == (20, 4, float("inf"))
    command = arrivals_command(*where, rate=2.5, requests=9, result=tmp_path / "b.json", output_len=1250)
    more = "--goodput ttft:1000 tpot:50"
    assert f"`{more}`" in CELLS["08-46"] and "`--burstiness` 写得小于 1" in CELLS["08-46"]
    open_loop = BENCH_SERVE.parse_args([*command[3:], *more.split()])
    assert (open_loop.request_rate, open_loop.max_concurrency, open_loop.burstiness) == (2.5, None, 1.0)
    assert serve.check_goodput_args(open_loop) == {"ttft": 1000, "tpot": 50}
    offline = inspect.getsource(throughput._run_vllm_requests)
    for parsed in (closed, open_loop):
        assert (parsed.temperature, parsed.top_p) == (1.0, 1.0)
    assert "temperature=1.0" in offline and "top_p=1.0" in offline


def test_the_metrics_that_the_lessons_read_are_vllms() -> None:
    source = inspect.getsource(loggers) + 'name="vllm:'
    known = set(re.findall(r'name="(vllm:\w+)"', source))
    text = "\n".join(CELLS.values()) + inspect.getsource(nb08) + " ".join(GAUGES.values())
    named = {re.sub(r"_(total|sum|count)$", "", name) for name in re.findall(r"vllm:[a-z_]+[a-z]", text)}
    assert len(named) >= 10 and {name for name in named if not name.endswith("request")} - known == set()
    assert loggers.WAITING_REASON_CAPACITY == "capacity"


@pytest.mark.parametrize(
    ("gib", "name", "cpu", "tokens", "requests"),
    [
        (23.6, "nvidia geforce rtx 4090", False, 2048, 256),
        (79.2, "nvidia h100 80gb hbm3", False, 8192, 1024),
        (79.2, "nvidia a100-sxm4-80gb", False, 2048, 256),
        (23.6, "cpu", True, 2048, 128),
    ],
)
def test_the_defaults_by_machine_are_those_told(
    gib: float, name: str, cpu: bool, tokens: int, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimpleNamespace(
        get_device_total_memory=lambda: int(gib * GIB), get_device_name=lambda: name,
        is_tpu=lambda: False, is_cpu=lambda: cpu,
    )  # fmt: skip
    monkeypatch.setattr(arg_utils, "current_platform", platform)
    most_tokens, most_requests = arg_utils.EngineArgs.get_batch_defaults(world_size=1)
    server = UsageContext.OPENAI_API_SERVER
    assert (most_tokens[server], most_requests[server]) == (tokens, requests)
    assert "24 GB 的显卡和 CPU 上的服务默认 2048，H100 默认 8192" in CELLS["08-16c"]
    assert "70 GiB 以上的卡是 1024（A100 除外），别的卡 256，CPU 上的服务 128" in CELLS["08-40"]


def test_long_prompts_are_cut_by_default_and_who_loses_the_kv_cache_waits_again() -> None:
    assert SchedulerConfig.enable_chunked_prefill is True
    preempt = inspect.getsource(Scheduler._preempt_request)
    assert "num_computed_tokens = 0" in preempt and "self.waiting.prepend_request(request)" in preempt


def test_itl_is_taken_between_chunks_and_tpot_over_tokens_as_in_the_lesson() -> None:
    pieces = [{"choices": [{"text": text}]} for text in ("a", "b", "cd")]
    pieces += [{"choices": [], "usage": {"completion_tokens": 4, "prompt_tokens": 2}}]

    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield f"data: {json.dumps(piece)}\n\n".encode()
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def post(**_: object) -> AsyncIterator[Any]:
        yield SimpleNamespace(status=200, content=SimpleNamespace(iter_any=stream))

    asked = RequestFuncInput("x", "http://127.0.0.1:9/v1/completions", prompt_len=2, output_len=4, model="r1")
    session: Any = SimpleNamespace(post=post)
    found = asyncio.run(async_request_openai_completions(asked, session))
    assert found.success and len(found.itl) == 2
    ours = Timing(2, 4, [found.ttft, found.ttft + found.itl[0], found.latency])
    assert ours.itl_s == pytest.approx(found.itl)
    metrics, _ = serve.calculate_metrics([SimpleNamespace(prompt_len=2)], [found], 1.0, None, [95], {})  # type: ignore[list-item]
    assert (metrics.mean_tpot_ms, metrics.mean_ttft_ms) == pytest.approx((1000 * ours.tpot_s, 1000 * ours.ttft_s))


def test_all_warmups_send_the_first_prompt() -> None:
    source = inspect.getsource(serve.benchmark)
    warmup = source.partition("if num_warmups > 0:")[2].partition("Warmup run completed.")[0]
    assert "request_func_input=test_input" in warmup and "input_requests[0].prompt," in source


def test_the_unequal_work_of_the_hf_backend_is_as_told() -> None:
    source = inspect.getsource(throughput._run_hf_requests)
    assert "do_sample=True" in source and "top_k" not in source
    assert GenerationConfig()._get_default_generation_params()["top_k"] == 50


def test_the_rust_frontend_is_there_and_stands_alone() -> None:
    assert "VLLM_USE_RUST_FRONTEND" in envs.environment_variables
    assert "does not support api_server_count > 1" in inspect.getsource(serve_cli.run_multi_api_server)
