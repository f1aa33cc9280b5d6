"""What a disk can answer to a download. For `explain_download_error`."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

__all__ = ["explain"]

RESTART = "再重新启动 JupyterLab"
FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
BROKEN = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOTCONN}
WITH_A_NAME = REFUSED | IN_THE_WAY | {errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL}  # without: not about a file


def explain(error: OSError, *, file: str = "", folder: str = "") -> str | None:
    """Say what is wrong with the disk or the folder, and what to do; None: this is no error of a disk.

    Args:
        error: any error; those of connections are left to others.
        file: the model file under way; may be empty.
        folder: where it was to lie; may be empty.
    """
    code, name = error.errno, str(error.filename or "")
    if code in WITH_A_NAME and not name:
        return None
    what, path = file or "模型", name or folder
    shown = path if len(path) <= 160 else f"{path[:80]}…{path[-40:]}"
    cache = "/.lock" in path or (folder != "" and name.startswith("/") and not name.startswith(folder))
    owner = "下载程序的缓存" if cache else "模型的文件夹"
    move = "用 MODELSCOPE_CACHE 换一个地方" if cache else "用 TUTORIAL_MODEL_DIR 换一个文件夹（绝对路径）"
    if code in FULL:
        full = "这块盘上给你的配额（quota）用完了" if code == errno.EDQUOT else "磁盘满了"
        return (
            f"{full}，{what} 没有下完{_free(path)}。下一步：腾出空间（df -h 看空间，df -i 看文件个数），再"
            f"运行一次这一格：会接着下；也可以{move}，{RESTART}，那就从头下。"
        )
    if code == errno.EFBIG:
        return (
            f"这块盘放不下 {what} 这么大的单个文件（常见于 FAT32 的移动盘，或 ulimit -f 的限制）。下一步："
            f"{move}，{RESTART}。"
        )
    if code in REFUSED:
        why = "那块盘是只读的" if code == errno.EROFS else "没有写的权限"
        return f"{owner}写不进去，{why}：{shown}。下一步：{move}，{RESTART}。"
    if code in IN_THE_WAY:
        return (
            f"{shown} 挡住了路：那里要的是{'文件' if code == errno.EISDIR else '文件夹'}，已有的却不是（或"
            f"者是失效的链接）。下一步：把它移走，或{move}，{RESTART}。"
        )
    if code == errno.ENOENT and path and os.path.isdir(os.path.dirname(path)):
        return (
            f"{owner}里的临时文件不见了（{shown}）：另一个程序也在下载同一个模型，或者有人清理了它。"
            "下一步：等它下完，再运行这一格。"
        )
    if code == errno.ENOENT:
        why = "路径里的 ~ 没有展开，要写绝对路径" if path.startswith("~") else "文件夹不在，也建不起来"
        return f"{why}：{shown}。下一步：改正路径，或{move}，再运行一次。"
    if code in (errno.ENAMETOOLONG, errno.EINVAL):
        return f"系统不接受这个路径，名字太长或有特殊的字：{shown}。下一步：{move}，{RESTART}。"
    if code in (errno.EMFILE, errno.ENFILE):
        return (
            "这个进程打开的文件太多了。下一步：重启内核；还不行，就在终端执行 ulimit -n 4096，再从这个终"
            "端启动 JupyterLab。"
        )
    if code == errno.ENOLCK:
        return f"这块盘不支持文件锁（常见于网络盘）。下一步：用 MODELSCOPE_CACHE 把缓存换到本机的盘上，{RESTART}。"
    if code == errno.ENOMEM:
        return "内存不够了。下一步：关掉别的笔记本和程序，再运行一次这一格：会接着下。"
    if code in BROKEN:
        return f"磁盘或网络盘出错（{error.strerror}）：{shown}。下一步：看看这块盘还在不在，或{move}，{RESTART}。"
    return None


def _free(path: str) -> str:
    """What is left where `path` lies, in brackets; nothing if that cannot be told."""
    for place in (Path(path), *Path(path).parents) if path else ():
        with suppress(OSError):
            left = os.statvfs(place)
            if left.f_files and not left.f_favail:
                return f"（{place} 那里能放的文件个数 inode 用完了）"
            return f"（{place} 那里还剩 {left.f_bavail * left.f_frsize / 1e9:.1f} GB）"
    return ""
