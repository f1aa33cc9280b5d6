"""What the notebooks share: processes, ports, checks, parsing and plots, so that each lesson's own subject
stays in its cells. Importing this package loads neither torch nor vLLM."""

import os
import sys
from importlib.util import find_spec


def _wrong_python(missing: "list[str]") -> str:  # any Python 3 must get as far as its answer
    """One line for a Python that cannot run the course: which one it is, and which to take."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    number = ".".join(str(part) for part in sys.version_info[:3])
    why = "没有装课程的包（缺 {}）".format("、".join(missing)) if missing else "太旧，课程要 3.11 以上"
    what = f"这个 Python {why}：{sys.executable}，版本 {number}。"
    if "ipykernel" in sys.modules:
        return what + "下一步：在笔记本右上角把内核（Kernel）改选成 vLLM Tutorial，再从第一格运行。"
    what += f"下一步：cd {root} && .venv/bin/python -m helpers.doctor（还没有 .venv：make doctor，会先装好）"
    if os.path.isdir(os.path.join(sys.prefix, "conda-meta")):  # the base environment, most likely
        what += "；用 conda 建了课程环境的：conda activate vllm-tutorial && python -m helpers.doctor"
    return what


_missing = [name for name in ("filelock", "httpx", "packaging", "psutil", "tqdm", "yaml") if find_spec(name) is None]
if _missing or sys.version_info < (3, 11):
    _message = _wrong_python(_missing)
    if sys.argv[:1] == ["-m"]:  # `python -m helpers.…` is looking for its module: no traceback
        sys.exit(_message)
    raise ImportError(_message)

from helpers.config import Profile, get_profile  # noqa: E402
from helpers.errors import TutorialError  # noqa: E402

__all__ = ["Profile", "TutorialError", "get_profile"]
