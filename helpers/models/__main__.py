"""`python -m helpers.models`: download the model of this machine, with progress; what is there already stays."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from helpers import TutorialError, get_profile
from helpers.errors import DownloadError
from helpers.models import check_model, explain_download_error, find_model

__all__ = ["fetch"]


def fetch(model_id: str, folder: Path) -> Path:
    """Download a model from ModelScope into `folder`, as notebook 02 does, if the disk has room for what is missing.

    Raises:
        DownloadError: no room, or the download broke off; the message says what to do.
        ModelError: what came is not whole.
    """
    from modelscope import HubApi, snapshot_download  # loads for seconds

    try:
        files = HubApi().get_model_files(model_id, recursive=True)
        there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        missing_gb = (sum(int(file["Size"] or 0) for file in files) - there) / 1e9
        folder.mkdir(parents=True, exist_ok=True)
        free_gb = shutil.disk_usage(folder).free / 1e9
        if free_gb < missing_gb + 1:
            raise DownloadError(
                f"{folder} 那块盘还剩 {free_gb:.1f} GB，模型还差 {missing_gb:.1f} GB。下一步：腾出地方，或者用 "
                "TUTORIAL_MODEL_DIR 换一块盘上的文件夹（绝对路径），再运行一次。"
            )
        return check_model(snapshot_download(model_id, local_dir=folder)).path
    except TutorialError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        raise DownloadError(explain_download_error(error)) from None


def main() -> int:
    profile = get_profile()
    if profile.name == "classroom":  # that model ships with the course; 02 downloads it to show how
        return 0
    os.environ.update(profile.engine_env)
    try:
        print("模型已经在", find_model(profile))
        return 0
    except TutorialError:
        print(f"下载 {profile.model_id} 到 {profile.model_dir}；断了就再来一次，下好的不会重下", flush=True)
    try:
        fetch(profile.model_id, profile.model_dir)
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
