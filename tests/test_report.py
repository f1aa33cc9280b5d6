"""The reports that ship with the course, and the small parts of the commands that make them."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import psutil
import pytest

from helpers import get_profile, machine
from helpers.authoring import series
from helpers.authoring.report import __main__ as report
from helpers.authoring.report import cpu, gpu, notebooks
from helpers.authoring.report.cores import CoresWatch, typical
from helpers.authoring.report.memory import AS_ON_24_GB, memory_split
from helpers.authoring.report.step import decode_step
from helpers.bench import measured
from helpers.bench.fresh import run_fresh
from helpers.config import CLASSROOM_MODEL_DIR, Profile
from helpers.errors import BenchmarkError, TutorialError
from helpers.models import SEVEN_B_CONFIG, model_size


@pytest.mark.parametrize("name", ["cpu", "gpu", "gpu_notebooks"])
def test_a_shipped_report_names_its_machine_versions_and_date(name: str) -> None:
    head = measured(name)["machine"]
    assert head["date"] >= "2026-11-24"
    assert head["versions"]["vllm"].split("+")[0] == "0.32.0"
    assert bool(head["gpu"]) == (name != "cpu")
    assert head["cores"] and head["python"]


def profile_of(name: str) -> Profile:
    return get_profile({"TUTORIAL_PROFILE": name, "TUTORIAL_MODEL_DIR": str(CLASSROOM_MODEL_DIR)})


def test_a_card_too_small_for_two_copies_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = machine.describe() | {"gpu_memory_gib": 24.0}
    monkeypatch.setattr(gpu, "describe", lambda: card)
    monkeypatch.setattr(gpu, "model_size", lambda _: model_size(SEVEN_B_CONFIG))
    with pytest.raises(BenchmarkError, match="24 GiB 显存，这份报告要 38 GiB"):
        gpu.measure(profile_of("gpu"), folder=tmp_path, weights="random weights", repeats=1, save=pytest.fail)
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The GPU report with parts that measure nothing; those that get a text raise it."""
    errors: dict[str, str] = {}

    def part(name: str) -> Any:
        def measure(_: gpu.Run, report: dict[str, Any]) -> None:
            if name in errors:
                raise BenchmarkError(errors[name])
            report[name] = {"eager": {}, "serve": {}} if name == "startup" else [name]

        return measure

    monkeypatch.setattr(gpu, "PARTS", {name: part(name) for name in gpu.PARTS})
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return errors


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, str]) -> Callable[[str], int]:
    """`python -m helpers.authoring.report …` in a repository of its own."""
    shutil.copytree(report.SHIPPED, tmp_path / "bench")
    monkeypatch.setattr(report, "REPO_ROOT", tmp_path)
    monkeypatch.setattr(report, "FOLDER", tmp_path / "report")
    monkeypatch.setattr(report, "SHIPPED", tmp_path / "bench")
    monkeypatch.setattr(report, "get_profile", lambda: profile_of("classroom"))
    return lambda words: report.main(words.split())


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("broken", gpu.PARTS)
def test_what_is_measured_stays_when_a_later_part_fails(
    broken: str, command: Callable[[str], int], parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "get_profile", lambda: profile_of("gpu"))
    monkeypatch.setattr(gpu, "describe", lambda: machine.describe() | {"gpu_memory_gib": 80.0})
    parts[broken] = "broken on purpose"
    assert command("gpu --weights none") == 1
    saved, before = tmp_path / "report" / "gpu.json", [*gpu.PARTS][: [*gpu.PARTS].index(broken)]
    assert saved.exists() == bool(before)
    assert not before or [name for name in read(saved) if name in gpu.PARTS] == before
    parts.clear()
    after = [name for name in gpu.PARTS if name not in before]
    assert command(f"gpu --weights none --parts {','.join(after)} --keep") == 0
    assert read(tmp_path / "bench" / "gpu.json") == read(saved)
    assert gpu.missing(read(saved)) == []


