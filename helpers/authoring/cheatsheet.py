"""The commands of the series on one printed page, notebooks/CHEATSHEET.html: `python -m helpers.authoring.cheatsheet`.

Nothing is typed here twice: each command is looked up in the notebook that teaches it, by how it begins, or built by
the function that the notebook shows, with the settings of the `gpu` profile.
"""

from __future__ import annotations

import ast
import html
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any

import nbformat

from helpers.authoring.series import NOTEBOOKS_DIR, notebook_paths
from helpers.bench import serving_command
from helpers.config import AUTODL_DATA_DISK, REPO_ROOT, Profile, get_profile
from helpers.errors import TutorialError
from helpers.server import serve_command

__all__ = ["CHEATSHEET", "find", "sheet"]

CHEATSHEET = NOTEBOOKS_DIR / "CHEATSHEET.html"
TEMPLATE = Path(__file__).with_suffix(".html")
WIDTH = 60  # characters in a column of the page
BASE_URL = "http://127.0.0.1:8000"


def find(number: str, *starts: str) -> str:
    """The commands or statements of notebook `number` that begin with `starts`, one below the other.

    Raises:
        TutorialError: the notebook has no such command (any more); the message names both.
    """
    cells = _read(number).cells
    found = []
    for start in starts:
        piece = next((p for cell in cells for p in _pieces(cell) if p.startswith(start)), None)
        if piece is None:
            raise TutorialError(f"{number} 号笔记本里没有以 {start!r} 开头的代码：请改 helpers/cheatsheet.py。")
        found.append(piece)
    return "\n".join(found)


def sheet() -> str:
    """The page as HTML.

    Raises:
        TutorialError: a notebook has changed and a command is no longer found.
    """
    blocks = []
    for number, entries in _entries().items():
        title = _read(number).cells[1].source.splitlines()[0].removeprefix("# ")
        blocks.append(f"<h2>{html.escape(title)}</h2>")
        for caption, code in entries.items():
            lines = "".join(f"<code>{line}</code>" for line in html.escape(code, quote=False).splitlines())
            lines = re.sub(r"(?<=\s)(--[\w-]+)", r"<b>\1</b>", lines)  # a flag is never broken
            blocks.append(f"<div><p>{html.escape(caption, quote=False)}</p><pre>{lines}</pre></div>")
    pins = (REPO_ROOT / "environment.yml").read_text(encoding="utf-8")
    version = re.findall(r"vllm==([\d.]+)", pins)[0]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(version=version, commands="\n".join(blocks))


def _entries() -> dict[str, dict[str, str]]:
    """Notebook number → caption → code."""
    model = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    folder = AUTODL_DATA_DISK / "models" / model
    gpu = get_profile({"TUTORIAL_PROFILE": "gpu", "TUTORIAL_MODEL_DIR": str(folder)})
    result = Path("build/bench/serve_16.json")
    serving = serving_command(BASE_URL, gpu.served_model_name, folder, concurrency=16, result=result)
    return {
        "01": {
            "建环境，注册内核（没有显卡：make lab）": find("01", "conda env", "conda activate", "python -m ipykernel"),
            "体检；代理不要管本机": find("01", "python -m helpers.doctor", "export NO_PROXY"),
            "在自己的电脑上开隧道": find("01", "ssh "),
        },
        "02": {
            "下载；断了、坏了，就再运行一次": find("02", "from modelscope", "model_dir = snapshot_download"),
            "把下载好的模型分给全班": find("02", "python -m helpers.classroom.mirror"),
        },
        "03": {
            "建引擎，只建一次；正式部署去掉 enforce_eager": find("03", "from vllm", "llm = LLM("),
            "问；每次都看 finish_reason": find("03", "greedy =", "messages =", "[output] =", "completion ="),
            "拆开思考和答案；没有标签，就还没有答案": find("03", "thought, tag, answer ="),
            "释放引擎": find("03", "llm.llm_engine", "llm = None"),
        },
        "04": {
            "模型文件夹": f"export MODEL={folder}",
            "启动；/health 返回 200 才算就绪": _typed(serve_command(gpu, folder), folder),
            "看有没有漏网的；要停，把 status 换成 stop": find("04", "python -m helpers.server status"),
        },
        "05": {
            "先设地址和密钥": find("05", "export SERVER"),
            "有哪些模型": find("05", 'curl -s "$SERVER/v1/models"'),
            '对话；要流式，curl 加 -N，JSON 里加 "stream": true': find("05", 'curl -s "$SERVER/v1/chat'),
            "补全；不套模板，自己写 <think>\\n": find("05", 'curl -s "$SERVER/v1/completions"'),
        },
        "06": {
            "客户端": find("06", "client = OpenAI("),
            "补全": find("06", "completion = client.completions"),
            "对话": find("06", "def ask("),
            "流式的对话": find("06", "stream = client.chat", "for chunk in stream"),
            "只要合法的 JSON": find("06", "json_format =", "strict = ask("),
        },
        "07": {
            "离线的吞吐量；先预热，长度用 --random-input-len 写": _typed(_throughput(gpu), folder),
            "服务的吞吐量和延迟；换一个并发，就换一个种子": _typed(serving, folder),
        },
    }


def _throughput(profile: Profile) -> list[str]:
    """Run the two pieces of notebook 07 that put the command together."""
    scope: dict[str, Any] = {"profile": profile, "MODEL_PATH": profile.model_dir, "RESULTS": Path("build/bench")}
    sizes, function = find("07", "INPUT_LEN,"), find("07", "def throughput_command")
    try:
        exec(f"{sizes}\n{function}", scope)
        warm = ["--num-warmups", str(scope["NUM_PROMPTS"])]
        command: list[str] = scope["throughput_command"]("vllm", "--backend", "vllm", *warm)
    except (NameError, TypeError, KeyError) as error:
        raise TutorialError(f"07 号笔记本的 throughput_command 变了（{error}）：请改 helpers/cheatsheet.py。") from None
    return command


def _read(number: str) -> Any:
    [path] = [path for path in notebook_paths() if path.name.startswith(number)]
    return nbformat.read(path, as_version=4)


def _pieces(cell: Any) -> Iterator[str]:
    """What can be looked up: a shell cell's command, a Python cell's statements, the code in a cell of prose."""
    source: str = cell.source
    if cell.cell_type == "markdown":
        fences = re.findall(r"^```bash\n(.*?)^```", source, re.DOTALL | re.MULTILINE)
        for line in "".join(fences).splitlines():
            yield line.split("  #")[0].rstrip()
        yield from re.findall(r"`([^`\n]+)`", source)
    elif source.startswith("%%bash"):
        yield "\n".join(line for line in source.splitlines()[1:] if not line.startswith("set -"))
    else:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.stmt):
                segment = textwrap.dedent(ast.get_source_segment(source, node, padded=True) or "")
                yield re.sub(r"  # .*", "", segment)


def _typed(words: Sequence[str], model: Path) -> str:
    """The command as one would type it, with `model` as `$MODEL`, a flag and its value always on one line."""
    text = shlex.join(words).replace(str(model), '"$MODEL"')
    text = re.sub(r" (?!--)", "\N{NO-BREAK SPACE}", text)
    lines = textwrap.wrap(text, WIDTH - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def main() -> int:
    """Write the page. Returns the exit status."""
    try:
        CHEATSHEET.write_text(sheet(), encoding="utf-8")
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
