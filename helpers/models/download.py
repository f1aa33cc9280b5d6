"""Why a download failed, in a sentence. Introduced in notebook 02."""

from __future__ import annotations

import errno
import re

__all__ = ["explain_download_error"]


def explain_download_error(error: BaseException) -> str:
    """Say in one or two sentences what stopped `snapshot_download` and what to do; its tracebacks have 40 to 100 lines.

    ModelScope collects the errors of single files in `failed_files`; the first one is explained.
    """
    failed = getattr(error, "failed_files", None) or {}
    file, cause = next(iter(failed.items()), ("", error))
    text, kind = str(cause).splitlines()[0] if str(cause) else "", type(cause).__name__
    if getattr(cause, "errno", None) == errno.ENOSPC:
        return f"磁盘满了，{file or '模型'} 没有下完。用 df -h 看剩余空间，把模型放到数据盘上，再运行一次：会接着下。"
    if kind in ("FileIntegrityError", "FileSizeMismatchError"):
        return f"{file} 校验不对：收到的内容和服务器公布的 SHA-256 或大小不一致，坏文件已经丢掉。请再运行一次。"
    if kind == "CacheNotFound":
        return "本地没有这个模型，而 local_files_only=True 不许联网。去掉它再运行一次，或检查 cache_dir、local_dir。"
    if kind in ("HTTPError", "NotExistError"):
        return f"服务器说没有这个模型、版本或文件，或没有权限。请核对模型名（<owner>/<name>）和 revision。原话：{text}"
    if isinstance(cause, (ConnectionError, TimeoutError)):
        address = re.search(r"host='([^']+)', port=(\d+)", text)
        hub = "{}:{}".format(*address.groups()) if address else "下载服务器"
        return f"连不上 {hub}。请检查网络、代理和 MODELSCOPE_ENDPOINT，再运行一次：会接着下。"
    return f"下载失败（{kind}）：{text}"