@pytest.mark.parametrize("other", ["another machine", "another version", "other weights"])
def test_parts_of_another_report_are_not_mixed_in(
    other: str, command: Callable[[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "report" / "gpu.json"
    assert command("gpu --weights none --parts limits") == 0
    found = read(saved)
    if other == "another machine":
        found["machine"]["cpu"] = other
    elif other == "another version":
        found["machine"]["versions"]["vllm"] = "0.1"
    else:
        found["weights"] = other
    saved.write_text(json.dumps(found))
    assert command("gpu --weights none --parts curve") == 1
    assert "不能只补测几项" in capsys.readouterr().err
    assert read(saved) == found
    assert command("gpu --weights none") == 0  # all of it: nothing is carried on


@pytest.mark.parametrize("part", ["memory", "long"])
def test_a_part_of_the_card_alone_joins_a_report_of_another_host_with_the_same_card(
    part: str, command: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "get_profile", lambda: profile_of("gpu"))
    saved = tmp_path / "report" / "gpu.json"
    assert command("gpu --weights none --parts limits,startup") == 0
    found = read(saved)
    found["machine"] |= {"cpu": "another", "cores": 32}
    saved.write_text(json.dumps(found))
    assert command(f"gpu --weights none --parts {part}") == 0
    joined = read(saved)
    assert joined.pop("hosts")[part]["cpu"] != "another"
    assert joined == found | {part: [part]}
    found["machine"]["driver"] = "another"
    saved.write_text(json.dumps(found))
    assert command(f"gpu --weights none --parts {part}") == 1


def test_an_incomplete_report_is_not_shipped(
    command: Callable[[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(tmp_path / "bench" / "gpu.json")
    assert command("gpu --parts limits,startup,pairs,curve --keep") == 1
    assert "还缺 step、api_servers、memory" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command("gpu --quick --keep")
    with pytest.raises(SystemExit):
        command("gpu --parts curves")
    assert "没有 curves" in capsys.readouterr().err
    assert read(tmp_path / "bench" / "gpu.json") == before


def test_the_seconds_of_notebooks_are_merged_as_long_as_the_card_is_the_same(
    command: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(path: Path) -> tuple[Any, float]:
        if path.stem in broken:
            raise TutorialError(path.stem)
        return nbformat.v4.new_notebook(), 1.23

    first, second = [path.stem for path in series.notebook_paths()][:2]
    broken, shipped = {second}, read(tmp_path / "bench" / "gpu_notebooks.json")
    monkeypatch.setattr(series, "execute", execute)
    monkeypatch.setattr(series, "EXECUTED_DIR", tmp_path / "executed")
    monkeypatch.setattr(notebooks, "describe", lambda: shipped["machine"])
    assert command(f"notebooks --weights none --numbers {first[:2]} {second[:2]}") == 1
    saved = tmp_path / "report" / "gpu_notebooks.json"
    assert read(saved)["seconds"] == shipped["seconds"] | {first[:2]: 1.2}
    broken.clear()
    assert command(f"notebooks --weights none --numbers {second[:2]} --keep") == 0
    merged = shipped["seconds"] | {first[:2]: 1.2, second[:2]: 1.2}
    assert read(tmp_path / "bench" / "gpu_notebooks.json")["seconds"] == merged
    monkeypatch.setattr(notebooks, "describe", lambda: shipped["machine"] | {"gpu": ["another"]})
    assert command(f"notebooks --weights none --numbers {first[:2]}") == 0
    assert read(saved)["seconds"] == {first[:2]: 1.2}
    assert command("notebooks --numbers 99") == 1


def test_cores_are_told_apart_by_process() -> None:
    busy = "while :; do :; done"
    engine = f"exec -a VLLM::EngineCore bash -c '{busy}'"
    with (
        subprocess.Popen(["bash", "-c", f"({engine}) & wait"]) as server,
        subprocess.Popen(["bash", "-c", busy]) as ours,
    ):
        try:
            with CoresWatch(server.pid, every_s=0.2) as watch:
                while len(watch.samples) < 4:
                    time.sleep(0.05)
        finally:
            for process in (*psutil.Process(server.pid).children(recursive=True), server, ours):
                process.kill()
    cores = typical(watch.samples)
    assert cores["engine"] > 0.05 and cores["client"] > 0.05
    assert cores["api_server"] < 0.05


def test_only_samples_with_the_engine_at_work_count() -> None:
    def sample(api_server: float, engine: float, client: float) -> dict[str, float]:
        return {"api_server": api_server, "engine": engine, "client": client}

    loading, work = sample(0.0, 0.0, 1.0), [sample(0.9, 0.5, 0.6), sample(1.0, 0.6, 0.7), sample(0.5, 0.3, 0.4)]
    assert typical([loading] * 9 + work + [loading]) == sample(0.9, 0.5, 0.6)


def test_an_unknown_report_is_named() -> None:
    with pytest.raises(BenchmarkError, match="cpu、gpu、gpu_notebooks 和 gpu_family"):
        measured("tpu")


def test_pairs_are_measured_in_turn() -> None:
    order: list[str] = []

    def side(name: str) -> Any:
        return lambda: order.append(name) or float(len(order))

    ours, theirs = cpu.in_turn(side("a"), side("b"), n=3)
    assert order == ["a", "b"] * 3
    assert (ours, theirs) == ([1.0, 3.0, 5.0], [2.0, 4.0, 6.0])


def test_the_table_shows_ratios_pair_by_pair(capsys: pytest.CaptureFixture[str]) -> None:
    cpu.print_table([{"name": "x : y", "unit": "s", "ours": [10.0, 20.0], "theirs": [5.0, 5.0]}])
    assert "3 (2-4)" in capsys.readouterr().out


def test_the_machine_is_described_without_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_gpus", lambda: [])
    monkeypatch.setattr(machine, "PACKAGES", ("no-such-package", "pytest"))
    found = machine.describe()
    assert found["gpu"] == [] and found["driver"] is None
    assert list(found["versions"]) == ["pytest"]


def test_a_gpu_is_named_without_its_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cuda_gpus", lambda: ["GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0888f7dc)"])
    monkeypatch.setattr(machine, "ask_smi", lambda *_: machine.SmiAnswer(0, "81559, 580.159.04\n"))
    found = machine.describe()
    assert (found["gpu"], found["driver"]) == (["NVIDIA H100 80GB HBM3"], "580.159.04")
    assert found["gpu_memory_gib"] == 79.6


def test_a_function_runs_in_a_process_of_its_own_with_the_given_environment(tmp_path: Path) -> None:
    assert run_fresh(os.getpid, folder=tmp_path) != os.getpid()
    assert run_fresh(os.getenv, folder=tmp_path, env={**os.environ, "X_TEST": "1"}, key="X_TEST") == "1"
    assert (tmp_path / "getpid.json").is_file() and (tmp_path / "getenv.log").is_file()


def test_a_function_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"sum of squares 以状态 1 结束.*sum of squares\.log"):
        run_fresh(math.fsum, folder=tmp_path, name="sum of squares", seq=1)
    assert "TypeError" in (tmp_path / "sum of squares.log").read_text()


def kernel(ts: float, dur: float, name: str, cat: str = "kernel") -> dict[str, Any]:
    return {"cat": cat, "ts": ts, "dur": dur, "name": name}


ONE_LAYER = [  # names as on an H100; µs
    kernel(0, 300, "nvjet_sm90_tst_64x32_64x16_2x1_v_bz_TNT"),
    kernel(300, 100, "void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<...>>>"),
    kernel(400, 50, "triton_red_fused_add_rms_norm_0"),
    kernel(450, 50, "Memcpy DtoD", "gpu_memcpy"),
    kernel(600, 400, "void cublasLt::splitKreduce_kernel<32, 16>"),
]


def test_a_decode_step_is_divided_into_kinds() -> None:
    events = [
        *ONE_LAYER, kernel(0, 900, "python", "cpu_op"),
        *(event | {"ts": event["ts"] + 1000} for event in ONE_LAYER),
    ]  # fmt: skip
    assert decode_step(reversed(events), layers=2) == pytest.approx(
        {
            "attention": 0.2, "matrix products": 1.4, "other kernels": 0.2, "nothing running": 0.2, "steps": 1.0,
        }
    )  # fmt: skip
    assert decode_step(events, layers=1)["matrix products"] == pytest.approx(0.7)


def test_what_runs_beside_another_kernel_costs_nothing() -> None:
    beside = [*ONE_LAYER, kernel(100, 100, "triton_poi_fused_1"), kernel(950, 100, "triton_poi_fused_2")]
    assert decode_step(beside, layers=1) == pytest.approx(
        decode_step(ONE_LAYER, layers=1) | {"other kernels": 0.15}, abs=1e-9
    )


def test_a_trace_without_gpu_work_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="CUPTI"):
        decode_step([kernel(0, 5, "aten::mm", "cpu_op")], layers=28)


VLLM = Path(find_spec("vllm").origin).parent
# What vLLM says in the log of a start, in its own words, and where these stand.
SAYS = {
    "v1/worker/gpu/model_runner.py": {"Model loading took %s GiB memory and %.6f seconds": ("14.32", 3.2)},
    "v1/core/kv_cache_utils.py": {"%s KV cache size: %s tokens, ": ("GPU", "1,014,240")},
    "v1/worker/gpu_worker.py": {
        "Available KV cache memory: %s GiB": ("54.17",),
        "CUDA graph pool memory: %s GiB (actual), %s GiB (estimated), ": ("0.61", "0.83"),
        "Free memory on device (78.7/79.18 GiB) on startup. Desired GPU memory utilization is (0.9, 71.26 GiB). ": (),
    },
}
LOG = "\n".join(text % values for texts in SAYS.values() for text, values in texts.items())


def test_the_share_is_divided_as_vllm_says() -> None:
    split = memory_split(LOG)
    assert split == {
        "card_gib": 79.18, "share_gib": 71.26, "weights_gib": 14.32, "kv_gib": 54.17, "kv_tokens": 1_014_240,
        "graphs_gib": 0.61, "graphs_estimate_gib": 0.83, "rest_gib": 2.77,
    }  # fmt: skip
    with pytest.raises(BenchmarkError, match="share_gib"):
        memory_split(LOG.replace("Desired", ""))


def test_these_are_the_installed_vllms_words() -> None:
    for file, texts in SAYS.items():
        source = re.sub(r'"\s+f?"', "", (VLLM / file).read_text(encoding="utf-8"))
        source = re.sub(r"\{[^{}]*\}", "{}", source)
        for text, values in texts.items():
            pattern = text if values else re.sub(r"\d+(\.\d+)?", "{}", text)
            assert pattern in source, text


def test_a_card_below_70_gib_gets_what_the_memory_part_asks_for() -> None:
    """vLLM's own function, cut out: its import takes ten seconds."""
    tree = ast.parse((VLLM / "engine" / "arg_utils.py").read_text(encoding="utf-8"))
    [function] = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "get_batch_defaults"
    ]
    function.decorator_list, function.returns = [], None
    function.body = [node for node in function.body if not isinstance(node, ast.ImportFrom | ast.AnnAssign)]
    for argument in function.args.args:
        argument.annotation = None
    card = SimpleNamespace(
        get_device_total_memory=lambda: 23.6 * 2**30, get_device_name=lambda: "NVIDIA GeForce RTX 4090",
        is_tpu=lambda: False, is_cpu=lambda: False,
    )  # fmt: skip
    usage = SimpleNamespace(LLM_CLASS="llm", OPENAI_API_SERVER="server")
    names: dict[str, Any] = {"current_platform": card, "UsageContext": usage, "GiB_bytes": 2**30}
    exec(compile(ast.Module([function], []), "vllm", "exec"), names)
    tokens, requests = (default["server"] for default in names["get_batch_defaults"](None, 1))
    assert AS_ON_24_GB[:4] == ("--max-num-batched-tokens", str(tokens), "--max-num-seqs", str(requests))


def test_the_memory_part_starts_a_server_twice_and_reads_each_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    class Server:
        def __init__(self, command: list[str], *, log_file: Path, env: dict[str, str]) -> None:
            commands.append(command)
            self.log_file = log_file

        def __enter__(self) -> Server:
            self.log_file.write_text(LOG if len(commands) == 1 else LOG.replace("54.17", "53.95"))
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(gpu, "VLLMServer", Server)
    monkeypatch.setattr(gpu, "cuda_memory_gib", lambda: 79.18)
    run, found = gpu.Run(profile_of("gpu"), CLASSROOM_MODEL_DIR, tmp_path, 1, False), {}
    gpu.measure_memory(run, found)
    assert found["memory"]["cuda_gib"] == 79.18
    assert [found["memory"][name]["rest_gib"] for name in ("as_24gb", "default")] == [2.77, 2.99]
    assert commands[0] == [*commands[1], *AS_ON_24_GB]
