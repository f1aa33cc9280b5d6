"""`python -m helpers.models`: download the model of this machine, with progress; what is there already stays."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from helpers import Profile, TutorialError, get_profile
from helpers.errors import DownloadError, ModelError
from helpers.machine import cuda_memory_gib
from helpers.models import check_model, explain_download_error, find_model, model_size
from helpers.models.family import family_id, member_by_name
from helpers.models.fit import FAMILY
from helpers.models.size import kv_budget_gib

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


def refuse_too_large(profile: Profile) -> None:
    """Before gigabytes move: a model of the family whose weights leave no room on the card is not fetched.

    Raises:
        DownloadError: it is too large; the message says what to do.
    """
    name, card_gib = member_by_name(profile.model_id), cuda_memory_gib()
    if profile.name != "gpu" or card_gib is None or not name or profile.model_id != family_id(name):
        return  # of a quantized one, only its files will tell
    weights_gib = model_size(FAMILY[name]).weights_gib
    if kv_budget_gib(card_gib, weights_gib, utilization=profile.gpu_memory_utilization) <= 0:
        raise DownloadError(
            f"{name} 的权重有 {weights_gib:.1f} GiB，CUDA 看到的显存是 {card_gib:.1f} GiB，一块卡放不下，没有下载。"
            "下一步：unset TUTORIAL_MODEL；或者用量化的、用两块卡，见 10 第 9 节。"
        )


def main() -> int:
    profile = get_profile()
    if profile.name == "classroom":  # that model ships with the course; 02 downloads it to show how
        return 0
    os.environ.update(profile.engine_env)
    try:
        try:
            print("模型已经在", find_model(profile))
        except ModelError:
            refuse_too_large(profile)
            print(f"下载 {profile.model_id} 到 {profile.model_dir}；断了就再来一次，下好的不会重下", flush=True)
            fetch(profile.model_id, profile.model_dir)
    except TutorialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
