"""Why a download failed: who is to blame, and what to do next. Introduced in notebook 02.

No SDK is imported: its errors are known by the names of their classes, and by what they wrap.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from helpers.errors import TutorialError
from helpers.models import disk
from helpers.models.failure import AGAIN, ENDPOINT, Failure, chain
from helpers.models.reach import certificate, dropped, malformed, network, proxy, slow

__all__ = ["explain_download_error"]

TOKEN = "MODELSCOPE_API_TOKEN"
NOT_A_HUB = ("JSONDecodeError", "TooManyRedirects", "BadStatusLine", "DecodeError", "ContentDecodingError")


def explain_download_error(error: BaseException) -> str:
    """Say on one line what stopped `snapshot_download`, whose fault it is and what to do; tracebacks have 100 lines.

    ModelScope collects the errors of single files in `failed_files`; the one that says most is explained.
    """
    single = getattr(error, "failed_files", None) or {"": error}
    folder = str(getattr(error, "output_dir", None) or "")
    failures = [Failure(file, folder, chain(cause)) for file, cause in single.items()]
    found = (said for rule in RULES for failure in failures if (said := rule(failure)))
    return " ".join((next(found, None) or _unknown(failures[0])).split())


def _ours(failure: Failure) -> str | None:
    error = failure.errors[0]
    if isinstance(error, KeyboardInterrupt):
        return f"下载被停下了。下好的部分都在，{AGAIN}"
    return str(error) if isinstance(error, TutorialError) else None


def _disk(failure: Failure) -> str | None:
    found = (
        disk.explain(e, file=failure.file, folder=failure.folder) for e in failure.errors if isinstance(e, OSError)
    )
    return next((said for said in found if said), None)


def _lock(failure: Failure) -> str | None:
    if "lock timed out" not in failure.text:
        return None
    return (
        f"另一个程序（别的笔记本或终端）正在下载 {failure.file or '同一个模型'}，等了很久也没有轮到。下一"
        f"步：等它下完或关掉它，{AGAIN}"
    )


def _status(failure: Failure) -> str | None:
    if os.environ.get(TOKEN) and failure.of("InvalidHeader", "UnicodeEncodeError"):
        return f"{TOKEN} 里的令牌有不该有的字符（空格、换行或中文）。下一步：重新复制一遍，再重新启动 JupyterLab。"
    status = failure.attribute("status_code")
    if not isinstance(status, int):
        if bad := failure.of("InvalidParameter"):
            return f"参数不对：{bad}。下一步：核对模型名（<owner>/<name>）、revision 和路径，再运行一次。"
        return None
    said = str(failure.attribute("message") or "").strip()
    quoted = "" if said.startswith(("<", "HTTP ")) or not said else f"原话：{said[:200]}"
    site = f"{failure.site} "
    if failure.of("QuotaExceededError"):
        return f"{site}说这个账号的额度用完了（{status}）。下一步：等额度恢复，或换一个账号的令牌。{quoted}"
    if status == 401 and os.environ.get(TOKEN):
        return (
            f"{site}不认 {TOKEN} 里的令牌（401）：过期了，或没有复制完整。下一步：换一个新的，"
            f"再重新启动 JupyterLab。{quoted}"
        )
    if status == 401:
        return (
            f"{site}要先登录才能下载（401）。下一步：核对模型名 <owner>/<name>；私有的模型要 export {TOKEN}=令牌，"
            f"再重新启动 JupyterLab。{quoted}"
        )
    if status in (403, 451):
        return (
            f"{site}不许下载（{status}）：没有权限，或者模型要先在网页上申请。下一步：核对模型名，登录网页"
            f"看它的下载条件；令牌设在 {TOKEN} 里。{failure.via}{quoted}"
        )
    if status in (404, 410):
        return (
            f"{site}没有这个模型、版本或文件（{status}）。下一步：核对模型名（<owner>/<name>）和 revision；"
            f"都对，就核对 {ENDPOINT}。{quoted}"
        )
    if status == 429:
        wait = failure.attribute("retry_after")
        return f"{site}说请求太多（429）。下一步：等{f' {wait} 秒' if wait else '几分钟'}，{AGAIN}{quoted}"
    if status == 416:
        return _stale(failure)
    if status >= 500 or status == 408:
        return f"{site}出了故障（{status}），不是你这里的问题。下一步：过几分钟{AGAIN}{failure.via}{quoted}"
    return (
        f"{site}不接受这个请求（{status}）。下一步：核对模型名、revision 和 {ENDPOINT}：它可能不是 "
        f"ModelScope 的站点。{failure.via}{quoted}"
    )


def _resume(failure: Failure) -> str | None:
    return _stale(failure) if re.search("refused to resume|416 Client Error", failure.text) else None


def _stale(failure: Failure) -> str:
    return (
        f"{failure.site} 不肯从断点接着传 {failure.file or '这个文件'}（416）：上次下到一半的，和站点上现在的对不上。"
        f"下一步：再运行一次这一格，这个文件会从头下；还不行，就删掉模型文件夹里的 ._____temp，再运行。"
    )


def _no_hub(failure: Failure) -> str | None:
    unread = "has no attribute 'get'" in failure.text or "invalid literal for int()" in failure.text
    unread = unread or "No connection adapters" in failure.text
    if failure.of("RemoteDisconnected") or not (unread or failure.of(*NOT_A_HUB)):
        return None
    return (
        f"{failure.site} 的回答不是模型清单：可能是上网要登录的网页，也可能 {ENDPOINT} 指错了。下一步：用"
        f"浏览器打开一个网页，登录网络；核对 {ENDPOINT}；{AGAIN}{failure.via}"
    )


def _integrity(failure: Failure) -> str | None:
    if not failure.of("FileIntegrityError"):
        return None
    what = "大小" if failure.of("FileSizeMismatchError") else "SHA-256"
    return (
        f"{failure.file} 校验不对：收到的内容和 {failure.site} 公布的{what}不一致，坏文件已经丢掉。下一步："
        f"{AGAIN}还不行，就是站点或路上的代理给错了内容（比如一个要登录的网页），换一个网络或站点。"
    )


def _cache(failure: Failure) -> str | None:
    if not failure.of("CacheNotFound"):
        return None
    return (
        "本地没有这个模型，而 local_files_only=True 不许联网。下一步：去掉它再运行一次，或核对 cache_dir、local_dir。"
    )


def _unknown(failure: Failure) -> str:
    error = failure.errors[0]
    said = (str(error).splitlines() or [""])[0][:200]
    return f"下载失败（{type(error).__name__}）：{said}。下一步：{AGAIN}还是这样，就把这一句发给老师。"


RULES: tuple[Callable[[Failure], str | None], ...] = (
    _ours, _disk, _lock, malformed, proxy, certificate, _status, _resume, _integrity, _no_hub, network, slow, dropped,
    _cache,
)  # fmt: skip
