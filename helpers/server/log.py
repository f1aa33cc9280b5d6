"""Read vLLM's start-up log: which phase it is in, and why it died. The patterns were recorded from vLLM 0.32.0."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["PHASES", "diagnose", "phase", "tail"]

TAIL_BYTES = 200_000
MISSING_PACKAGE = r"No module named '([\w.]+)'"

# (what the log says, what is going on from there); the one that occurs last in the log counts
PHASES = [
    ("", "启动 Python，导入 vLLM"),
    ("non-default args", "读取模型配置"),
    ("Resolved architecture", "启动引擎进程"),
    ("Starting to load model", "加载权重"),
    ("Loading weights took", "分配 KV cache"),
    ("torch.compile cache", "编译计算图"),
    ("KV cache size", "预热"),
    ("Capturing CUDA graph", "捕获 CUDA graph"),
    ("Supported tasks", "启动 HTTP 服务"),
]

# (pattern, what happened, what to do); groups of the pattern fill the braces; what stands last in the log counts
DIAGNOSES = [
    (
        r"unrecognized arguments: (.+)",
        "vllm serve 不认识参数 {0}。",
        "用 vllm serve --help=all 查当前版本的写法，改掉或删掉它。",
    ),
    (
        r"argument (--[\w-]+)[^:]*: (invalid.+|expected.+)",
        "参数 {0} 的值不对：{1}",
        "用 vllm serve --help=all 查它可以取什么值。",
    ),
    (
        r"Address already in use",
        "端口已被别的程序占用。",
        "换一个端口，或先停掉占用它的程序。",
    ),
    (
        r"Repo id must be in the form[^\n]*?: '([^']+)'",
        "模型文件夹 {0} 不存在。",
        "检查路径；还没有下载的话，先运行 02 号笔记本。",
    ),
    (
        r"Invalid repository ID or local directory specified: '([^']+)'",
        "{0} 里没有可用的模型（多半缺 config.json）。",
        "重新运行 02 号笔记本，把模型下载完整。",
    ),
    (
        r"Cannot find any model weights with `([^`]+)`",
        "{0} 里没有权重文件（*.safetensors）。",
        "重新运行 02 号笔记本，把模型下载完整。",
    ),
    (
        r"SafetensorError: ([^\n]+)",
        "权重文件不完整或已损坏（{0}）。",
        "删掉损坏的权重文件，再运行 02 号笔记本重新下载。",
    ),
    (
        r"max_model_len \((\d+)\) is greater than the derived max_model_len \(max_position_embeddings=(\d+)",
        "--max-model-len {0} 超过了模型支持的上限 {1}。",
        "把 --max-model-len 改成不超过 {1}。",
    ),
    (
        r"max seq len \((\d+)\), \(([\d.]+) GiB KV cache is needed.*?\(([\d.]+) GiB\).*?maximum model length is (\d+)",
        "KV cache 放不下：一条 {0} token 的请求要 {1} GiB，只剩 {2} GiB。",
        "把 --max-model-len 调到 {3} 以下，或把 --gpu-memory-utilization 调大。",
    ),
    (
        r"max seq len \((\d+)\), \(([\d.]+) GiB KV cache is needed.*?\(([\d.]+) GiB\)",
        "KV cache 放不下：一条 {0} token 的请求要 {1} GiB，只剩 {2} GiB。",
        "把 --max-model-len 调小，或把 --gpu-memory-utilization 调大。",
    ),
    (
        r"No available memory for the cache blocks",
        "装完权重以后，没有内存留给 KV cache 了。",
        "把 --gpu-memory-utilization 调大，或换显存更大的卡。",
    ),
    (
        r"\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired (?:GPU|CPU) memory utilization \(([\d.]+)",
        "空闲内存不够：共 {1} GiB，空闲 {0} GiB，而 --gpu-memory-utilization 要占用其中的 {2}。",
        "关掉占内存的程序（例如另一个笔记本里的 LLM），或把 --gpu-memory-utilization 调小。",
    ),
    (
        r"(?:CUDA out of memory|OutOfMemoryError)",
        "显存不够。",
        "用 nvidia-smi 看是谁占着显存，关掉它；或把 --max-model-len、--gpu-memory-utilization 调小。",
    ),
    (
        r"Bfloat16 is only supported on GPUs with compute capability of at least 8",
        "这块显卡不支持 bfloat16。",
        "设环境变量 TUTORIAL_DTYPE=float16，重新运行。",
    ),
    (
        r"(?:NVIDIA driver on your system is too old|driver version is insufficient)",
        "NVIDIA 驱动太旧，跑不了现在装的 vLLM。",
        "运行 python -m helpers.doctor，看该装哪一个 wheel。",
    ),
    (
        r"No such file or directory: '(ninja|[\w/.-]*nvcc)'",
        "FlashInfer 要在第一次启动时编译算子，可是找不到 {0}。",
        "去掉自己设的 VLLM_USE_FLASHINFER_SAMPLER（课程默认设成 0，速度一样），重启内核，再启动。",
    ),
    (
        MISSING_PACKAGE,
        "缺少 Python 包 {0}。",
        "按 README 重新安装环境。",
    ),
]


def phase(log: str) -> str:
    """Name the start-up phase that the log has reached, in words for the progress bar."""
    return max(PHASES, key=lambda entry: log.rfind(entry[0]) if entry[0] else -0.5)[1]


def diagnose(log: str) -> tuple[str, str] | None:
    """Say what went wrong and what to do; None where the log holds nothing that is known."""
    ends = [
        line for line in log.splitlines() if re.search(r"\w+(Error|Exception)\b", line) and "root cause" not in line
    ]
    best: tuple[int, str, str] | None = None
    for pattern, what, todo in DIAGNOSES:
        for found in re.finditer(pattern, log):
            if pattern == MISSING_PACKAGE and not (ends and found[0] in ends[-1]):
                continue  # an import that failed and was handled
            if best is None or found.start() > best[0]:
                best = found.start(), what.format(*found.groups()), todo.format(*found.groups())
    return best[1:] if best else None


def tail(file: Path, *, lines: int | None = None) -> str:
    """The last `lines` lines of a log (None: all of its last 200 kB); empty where it cannot be read."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - TAIL_BYTES))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text if lines is None else "\n".join(text.splitlines()[-lines:] if lines > 0 else [])
