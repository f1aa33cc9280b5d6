"""What the course says of vLLM, asked of the vLLM that is installed: an upgrade turns red where the text would lie."""

from __future__ import annotations

import argparse
import re

import nbformat
import pytest
from vllm import SamplingParams, envs
from vllm.benchmarks import latency, serve, throughput
from vllm.config import CacheConfig, SchedulerConfig
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.reasoning import ReasoningParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

from helpers.config import REPO_ROOT

LESSONS = sorted((REPO_ROOT / "notebooks").rglob("[0-9][0-9]_*.ipynb"))
PAGES = [REPO_ROOT / "README.md", *sorted((REPO_ROOT / "notebooks").glob("*.md"))]
OF_OTHER_PROGRAMS = {
    "conda": "--add --set",
    "curl": "--json --noproxy",
    "helpers": "--env --host --port --report",
    "ipykernel, jupyter": "--allow-root --display-name --env --name --no-browser --user",
    "json.tool": "--no-ensure-ascii",
    "modelscope": "--local-dir",
    "pip, uv": "--extra-index-url --index-url --torch-backend",
    "ps, wsl, systemctl": "--install --now --ppid --shutdown --web-download",
    "older vllm": "--enable-reasoning --hf_max_batch_size",
    "everything": "--help",
}


def course() -> str:
    cells = [cell.source for path in LESSONS for cell in nbformat.read(path, as_version=4).cells]
    return "\n".join([*cells, *(page.read_text(encoding="utf-8") for page in PAGES)])


def options(add_arguments) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
    parser = FlexibleArgumentParser()
    return add_arguments(parser) or parser


@pytest.fixture(scope="module")
def vllm_serve() -> argparse.ArgumentParser:
    return options(make_arg_parser)


def test_every_option_that_the_course_names_exists(vllm_serve: argparse.ArgumentParser) -> None:
    parsers = [vllm_serve, *(options(module.add_cli_args) for module in (serve, throughput, latency))]
    known = {option for parser in parsers for option in parser._option_string_actions}
    others = {option for names in OF_OTHER_PROGRAMS.values() for option in names.split()}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", course()))
    assert "--max-model-len" in named
    assert named - known <= others
    assert "--enable-reasoning" not in known  # 04 shows it as the flag that is gone


def test_every_vllm_variable_that_the_course_names_exists() -> None:
    named = set(re.findall(r"VLLM_[A-Z0-9_]+", course()))
    assert "VLLM_API_KEY" in named
    assert named <= set(envs.environment_variables)


def test_defaults_that_the_course_tells(vllm_serve: argparse.ArgumentParser) -> None:
    told = vllm_serve.parse_args([])
    assert told.port == 8000
    assert told.shutdown_timeout == 0
    assert told.gpu_memory_utilization == 0.92
    assert told.api_server_count in (None, 1) and told.stream_interval == 1
    assert SamplingParams().max_tokens == 16 and SamplingParams().temperature == 1.0
    assert CacheConfig.DEFAULT_BLOCK_SIZE == 16
    assert CacheConfig().enable_prefix_caching
    assert SchedulerConfig.enable_chunked_prefill


def test_the_reasoning_parser_of_the_lessons_exists() -> None:
    assert "deepseek_r1" in ReasoningParserManager.list_registered()
