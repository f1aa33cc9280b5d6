"""Logs of starts that failed, and of starts that did not: which error is found, and what is said about it.

The files in `tests/logs` are whole logs of vLLM 0.32.0 on a CPU. What only a GPU shows is a line from its source or
from a public report, put where the engine would have written it.
"""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest

from helpers.server.log import CAUSES, diagnose, excerpt, last_error

LOGS = Path(__file__).parent / "logs"
RECORDED = json.loads((Path(__file__).parent / "fakes" / "vllm_messages.json").read_text(encoding="utf-8"))
GOOD = (LOGS / "good_start.txt").read_text(encoding="utf-8")
STARTING = "".join(line for line in GOOD.splitlines(keepends=True) if "startup complete" not in line)
API_SERVER = """Traceback (most recent call last):
  File "<env>/bin/vllm", line 10, in <module>
    sys.exit(main())
  File "<env>/vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def failed(error: str, *, before: str = "", process: str = "EngineCore") -> str:
    """A whole log that `error` ended, with other lines before it."""
    stamp = f"({process} pid=7) ERROR 11-25 08:39:13 [core.py:1510] "
    frames = [
        "EngineCore failed to start.",
        "Traceback (most recent call last):",
        '  File "<env>/vllm/x.py", line 1, in f',
    ]
    lines = [*frames, "    raise_it()", *error.splitlines()]
    return STARTING + before + "".join(f"{stamp}{line}\n" for line in lines) + "Process EngineCore:\n" + API_SERVER


@pytest.mark.parametrize(
    ("file", "error", "words"),
    [
        ("wrong_shapes.txt", "RuntimeError: start (0) + length (768) exceeds dimension size (384).", "config.json"),
        ("cut_weights.txt", "incomplete metadata, file not fully covered", "损坏"),
        ("model_id_offline.txt", "LocalEntryNotFoundError", "文件夹"),
        ("too_many_cards.txt", "Total number of attention heads (4)", "4 个注意力头分不成 3 等份"),
        ("broken_json.txt", "OSError: It looks like the config file at", "config.json 坏了"),
        ("unknown_model_type.txt", "has model type `qwen99`", "qwen99"),
        ("missing_shard.txt", "FileNotFoundError: Weight files referenced", "model-00002-of-00002.safetensors"),
        ("low_utilization.txt", "requested memory for kv (-0.45/0.09 GiB)", "0.09 GiB"),
        ("utilization_90.txt", "gpu_memory_utilization", "less than or equal to 1"),
        ("port_taken.txt", "OSError: [Errno 98] Address already in use", "端口"),
        ("wrong_path.txt", "Repo id must be in the form", "/root/autodl-temp/R1 不存在"),
    ],
)
def test_a_recorded_log_shows_its_own_error(file: str, error: str, words: str) -> None:
    log = (LOGS / file).read_text(encoding="utf-8")
    assert error in last_error(log)
    assert error in excerpt(log)
    assert words in "".join(diagnose(log) or ())


def test_an_engine_that_was_killed_while_it_loaded_left_no_word() -> None:
    log = (LOGS / "engine_killed.txt").read_text(encoding="utf-8")
    assert last_error(log) == ""
    assert "内存" in "".join(diagnose(log) or ())
    assert "(EngineCore" in excerpt(log) and "See root cause above" not in excerpt(log)


UNKNOWN = [
    "KeyError: 'never seen'",
    "AssertionError: expected 3 buffers",
    "NotImplementedError",
    "AttributeError: 'NoneType' object has no attribute 'shape'",
    "TypeError: unsupported operand type(s) for +: 'int' and 'NoneType'",
    "ValueError: sampling on this hardware needs a seed",
    "RuntimeError: maxidx must be smaller than 8",
    (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "  Value error, no such thing [type=value_error, input_value=ArgsKwargs((), "
        "{'trust_remote_code': False, 'quantization': None, 'shutdown_timeout': 0}), input_type=ArgsKwargs]"
    ),
]


@pytest.mark.parametrize("error", UNKNOWN)
def test_an_error_that_nobody_knows_is_shown_and_not_explained(error: str) -> None:
    log = failed(error)
    assert diagnose(log) is None
    assert last_error(log) == error
    assert excerpt(log).endswith(error) and "raise_it()" in excerpt(log)


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("process", ["EngineCore", "EngineCore_DP0", "Worker_TP1"])
def test_a_known_cause_is_named(name: str, process: str) -> None:
    error, words = RECORDED[name]["log"], RECORDED[name]["says"]
    assert words in "".join(diagnose(failed(error.strip(), process=process)) or ())


def test_every_cause_is_the_answer_to_some_message() -> None:
    logs = [failed(message["log"].strip()) for message in RECORDED.values()]
    logs += [file.read_text(encoding="utf-8") for file in LOGS.glob("*.txt")]
    said = {"".join(known) for log in logs if (known := diagnose(log))}

    def template(cause: dict[str, str]) -> str:
        text = re.escape(cause["what"] + cause["todo"])
        return re.sub(r"\\\{\d\\\}", "[\\\\s\\\\S]*", re.sub(r"（\\\{\d\\\}）", "(?:（.*）)?", text))

    assert [cause["error"] for cause in CAUSES if not any(re.fullmatch(template(cause), one) for one in said)] == []


HARMLESS = [
    "WARNING 11-25 08:38:55 [x.py:1] Failed to import from vllm._C: ModuleNotFoundError(\"No module named 'vllm._C'\")",
    "WARNING 11-25 08:38:55 [system_utils.py:255] Found ulimit of 20000 … `OSError: [Errno 24] Too many open files`.",
    "WARNING 11-25 08:38:55 [cuda.py:1] Detected different devices in the system: A. Set CUDA_DEVICE_ORDER=PCI_BUS_ID",
    "INFO 11-25 08:38:55 [topk.py:1] FlashInfer top-p/top-k sampling unavailable: Could not find nvcc; falling back",
    "WARNING 11-25 08:38:55 [interface.py:1] Using 'pin_memory=False' as WSL is detected. UVA is not available",
    "NCCL INFO NET/Plugin: Could not find: libnccl-net.so: cannot open shared object file: No such file or directory.",
    "INFO 11-25 08:38:55 [network.py:1] Port 29501 is already in use, trying port 29502",
    "INFO 11-25 08:38:55 [gpu_worker.py:1] Free memory on device (23/24 GiB) on startup. Desired GPU memory",
    "DEBUG 11-25 08:38:55 [__init__.py:93] CUDA platform is not available because: NVML Shared Library Not Found",
    "DEBUG 11-25 08:38:55 [__init__.py:114] ROCm platform is not available because: No module named 'amdsmi'",
    "ERROR 11-25 08:38:55 [moe.py:60] Failed to import Triton kernels. Error: cannot import name 'Mx' from 'triton'",
    "[rank0]:[W1125 08:38:55.1 ProcessGroupNCCL.cpp:1] Warning: NCCL error: destroy_process_group() was not called",
    "\n".join(
        f"WARNING 11-25 08:38:55 [x.py:1] {line}"
        for line in [
            "Something went wrong, going on",
            "Traceback (most recent call last):",
            '  File "<env>/x.py", line 1, in f',
            "ModuleNotFoundError: No module named 'their_package'",
        ]
    ),
    (
        "Exception ignored in: <function Pool.__del__ at 0x7f>\n"
        "Traceback (most recent call last):\n"
        '  File "<env>/x.py", line 1, in __del__\n'
        "ModuleNotFoundError: No module named 'their_package'"
    ),
    (
        "ERROR 11-25 08:38:55 [__init__.py:77] Failed to load plugin x\n"
        "ERROR 11-25 08:38:55 [__init__.py:77] Traceback (most recent call last):\n"
        'ERROR 11-25 08:38:55 [__init__.py:77]   File "<env>/vllm/plugins/__init__.py", line 1, in f\n'
        "ERROR 11-25 08:38:55 [__init__.py:77] ModuleNotFoundError: No module named 'their_plugin'"
    ),
]


@pytest.mark.parametrize("line", HARMLESS, ids=lambda line: line[:60])
def test_a_harmless_line_is_no_cause(line: str) -> None:
    good = GOOD.replace("INFO", f"{line}\nINFO", 1)
    assert (last_error(good), diagnose(good)) == ("", None)
    unknown = failed("KeyError: 'never seen'", before=f"(APIServer pid=1) {line}\n")
    assert (last_error(unknown), diagnose(unknown)) == ("KeyError: 'never seen'", None)
    only = "\n".join([line, API_SERVER])
    assert (last_error(only), diagnose(only)) == ("", None)


def test_a_line_of_code_that_a_warning_quotes_hides_no_error() -> None:
    warning = (
        "/env/torch/cuda/__init__.py:64: FutureWarning: pynvml is deprecated\n  import pynvml  # type: ignore[x]\n"
    )
    error = "Traceback (most recent call last):\n  File \"x.py\", line 1, in f\n    g()\nKeyError: 'never seen'\n"
    assert last_error(warning + error) == "KeyError: 'never seen'"


def test_the_error_that_it_was_raised_from_is_looked_at_too() -> None:
    chain = (
        "ImportError: libcuda.so.1: cannot open shared object file\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        'Traceback (most recent call last):\n  File "<env>/x.py", line 1, in f\n    g()\n'
        "RuntimeError: something else failed"
    )
    log = failed(chain)
    assert last_error(log) == "RuntimeError: something else failed"
    assert "nvidia-smi" in "".join(diagnose(log) or ())


def test_a_model_that_could_not_be_inspected_was_stopped_by_something_else() -> None:
    stamp = "(APIServer pid=1) ERROR 11-25 08:40:33 [registry.py:975] "
    cause = "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory"
    lines = ["Error in inspecting model architecture 'X'", "Traceback (most recent call last):", "  File x", cause]
    wrapper = (
        "Traceback (most recent call last):\n  File x\npydantic.ValidationError: 1 validation error\n"
        "  Value error, Model architectures ['X'] failed to be inspected. Please check the logs."
    )
    told = "".join(f"{stamp}{line}\n" for line in lines)
    assert last_error(STARTING + told + wrapper) == cause
    assert "failed to be inspected" in last_error(STARTING + wrapper)


def test_a_package_that_was_done_without_is_no_cause() -> None:
    chain = (
        "ModuleNotFoundError: No module named 'triton'\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n  File \"<env>/x.py\", line 1, in f\n    g()\nKeyError: 'never seen'"
    )
    assert diagnose(failed(chain)) is None
    assert "缺少 Python 包" not in "".join(diagnose(failed("ModuleNotFoundError: No module named 'vllm._C'")) or ())


def test_what_happens_after_a_good_start_counts() -> None:
    later = GOOD + "\n" + failed("torch.OutOfMemoryError: CUDA out of memory.").removeprefix(STARTING)
    assert "显存不够" in "".join(diagnose(later) or ())


def test_an_assert_without_a_word_is_known_by_its_code() -> None:
    log = failed("AssertionError").replace("raise_it()", "assert param_data.shape == loaded_weight.shape")
    assert "config.json" in "".join(diagnose(log) or ())


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause["what"][:40])
def test_a_cause_fills_its_braces_and_says_what_to_do(cause: dict[str, str]) -> None:
    groups = re.compile(cause["error"], re.IGNORECASE).groups
    fields = [name for text in (cause["what"], cause["todo"]) for _, name, *_ in string.Formatter().parse(text) if name]
    assert all(int(name) < groups for name in fields)
    assert cause["what"].endswith(("。", "}")) and cause["todo"].endswith("。")


def test_what_a_tool_wrote_itself_is_read_too() -> None:
    log = failed(
        "torch._inductor.exc.InductorError: CalledProcessError: Command '['/usr/bin/gcc', '/tmp/main.c', "
        "'-lcuda']' failed",
        before="/usr/bin/ld: cannot find -lcuda: No such file or directory\n",
    )
    assert "libcuda.so" in "".join(diagnose(log) or ())


OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. Process 41 has 20.04 GiB memory in use."


def test_of_two_workers_the_one_that_broke_counts() -> None:
    def died(process: str, number: int, error: str) -> list[str]:
        stamp = f"({process} pid={number}) ERROR 11-25 08:39:13 [multiproc_executor.py:953] "
        text = [
            "WorkerProc failed to start.",
            "Traceback (most recent call last):",
            '  File "x.py", line 1, in f',
            error,
        ]
        return [stamp + line for line in text]

    lost = "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:37321"
    both = zip(died("Worker_TP0", 8, OOM), died("Worker_TP1", 9, lost), strict=True)  # they write at the same time
    wrapper = "Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace"
    late = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nRuntimeError: cannot schedule new futures'
    log = STARTING + "\n".join([*(line for pair in both for line in pair), wrapper, late, API_SERVER])
    assert last_error(log) == OOM
    assert "pid 41" in "".join(diagnose(log) or ())
    assert "Connection closed" not in excerpt(log)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "ERROR 05-28 03:19:56 [core.py:396] ",
        "ERROR 04-26 01:59:07 worker_base.py:157] ",
        "(VllmWorkerProcess pid=87) ERROR 07-19 10:59:03 multiproc_worker_utils.py:226] ",
        "(VllmWorker TP0 pid=87) ERROR 07-19 10:59:03 [multiproc_executor.py:380] ",
        "(EngineCore_DP0 pid=26353) (Worker_TP7 pid=26373) ERROR 12-17 13:32:44 [multiproc_executor.py:815] ",
        "(RayWorkerWrapper pid=7596, ip=10.0.0.2) ERROR 07-19 10:59:03 [worker_base.py:620] ",
        "\x1b[0;36m(EngineCore_0 pid=1)\x1b[0;0m ERROR 08-19 13:12:47 [core.py:718] ",
        "2026-03-11T17:57:10.976518836Z (EngineCore_DP0 pid=469) ERROR 03-11 17:57:10 [multiproc_executor.py:783] ",
        "Aug 17 18:42:18 box vllm[8052]: (APIServer pid=8052) ",
        "vllm-1  | (EngineCore pid=41) ",
        "[rank0]: ",
    ],
)
def test_prefixes_of_older_versions_and_of_containers_are_no_part_of_an_error(prefix: str) -> None:
    lines = ["Traceback (most recent call last):", '  File "x.py", line 1, in f', "    call()", "odd.Name: it broke"]
    log = STARTING + "".join(f"{prefix}{line}\n" for line in lines) + API_SERVER
    assert last_error(log) == "odd.Name: it broke"
    assert diagnose(log.replace("odd.Name: it broke", OOM))


def test_a_copy_that_lost_its_indentation_is_read() -> None:
    log = "\n".join(line.strip() for line in failed("KeyError: 'never seen'").replace("]     ", "] ").splitlines())
    assert last_error(log) == "KeyError: 'never seen'"


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, "内存不够"), (-7, "--shm-size"), (-4, "avx2"), (-11, "-m helpers.doctor"), (137, "内存不够")],
)
def test_an_engine_that_a_signal_ended_left_no_error(code: int, words: str) -> None:
    log = STARTING + API_SERVER.replace("{}", f"{{'EngineCore': {code}}}")
    assert last_error(log) == ""
    assert words in "".join(diagnose(log) or ())


@pytest.mark.parametrize("log", ["", "\n" * 9, "INFO half a li", "ValueError: never seen\n" * 10_000])
def test_an_odd_log_is_no_cause(log: str) -> None:
    assert diagnose(log) is None
