"""Logs of starts that failed, and of starts that did not: which error is found, and what is said about it.

The files in `tests/logs` are whole logs of vLLM 0.32.0 on a CPU. What only a GPU shows is a line from its source or
from a public report, put where the engine would have written it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.server.log import diagnose, last_error

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
    ],
)
def test_a_recorded_log_shows_its_own_error(file: str, error: str, words: str) -> None:
    log = (LOGS / file).read_text(encoding="utf-8")
    assert error in last_error(log)
    assert words in "".join(diagnose(log) or ())


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("process", ["EngineCore", "EngineCore_DP0", "Worker_TP1"])
def test_a_known_cause_is_named(name: str, process: str) -> None:
    error, words = RECORDED[name]["log"], RECORDED[name]["says"]
    assert words in "".join(diagnose(failed(error.strip(), process=process)) or ())


HARMLESS = [
    "WARNING 11-25 08:38:55 [x.py:1] Failed to import from vllm._C: ModuleNotFoundError(\"No module named 'vllm._C'\")",
    "WARNING 11-25 08:38:55 [system_utils.py:255] Found ulimit of 20000 … `OSError: [Errno 24] Too many open files`.",
    "WARNING 11-25 08:38:55 [cuda.py:1] Detected different devices in the system: A. Set CUDA_DEVICE_ORDER=PCI_BUS_ID",
    "INFO 11-25 08:38:55 [topk.py:1] FlashInfer top-p/top-k sampling unavailable: Could not find nvcc; falling back",
    "WARNING 11-25 08:38:55 [interface.py:1] Using 'pin_memory=False' as WSL is detected. UVA is not available",
    "NCCL INFO NET/Plugin: Could not find: libnccl-net.so: cannot open shared object file: No such file or directory.",
    "INFO 11-25 08:38:55 [network.py:1] Port 29501 is already in use, trying port 29502",
    "INFO 11-25 08:38:55 [gpu_worker.py:1] Free memory on device (23/24 GiB) on startup. Desired GPU memory",
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
    only = STARTING + line + "\n" + API_SERVER
    assert (last_error(only), diagnose(only)) == ("", None)


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


def test_a_package_that_was_done_without_is_no_cause() -> None:
    chain = (
        "ModuleNotFoundError: No module named 'triton'\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n  File \"<env>/x.py\", line 1, in f\n    g()\nKeyError: 'never seen'"
    )
    assert diagnose(failed(chain)) is None
    assert diagnose(failed("ModuleNotFoundError: No module named 'vllm._C'")) is None


def test_what_happens_after_a_good_start_counts() -> None:
    later = GOOD + "\n" + failed("torch.OutOfMemoryError: CUDA out of memory.").removeprefix(STARTING)
    assert "显存不够" in "".join(diagnose(later) or ())


@pytest.mark.parametrize(("code", "words"), [(-9, "内存不够"), (-7, "--shm-size"), (-4, "avx2")])
def test_an_engine_that_a_signal_ended_left_no_error(code: int, words: str) -> None:
    log = STARTING + API_SERVER.replace("{}", f"{{'EngineCore': {code}}}")
    assert last_error(log) == ""
    assert words in "".join(diagnose(log) or ())


@pytest.mark.parametrize("log", ["", "\n" * 9, "INFO half a li", "ValueError: never seen\n" * 10_000])
def test_an_odd_log_is_no_cause(log: str) -> None:
    assert diagnose(log) is None
