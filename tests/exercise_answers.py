"""Right answers in several formulations, and wrong ones that a newcomer might give, for every exercise.

`SERVER` and `ENGINE` stand for the fixtures of these names.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
import os
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from exercise_kit import LIMIT, rendered

from helpers.bench.roofline import decode_limit, weights_read
from helpers.bench.stats import paired_ratio
from helpers.models import SEVEN_B_CONFIG, fit, model_size
from helpers.models.size import RUNTIME_GIB as REST_GIB
from helpers.reasoning import read_message, split_think

SERVER, ENGINE = object(), object()
GIB = 1024**3
NEEDS = {"0.7.1": "2.5.1", "0.32.0": "2.13.0"}
RIGHT: dict[str, list[tuple[Any, ...]]] = {}
WRONG: dict[str, list[tuple[Any, ...]]] = {}


def cases(exercise_id: str, *, right: list[Any], wrong: list[Any], extra: tuple[Any, ...] = ()) -> None:
    """File answers; `extra` follows each of them, and a tuple is several answers."""
    for table, answers in ((RIGHT, right), (WRONG, wrong)):
        table[exercise_id] = [(*(a if isinstance(a, tuple) else (a,)), *extra) for a in answers]


# 01 ------------------------------------------------------------------------------------------------------------------

cases(
    "01-1",
    right=[506, 505.7, "506 K", 505_700, "５０６"],
    wrong=[189, 596, 95, 543, 771, 494, 27.0, 246, 515, "一百", None, True, [506]],
)


def after_loop(steps: Any) -> Any:
    torch = vllm = None
    for package, version in steps:
        if package == "torch":
            torch = version
        else:
            vllm, torch = version, NEEDS[version]
    return torch, vllm is not None and torch == NEEDS[vllm]


def after_dict(steps: Any) -> Any:
    have: dict[str, str] = {}
    for package, version in steps:
        have[package] = version
        if package == "vllm":
            have["torch"] = NEEDS[version]
    return [have["torch"], "vllm" in have and have["torch"] == NEEDS[have["vllm"]]]


def after_last_vllm_wins(steps: Any) -> Any:
    vllm = dict(steps).get("vllm")
    return (NEEDS[vllm], True) if vllm else (dict(steps)["torch"], False)


cases(
    "01-2",
    right=[after_loop, after_dict, lambda steps: (after_loop(steps)[0], after_loop(steps)[1] or None)],
    wrong=[
        lambda steps: (dict(steps).get("torch"), "vllm" in dict(steps)),  # pip leaves torch alone
        after_last_vllm_wins,
        lambda steps: (after_loop(steps)[0], True),
        lambda steps: after_loop(steps)[0],
        lambda steps: NEEDS[steps[-1][1]],
    ],
)


def detour_loop(env: Any) -> Any:
    result = dict(env)
    parts = [part for part in result.get("NO_PROXY", "").split(",") if part]
    result["NO_PROXY"] = ",".join([*parts, "localhost", "127.0.0.1"])
    return result


def detour_in_place(env: Any) -> Any:
    env["NO_PROXY"] = "localhost,127.0.0.1"
    return env


def detour_in_both_cases(env: Any) -> Any:
    there = ",".join(filter(None, [env.get("no_proxy"), env.get("NO_PROXY"), "localhost,127.0.0.1"]))
    return env | {"no_proxy": there, "NO_PROXY": there}


cases(
    "01-3",
    right=[
        detour_loop,
        lambda env: env | {"NO_PROXY": ", ".join(filter(None, [env.get("NO_PROXY"), "127.0.0.1", "localhost"]))},
        detour_in_both_cases,
        lambda env: detour_loop(env) if "http_proxy" in env else dict(env),  # nothing to avoid
    ],
    wrong=[
        detour_in_place,
        lambda env: env | {"NO_PROXY": "localhost,127.0.0.1"},  # what was there is lost
        lambda env: env | {"NO_PROXY": "*"},
        lambda env: detour_loop(env) | {"no_proxy": detour_loop(env)["NO_PROXY"]},  # the lower-case list is lost
        lambda env: {name: value for name, value in env.items() if "proxy" not in name},
        lambda env: env | {"NO_PROXY": env["NO_PROXY"] + ",localhost,127.0.0.1"},
        lambda env: detour_loop(env) | {"NO_PROXY": detour_loop(env)["NO_PROXY"].replace(",127.0.0.1", "")},
        lambda env: None,
    ],
)


def cards(parameters: float, kv_bytes: float, tokens: float, card_gib: float) -> Any:
    for n in (1, 2, 4, 8):
        if (parameters * 2 + kv_bytes * tokens) / GIB / n + REST_GIB <= card_gib * 0.9:
            return n
    return None


def cards_scaled(parameters: float, kv_bytes: float, tokens: float, card_gib: float) -> Any:
    need = (parameters * 2 + kv_bytes * tokens) / GIB
    return next((n for n in [1, 2, 4, 8] if n * (card_gib * 0.9 - REST_GIB) >= need), None)


cases(
    "01-4",
    right=[cards, cards_scaled, lambda *a: None if cards(*a) is None else float(cards(*a))],
    wrong=[
        lambda p, k, t, c: next((n for n in (1, 2, 4, 8) if p * 2 / GIB / n + REST_GIB <= c * 0.9), None),
        lambda p, k, t, c: next((n for n in (1, 2, 4, 8) if ((p * 2 + k * t) / GIB + REST_GIB) / n <= c * 0.9), None),
        lambda p, k, t, c: next((n for n in range(1, 9) if (p * 2 + k * t) / GIB / n + REST_GIB <= c * 0.9), None),
        lambda p, k, t, c: cards(p, k, t, c) or 16,
        lambda p, k, t, c: next((n for n in (1, 2, 4, 8) if p * 2 / GIB / n + k * t / GIB + REST_GIB <= c * 0.9), None),
        lambda p, k, t, c: None if k > 100_000 else cards(p, k, t, c),
        lambda p, k, t, c: None,
        lambda p, k, t, c: (p * 2 + k * t) / GIB,
    ],
)

# 02 ------------------------------------------------------------------------------------------------------------------


def folder_with(*names: str) -> Any:
    """Made by the test, because it needs a folder of its own."""
    return SimpleNamespace(names=names)


both = ("config.json", "generation_config.json")
cases(
    "02-1",
    right=[folder_with(*both), folder_with(*both, ".mdl"), folder_with(*both, "README.md")],
    wrong=[
        folder_with(),
        folder_with("config.json"),
        folder_with(*both, "tokenizer_config.json"),
        folder_with(*both, "model.safetensors"),
        folder_with(*both, "config.json.incomplete"),
        "/root/autodl-temp/nowhere",
        None,
        ["config.json"],
    ],
)


def missing_by_name(folder: Any, patterns: Any) -> Any:
    names = [path.name for path in folder.iterdir() if path.is_file() and not path.name.endswith(".incomplete")]
    return tuple(p for p in patterns if not [n for n in names if Path(n).match(p)])


def missing_by_glob(folder: Any, patterns: Any) -> Any:
    def there(pattern: str) -> bool:
        return any(path.is_file() and path.suffix != ".incomplete" for path in folder.glob(pattern))

    return sorted((p for p in patterns if not there(p)), reverse=True)


def missing_by_fnmatch(folder: Any, patterns: Any) -> Any:
    files = [entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.endswith(".incomplete")]
    return {p for p in patterns if not fnmatch.filter(files, p)}


cases(
    "02-2",
    right=[missing_by_glob, missing_by_name, missing_by_fnmatch],
    wrong=[
        lambda folder, patterns: [p for p in patterns if any(folder.glob(p))],
        lambda folder, patterns: [p for p in patterns if not any(folder.glob(p))],  # model* matches an .incomplete
        lambda folder, patterns: [p for p in patterns if not any(f for f in folder.glob(p) if f.is_file())],
        lambda folder, patterns: [p for p in patterns if not [f for f in folder.glob(p) if f.suffix != ".incomplete"]],
        lambda folder, patterns: [  # sub-folders
            p for p in patterns if not [f for f in folder.rglob(p) if f.is_file() and f.suffix != ".incomplete"]
        ],
        lambda folder, patterns: [  # hidden sub-folders
            p for p in patterns
            if not [f for f in [*folder.glob(p), *folder.glob(f".*/{p}")] if f.is_file() and f.suffix != ".incomplete"]
        ],
        lambda folder, patterns: patterns if not any(folder.glob(patterns[0])) else [],
        lambda folder, patterns: [p for p in patterns if not any(folder.glob(p + "*"))],  # takes .incomplete
        lambda folder, patterns: not any(folder.glob(patterns[0])),
        lambda folder, patterns: [p for p in patterns if not folder.glob(p)],  # an iterator is never false
    ],
)  # fmt: skip


def locate(cache_dir: Any, model_id: str) -> Any:
    new = Path(cache_dir) / "models" / model_id.replace("/", "--") / "snapshots"
    for folder in [*new.glob("*"), Path(cache_dir) / model_id]:
        if (folder / "config.json").is_file():
            return folder
    return None


def locate_by_search(cache_dir: Any, model_id: str) -> Any:
    name = model_id.rpartition("/")[2]
    return next((str(file.parent) for file in Path(cache_dir).rglob("config.json") if name in str(file)), None)


def new_only(cache_dir: Any, model_id: str) -> Any:
    folder = Path(cache_dir) / "models" / model_id.replace("/", "--") / "snapshots" / "master"
    return folder if (folder / "config.json").exists() else None


cases(
    "02-3",
    right=[locate, locate_by_search, lambda c, m: None if locate(c, m) is None else str(locate(c, m))],
    wrong=[
        lambda c, m: Path(c) / m,
        new_only,
        lambda c, m: new_only(c, m) or (Path(c) / m if (Path(c) / m).is_dir() else None),
        lambda c, m: next((file.parent for file in Path(c).rglob("config.json")), None),  # any model will do
        lambda c, m: locate(c, m) and locate(c, m).parent,
        lambda c, m: None,
    ],
)


def fits(config: Any, card_gib: float) -> float:
    size = model_size(config)
    return max(0, (card_gib * 0.9 - size.weights_gib - REST_GIB) * GIB / size.kv_bytes_per_token)


def kv_of_7b(config: Any, card_gib: float) -> float:
    return max(0, int((card_gib * 0.9 - model_size(config).weights_gib - REST_GIB) * GIB / 57_344))


cases(
    "02-4",
    right=[fits, lambda c, g: int(fits(c, g)), lambda c, g: round(fits(c, g)), lambda c, g: f"{fits(c, g):,.0f}"],
    wrong=[
        kv_of_7b,
        lambda c, g: (
            (g * 0.9 - model_size(c).weights_gib - REST_GIB) * GIB / model_size(c).kv_bytes_per_token
        ),  # below 0
        lambda c, g: max(0, (g - model_size(c).weights_gib) * GIB / model_size(c).kv_bytes_per_token),
        lambda c, g: fits(c, g) * 2,  # K without V
        lambda c, g: fits(SEVEN_B_CONFIG, g),
        lambda c, g: None,
    ],
)

# 03 ------------------------------------------------------------------------------------------------------------------

cases("03-1", right=[33, "33", 33.0], wrong=[24, 32, 34, 33.5, 1, "很多", None], extra=(ENGINE,))


def parts_by_find(text: str) -> Any:
    at = text.find("</think>")
    return (text, None) if at < 0 else (text[:at].strip(), text[at + len("</think>") :].strip())


def parts_of_the_old_script(text: str) -> Any:
    if "</think>" in text:
        thought, answer = text.split("</think>")
    else:
        thought, answer = "", text
    return thought, answer


cases(
    "03-2",
    right=[
        parts_by_find,
        lambda text: (split_think(text).thought, split_think(text).answer if split_think(text).closed else None),
        lambda text: [*text.split("</think>", 1)] if "</think>" in text else [text, None],
    ],
    wrong=[
        parts_of_the_old_script,
        lambda text: (split_think(text).thought, split_think(text).answer),  # "" where there is none
        lambda text: (split_think(text).thought, split_think(text).answer or None),
        lambda text: text.rsplit("</think>", 1) if "</think>" in text else (text, None),
        lambda text: split_think(text).answer,
        lambda text: (text.split("</think>")[0], text.split("</think>")[1] if "</think>" in text else None),
    ],
)

verdicts = {1: "F", 2: "E", 3: "A", 4: "C", 5: "D", 6: "B"}
cases(
    "03-3",
    right=[
        verdicts,
        {key: letter.lower() for key, letter in verdicts.items()},
        {str(key): f" {letter} " for key, letter in verdicts.items()},
    ],
    wrong=[
        verdicts | {1: "D"},
        verdicts | {4: "D", 5: "C"},
        verdicts | {6: "G"},
        {1: "F"},
        verdicts | {2: "Z"},
        "FEACDB",
        None,
    ],
)


def asked(llm: Any, question: str, max_tokens: int, **sampling: Any) -> str:
    messages = [{"role": "user", "content": question}]
    params = SimpleNamespace(**({"max_tokens": max_tokens, "temperature": 0} | sampling))
    return llm.chat(messages, params, use_tqdm=False)[0].outputs[0].text


def asks_warmly(llm: Any, question: str, max_tokens: int) -> Any:
    if prompt_len(question) + max_tokens > LIMIT:
        raise ValueError("does not fit")
    reply = split_think(asked(llm, question, max_tokens, temperature=0.6))
    return reply.answer.strip() if reply.closed else None


def prompt_len(question: str) -> int:
    return len(rendered([{"role": "user", "content": question}]))


def get_answer(llm: Any, question: str, max_tokens: int) -> Any:
    if prompt_len(question) + max_tokens > LIMIT:
        raise ValueError("does not fit")
    reply = split_think(asked(llm, question, max_tokens))
    return reply.answer.strip() if reply.closed else None


def counted_with_the_tokenizer(llm: Any, question: str, max_tokens: int) -> Any:
    ids = llm.get_tokenizer().apply_chat_template([{"role": "user", "content": question}])["input_ids"]
    if max_tokens > LIMIT - len(ids):
        raise ValueError
    text = asked(llm, question, max_tokens)
    return text.split("</think>", 1)[1] if "</think>" in text else None


def asks_first(llm: Any, question: str, max_tokens: int) -> Any:
    reply = split_think(asked(llm, question, max_tokens))
    if prompt_len(question) + max_tokens > LIMIT:
        raise ValueError("too late")
    return reply.answer if reply.closed else None


def checks_max_tokens_only(llm: Any, question: str, max_tokens: int) -> Any:
    if max_tokens > LIMIT:
        raise ValueError
    reply = split_think(asked(llm, question, max_tokens))
    return reply.answer if reply.closed else None


def refuses_what_fits(llm: Any, question: str, max_tokens: int) -> Any:
    if prompt_len(question) + max_tokens >= LIMIT:
        raise ValueError("one token off")
    return get_answer(llm, question, max_tokens)


cases(
    "03-4",
    right=[get_answer, counted_with_the_tokenizer, lambda *a: get_answer(*a)],
    wrong=[
        lambda llm, q, n: split_think(asked(llm, q, n)).answer or None,  # never raises
        lambda llm, q, n: get_answer(llm, q, n) or "",
        lambda llm, q, n: asked(llm, q, n).split("</think>")[-1],
        lambda llm, q, n: get_answer(llm, q, 1024),  # its own max_tokens
        lambda llm, q, n: "下面是计划。",  # asks nobody
        asks_first,
        asks_warmly,
        checks_max_tokens_only,
        refuses_what_fits,
    ],
    extra=(ENGINE, LIMIT),
)

# 04 ------------------------------------------------------------------------------------------------------------------

cases(
    "04-1",
    right=[1024, "1024x", 1023.98, "1,024.00x"],
    wrong=[256, 524_288, 64, None, "四倍"],
    extra=("INFO CPU KV cache size: 524,288 tokens, Maximum concurrency for 2,048 tokens per request: 256.00x",),
)


def status(method: str, url: str) -> int:
    return httpx.request(method, url, json={} if method == "POST" else None, timeout=5, trust_env=False).status_code


cases(
    "04-2",
    right=[
        lambda base, paths: [p for p in paths if status("GET", base + p) not in (401, 403)],
        lambda base, paths: {p for p in paths if status("POST", base + p) not in (401, 403)},
        lambda base, paths: tuple(p for p in reversed(paths) if status("GET", base + p) in (200, 405)),
    ],
    wrong=[
        lambda base, paths: [p for p in paths if not p.startswith("/v1/")],  # by name
        lambda base, paths: [p for p in paths if status("GET", base + p) == 200],
        lambda base, paths: [p for p in paths if status("GET", base + p) != 401],
        lambda base, paths: [p for p in paths if status("GET", base + p) in (401, 403)],
        lambda base, paths: "/invocations",
        lambda base, paths: paths,
    ],
)

SAYS = {
    "port": "Address already in use",
    "path": "Repo id must be in the form",
    "length": "greater than the derived max_model_len",
    "flag": "unrecognized arguments",
}


def last_line(log: str) -> Any:
    return next((name for name, words in SAYS.items() if words in log.splitlines()[-1]), None)


cases(
    "04-3",
    right=[
        lambda log: next((name for name, words in SAYS.items() if words in log), None),
        lambda log: next((name for name, words in SAYS.items() if words.lower() in log.lower()), None),
        last_line,
    ],
    wrong=[
        lambda log: "port" if "port" in log else "path" if "Repo" in log else None,
        lambda log: next((n for n, w in (SAYS | {"length": "max_model_len"}).items() if w in log), None),
        lambda log: next((n for n, w in (SAYS | {"path": "Repo"}).items() if w in log), None),
        lambda log: next((name for name, words in SAYS.items() if words in log), "unknown"),
        lambda log: {name: words in log for name, words in SAYS.items()},
    ],
)


def orphans(processes: Any) -> list[int]:
    by_pid = {process["pid"]: process for process in processes}

    def owned(process: Any) -> bool:
        parent = by_pid.get(process["ppid"])
        return parent is not None and (parent["name"] == "vllm" or owned(parent))

    return [p["pid"] for p in processes if p["name"].startswith("VLLM::") and not owned(p)]


def orphans_downwards(processes: Any) -> set[int]:
    kept = {p["pid"] for p in processes if p["name"] == "vllm"}
    for _ in processes:
        kept |= {p["pid"] for p in processes if p["ppid"] in kept}
    return {p["pid"] for p in processes if p["name"][:6] == "VLLM::"} - kept


cases(
    "04-4",
    right=[orphans, orphans_downwards, lambda processes: tuple(reversed(orphans(processes)))],
    wrong=[
        lambda ps: [p["pid"] for p in ps if p["name"].startswith("VLLM::")],
        lambda ps: [p["pid"] for p in ps if p["name"].startswith("VLLM::") and p["ppid"] == 1],
        lambda ps: [p["pid"] for p in ps if p["ppid"] == 1],
        lambda ps: orphans(ps) if not any(p["name"] == "vllm" for p in ps) else [],
        lambda ps: [p["name"] for p in ps if p["pid"] in orphans(ps)],
        lambda ps: None,
    ],
)

# 05 ------------------------------------------------------------------------------------------------------------------


def chat_json(n: int, **fields: Any) -> dict[str, Any]:
    choices = [{"index": i, "message": {"content": "好", "reasoning": "想"}, "finish_reason": "stop"} for i in range(n)]
    usage = {"prompt_tokens": 8, "completion_tokens": 150 * n, "total_tokens": 8 + 150 * n}
    return {"object": "chat.completion", "choices": choices, "usage": usage} | fields


refused = {"error": {"message": "n must be 1 when using greedy sampling, got 2.", "code": 400}}
cases(
    "05-1",
    right=[(chat_json(2), 1), (chat_json(2), "1 倍"), (chat_json(2), 1.0)],
    wrong=[
        (chat_json(2), 2), (chat_json(1), 1), (chat_json(2, object="text_completion"), 1), (refused, 1),
        ({"error": "Unauthorized"}, 1),
        (json.dumps(chat_json(2)), 1), (chat_json(2), "没有变"), (None, 1),
    ],
)  # fmt: skip

good = {
    "model": "r1",
    "messages": [{"role": "user", "content": "什么是深度学习？"}],
    "max_tokens": 512,
    "temperature": 0,
}
doubled = [{"role": "user", "content": "什么是深度学习？<think>\n"}]
without = {key: value for key, value in good.items() if key != "temperature"}
cases(
    "05-2",
    right=[
        good,
        json.dumps(good),
        {key: value for key, value in good.items() if key != "max_tokens"},
        good | {"temperature": 0.0, "max_tokens": LIMIT},
    ],
    wrong=[
        good | {"messages": doubled},
        good | {"max_tokens": 8192},
        without | {"extra_body": {"temperature": 0}},
        good | {"extra_body": {}},
        without,
        good | {"messages": [{"role": "user", "content": "你好"}]},
        good | {"model": "R1"},
        "{'model': 'r1'}",
        [good],
        None,
    ],
    extra=(SERVER,),
)


def posted(http: httpx.Client, messages: Any, max_tokens: int, **options: Any) -> httpx.Response:
    body = {"model": "r1", "messages": messages, "max_tokens": max_tokens}
    return http.post("/v1/chat/completions", json=body | options)


def prompt_tokens(http: httpx.Client, messages: Any) -> Any:
    return posted(http, messages, 1).json().get("usage", {}).get("prompt_tokens", LIMIT)


def at_most(http: httpx.Client, messages: Any, max_tokens: int) -> int:
    limit = http.get("/v1/models").json()["data"][0]["max_model_len"]
    if max_tokens > limit:
        return 0
    return min(max_tokens, limit - prompt_tokens(http, messages))


def at_most_by_trying(http: httpx.Client, messages: Any, max_tokens: int) -> Any:
    answer = posted(http, messages, max_tokens, return_token_ids=True)
    if answer.status_code != 200:
        return "0"
    return str(min(max_tokens, LIMIT - len(answer.json()["prompt_token_ids"])))


cases(
    "05-3",
    right=[at_most, at_most_by_trying, lambda *a: float(at_most(*a))],
    wrong=[
        lambda http, messages, n: min(n, LIMIT),
        lambda http, messages, n: 0 if n > LIMIT else n,
        lambda http, messages, n: min(n, LIMIT - prompt_tokens(http, messages)),  # refused
        lambda http, messages, n: min(n, LIMIT - posted(http, messages, 1).json()["usage"]["prompt_tokens"]),
        lambda http, messages, n: 0 if n + prompt_tokens(http, messages) > LIMIT else n,
        lambda http, messages, n: prompt_tokens(http, messages),
        lambda http, messages, n: http.post("/tokenize", json={"model": "r1", "messages": messages}).json()["count"],
        lambda http, messages, n: None,
    ],
    extra=(SERVER,),
)


def collect(lines: list[str]) -> Any:
    thought, answer, finish = "", "", None
    for line in lines:
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                thought += choice["delta"].get("reasoning") or ""
                answer += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    return thought, answer, finish


def collect_events(lines: list[str]) -> Any:
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ") and "[DONE]" not in line]
    choices = [c for event in events for c in json.loads(event)["choices"]]
    texts = {k: "".join(c["delta"].get(k) or "" for c in choices) for k in ("reasoning", "content")}
    ends = [c["finish_reason"] for c in choices if c["finish_reason"]]
    return [texts["reasoning"], texts["content"], ends[-1] if ends else None]


def collect_first_choice(lines: list[str]) -> Any:
    return collect([line for line in lines if not line.startswith("data: {") or json.loads(line[6:])["choices"][0]])


def collect_either(lines: list[str]) -> Any:
    thought, answer, finish = "", "", None
    for line in lines:
        if line.startswith("data: {") and (choices := json.loads(line[6:])["choices"]):
            delta, finish = choices[0]["delta"], choices[0]["finish_reason"] or finish
            if delta.get("reasoning"):
                thought += delta["reasoning"]
            elif delta.get("content"):  # both may come in one chunk
                answer += delta["content"]
    return thought, answer, finish


cases(
    "05-4",
    right=[collect, collect_events, lambda lines: tuple(collect(lines))],
    wrong=[
        collect_first_choice,
        collect_either,
        lambda lines: collect(lines)[:2],
        lambda lines: (*collect(lines)[:2], "stop"),
        lambda lines: collect([line.replace("data: ", "") for line in lines]),
        lambda lines: [json.loads(line)["choices"] for line in lines],
    ],
)

# 06 ------------------------------------------------------------------------------------------------------------------

cases(
    "06-1",
    right=[3, 3.0, "3", "3.0", "３", "3 次", "三", "三次", "三 次。"],
    wrong=[2, 1, "两次", 0, None, "很多次", "", "十三", "十三次", "13", "三十", "不是三次，是两次", "3 或 2", "3.5"],
)


def complete(client: Any, model: str, question: str) -> Any:
    text = client.completions.create(model=model, prompt=question + "<think>\n", max_tokens=512).choices[0].text
    return text.split("</think>", 1)[1].strip() if "</think>" in text else None


def complete_with_options(client: Any, model: str, question: str) -> Any:
    calmer = client.with_options(timeout=60)
    completion = calmer.completions.create(model=model, prompt=f"{question}<think>\n", max_tokens=2000)
    reply = split_think(completion.choices[0].text)
    return reply.answer if reply.closed else None


def completed(prompt: str, *, whole: bool = False, max_tokens: int | None = 1024) -> Any:
    def answer(client: Any, model: str, question: str) -> Any:
        asked = {"model": model, "prompt": prompt.format(question)} | ({"max_tokens": max_tokens} if max_tokens else {})
        text = client.completions.create(**asked).choices[0].text
        reply = split_think(text)
        return text if whole else reply.answer if reply.closed else None

    return answer


def still_chat(client: Any, model: str, question: str) -> Any:
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=model, messages=messages).choices[0].message.content


def streamed(client: Any, model: str, question: str) -> Any:
    chunks = client.completions.create(model=model, prompt=f"{question}<think>\n", stream=True)
    return "".join(chunk.choices[0].text for chunk in chunks)


cases(
    "06-2",
    right=[complete, complete_with_options, completed("<｜User｜>{}<｜Assistant｜><think>\n")],
    wrong=[
        still_chat,
        completed("{}"),
        completed("hello<think>\n"),
        completed("{}<think>"),
        completed("{}<think>\n<think>\n"),
        completed("{}<think>\n", whole=True),
        completed("{}<think>\n", max_tokens=None),
        completed("{}<think>\n", max_tokens=16),
        completed("{}<think>\n", max_tokens=100),
        completed("{}<think>\n", max_tokens=8192),
        lambda client, model, question: complete(client, model, question) or "",
        lambda client, model, question: "你好！",
        streamed,
    ],
)


def answer_of(choice: Any) -> Any:
    reply = read_message(choice.message)
    return reply.answer if reply.closed else None


def answer_by_hand(choice: Any) -> Any:
    message = choice.message
    if getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None):
        return message.content
    _, tag, answer = (message.content or "").partition("</think>")
    return answer.strip() if tag else None


cases(
    "06-3",
    right=[answer_of, answer_by_hand, lambda choice: (lambda a: a and a.strip())(answer_of(choice))],
    wrong=[
        lambda choice: choice.message.content,
        lambda choice: choice.message.content.split("</think>")[-1],
        lambda choice: None if choice.finish_reason == "length" else answer_of(choice),
        lambda choice: split_think(choice.message.content or "").answer or None,  # forgets the parser
        lambda choice: answer_of(choice) or "",
    ],
)


def chat(client: Any, model: str, history: Any, text: str) -> Any:
    question = {"role": "user", "content": text}
    message = client.chat.completions.create(model=model, messages=[*history, question]).choices[0].message
    if message.content is None:
        return None
    history.extend([question, {"role": "assistant", "content": message.content}])
    return message.content


def chat_then_undo(client: Any, model: str, history: Any, text: str) -> Any:
    history.append({"role": "user", "content": text})
    reply = read_message(client.chat.completions.create(model=model, messages=history).choices[0].message)
    if not reply.closed:
        history.pop()
        return None
    history.append({"role": "assistant", "content": reply.answer})
    return reply.answer.strip()


def chat_keeps_all(client: Any, model: str, history: Any, text: str) -> Any:
    history.append({"role": "user", "content": text})
    message = client.chat.completions.create(model=model, messages=history).choices[0].message
    history.append({"role": "assistant", "content": message.content})
    return message.content


def chat_with_thoughts(client: Any, model: str, history: Any, text: str) -> Any:
    answer = chat(client, model, history, text)
    if answer:
        history[-1]["content"] = f"先下定义。</think>{answer}"
    return answer


def chat_rebinds(client: Any, model: str, history: Any, text: str) -> Any:
    history = [*history, {"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=history).choices[0].message.content


def chat_twice(client: Any, model: str, history: Any, text: str) -> Any:
    return chat(client, model, [*history], text) and chat(client, model, history, text)


def chat_without_history(client: Any, model: str, history: Any, text: str) -> Any:
    return chat(client, model, [], text)


cases(
    "06-4",
    right=[chat, chat_then_undo, lambda client, model, history, text: chat_then_undo(client, model, history, text)],
    wrong=[chat_keeps_all, chat_with_thoughts, chat_rebinds, chat_twice, chat_without_history, lambda *a: "你好"],
)

# 07 ------------------------------------------------------------------------------------------------------------------

cases("07-1", right=[1023, 1023.04, "1023"], wrong=[64, 1024, 1151, 28_776, 128, None, "一千"])


def median_by_hand(runs: list[float]) -> Any:
    warm = sorted(runs[1:])
    if not warm:
        return None
    middle = len(warm) // 2
    median = warm[middle] if len(warm) % 2 else (warm[middle - 1] + warm[middle]) / 2
    return [median, warm[0], warm[-1]]


def summary(runs: list[float]) -> Any:
    return (statistics.median(runs[1:]), min(runs[1:]), max(runs[1:])) if len(runs) > 1 else None


def without_the_slowest(runs: list[float]) -> Any:
    warm = sorted(runs)[1:]
    return (statistics.median(warm), warm[0], warm[-1]) if warm else None


def summary_that_pops(runs: list[float]) -> Any:
    runs[:1] = []
    return (statistics.median(runs), min(runs), max(runs)) if runs else None


cases(
    "07-2",
    right=[summary, median_by_hand, lambda runs: summary([*runs])],
    wrong=[
        without_the_slowest,
        summary_that_pops,
        lambda runs: (statistics.median(runs), min(runs), max(runs)),
        lambda runs: (statistics.median(runs[1:]), min(runs[1:]), max(runs[1:])),  # raises on one run
        lambda runs: summary(runs) and (statistics.mean(runs[1:]), min(runs[1:]), max(runs[1:])),
        lambda runs: summary(runs) and (sorted(runs[1:])[len(runs[1:]) // 2], min(runs[1:]), max(runs[1:])),
        lambda runs: summary(runs) or (0, 0, 0),
    ],
)


def verdict(before: list[float], after: list[float]) -> str:
    ratio = paired_ratio(after, before)
    if ratio.too_noisy:
        return "noisy"
    return "faster" if ratio.low > 1 else "slower" if ratio.high < 1 else "unclear"


def verdict_by_hand(before: list[float], after: list[float]) -> str:
    ratios = [b / a for a, b in zip(before, after, strict=True)]
    if max(ratios) - min(ratios) > statistics.median(ratios) / 5:
        return "noisy"
    if all(ratio > 1 for ratio in ratios):
        return "faster"
    return "slower" if all(ratio < 1 for ratio in ratios) else "unclear"


def verdict_that_sorts(before: list[float], after: list[float]) -> str:
    before.sort()
    after.sort()
    return verdict(before, after)


def verdict_by_medians(before: list[float], after: list[float]) -> str:
    return "faster" if statistics.median(after) > statistics.median(before) else "slower"


def verdict_of_each_column(before: list[float], after: list[float]) -> str:
    if max(after) - min(after) > 0.2 * statistics.median(after):
        return "noisy"
    return verdict(before, after)


cases(
    "07-3",
    right=[verdict, verdict_by_hand, lambda before, after: verdict([*before], [*after])],
    wrong=[
        verdict_by_medians,
        verdict_that_sorts,
        verdict_of_each_column,  # the machine drifts, the ratio does not
        lambda before, after: verdict(after, before),
        lambda before, after: verdict(before, after).replace("noisy", "unclear"),
        lambda before, after: verdict(before, after).replace("unclear", "slower"),
        lambda before, after: None,
    ],
)

cases(
    "07-4",
    right=["ABDE", "e, d、b a", ["A", "B", "D", "E"], {"E", "D", "B", "A"}, "ＡＢＤＥ"],
    wrong=["AF", "ABCDE", "ABDEF", "ABE", "BDE", "ADE", "ABD", "ABDX", "", ["A", 3], None, 4],
)

# 08 ------------------------------------------------------------------------------------------------------------------


def latencies(sent_s: float, arrivals_s: list[float], tokens: int) -> Any:
    ttft = 1000 * (arrivals_s[0] - sent_s)
    if tokens == 1:
        return ttft, None, None
    gaps = [1000 * (b - a) for a, b in itertools.pairwise(arrivals_s)]
    return ttft, sum(gaps) / (tokens - 1), max(gaps)


def latencies_with(sent_s: float, arrivals_s: list[float], tokens: int, **change: float) -> Any:
    ttft, tpot, itl = latencies(sent_s, arrivals_s, tokens)
    return change.get("ttft", ttft), tpot and change.get("tpot", tpot), itl and change.get("itl", itl)


cases(
    "08-1",
    right=[
        latencies,
        lambda *a: list(latencies(*a)),
        lambda sent, times, n: latencies_with(sent, times, n, tpot=(times[-1] - times[0]) * 1e3 / max(1, n - 1)),
    ],
    wrong=[
        lambda *a: tuple(x and x / 1000 for x in latencies(*a)),  # seconds
        lambda sent, times, n: latencies_with(sent, times, n, ttft=1000 * times[0]),
        lambda sent, times, n: latencies(sent, times, len(times)),  # events taken for tokens
        lambda sent, times, n: latencies_with(sent, times, n, tpot=1000 * (times[-1] - times[0]) / n),
        lambda sent, times, n: latencies_with(sent, times, n, tpot=1000 * (times[-1] - sent) / n),
        lambda sent, times, n: latencies_with(sent, times, n, itl=latencies(sent, times, n)[1] or 0),
        lambda *a: tuple(x or 0 for x in latencies(*a)),
        lambda *a: latencies(*a)[:2],
    ],
)

cases(
    "08-2",
    right=[(64, 16), ("64", "16"), (64.0, 16)],
    wrong=[(256, 16), (16, 16), (64, 64), (64, 4), (31.5, 16), (64, 256), ("最大", 16)],
)


def slowest(before: dict[str, float], after: dict[str, float]) -> Any:
    means = {}
    for stage in ("queue", "prefill", "decode"):
        name = f"vllm:request_{stage}_time_seconds"
        count = after[f"{name}_count"] - before.get(f"{name}_count", 0)
        if not count:
            return None
        means[stage] = (after[f"{name}_sum"] - before.get(f"{name}_sum", 0)) / count
    return max(means, key=lambda stage: means[stage])


def slowest_in_all(before: dict[str, float], after: dict[str, float]) -> Any:
    """Every stage counts the same requests, so the sums may be compared without dividing."""
    spent = {
        stage: after[f"vllm:request_{stage}_time_seconds_sum"]
        - before.get(f"vllm:request_{stage}_time_seconds_sum", 0.0)
        for stage in ("queue", "prefill", "decode")
    }
    return max(spent, key=lambda stage: spent[stage]) if any(spent.values()) else None


def slowest_that_subtracts_in_place(before: dict[str, float], after: dict[str, float]) -> Any:
    found = slowest(before, after)
    for name in after:
        after[name] -= before.get(name, 0)
    return found


cases(
    "08-3",
    right=[slowest, slowest_in_all, lambda before, after: slowest({**before}, {**after})],
    wrong=[
        lambda before, after: slowest({}, after),  # since the start of the server
        lambda before, after: slowest(dict.fromkeys(after, 0) | before, after) or "queue",
        lambda before, after: slowest({name: before[name] for name in after}, after),  # KeyError on a fresh server
        slowest_that_subtracts_in_place,
        lambda before, after: "decode",
        lambda before, after: None,
    ],
)

cases(
    "08-4",
    right=[("B", "Q"), ("b", "q"), (" Ｂ ", "Q")],
    wrong=[("A", "Q"), ("B", "P"), ("B", "S"), ("A", "R"), ("两张都信", "Q"), (1, 2), (None, "Q")],
)

# 09 ------------------------------------------------------------------------------------------------------------------


def users_by_counting(config: Any, *, bandwidth_gb_s: float, context: int, each: float) -> int:
    n = 0
    while decode_limit(config, bandwidth_gb_s=bandwidth_gb_s, batch=n + 1, context=context) / (n + 1) >= each:
        n += 1
    return n


def users_by_algebra(config: Any, *, bandwidth_gb_s: float, context: int, each: float) -> int:
    room = bandwidth_gb_s * 1e9 / each - 2 * weights_read(config)
    return max(0, math.floor(room / (context * model_size(config).kv_bytes_per_token)))


def users_without_end(config: Any, *, bandwidth_gb_s: float, context: int, each: float) -> int:
    n = 0
    while decode_limit(config, bandwidth_gb_s=bandwidth_gb_s, batch=n + 1, context=context) >= each:  # of all together
        n += 1
    return n


cases(
    "09-1",
    right=[
        users_by_counting,
        users_by_algebra,
        lambda config, **s: float(users_by_algebra(config, **s)),
    ],
    wrong=[
        lambda c, *, bandwidth_gb_s, context, each: int(
            decode_limit(c, bandwidth_gb_s=bandwidth_gb_s, batch=1, context=context) / each
        ),
        lambda config, **s: users_by_algebra(config, **s) + 1,
        lambda config, **s: users_by_algebra(config, **s) - 1,
        lambda config, **s: max(1, users_by_algebra(config, **s)),  # nobody has room, and still one
        lambda config, **s: users_by_algebra(config, **s | {"context": 0.001}),  # no KV cache
        lambda config, **s: users_by_algebra(SEVEN_B_CONFIG, **s),
        lambda config, **s: users_by_algebra(config, **s) + 0.5,
        lambda config, **s: None,
        users_without_end,
    ],
)

cases(
    "09-2",
    right=[
        {1: "A", 2: "B", 3: "B", 4: "A"},
        {"1": "a", "2": "b", "3": "b", "4": " a "},
        {1: "Ａ", 2: "Ｂ", 3: "Ｂ", 4: "Ａ"},
    ],
    wrong=[
        {1: "B", 2: "B", 3: "B", 4: "A"},
        {1: "A", 2: "A", 3: "B", 4: "A"},
        {1: "A", 2: "B", 3: "A", 4: "A"},  # the 4-bit weights forgotten
        {1: "A", 2: "B", 3: "B", 4: "B"},
        {1: "A", 2: "B", 3: "B"},
        {1: "A", 2: "B", 3: "B", 4: "C"},
        ["A", "B", "B", "A"],
        None,
    ],
)

cases(
    "09-3",
    right=[
        ({"X": "Q", "Y": "P", "Z": "R"}, "F"),
        ({"X": "q", "Y": "p", "Z": "r"}, "f"),
        ({"X": " Ｑ", "Y": "P", "Z": "R"}, " F "),
    ],
    wrong=[
        ({"X": "P", "Y": "P", "Z": "R"}, "F"),
        ({"X": "Q", "Y": "Q", "Z": "R"}, "F"),
        ({"X": "Q", "Y": "P", "Z": "Q"}, "F"),
        ({"X": "Q", "Y": "P", "Z": "R"}, "E"),
        ({"X": "Q", "Y": "P", "Z": "R"}, "--enforce-eager"),
        ({"X": "Q", "Y": "P", "Z": "R"}, 4),
        ({"X": "Q", "Y": "P"}, "F"),
        ("Q", "F"),
    ],
)

cases(
    "09-4",
    right=[
        66.8,
        "66.8",
        "67 %",
        100 * 2700 / decode_limit(SEVEN_B_CONFIG, bandwidth_gb_s=2039, batch=32, context=1088),
    ],
    wrong=[0.668, 58.5, 1900, 71.3, 50, None, "一半"],
)

# 10 ------------------------------------------------------------------------------------------------------------------

cases(
    "10-1",
    right=[
        {"P": "B", "Q": "C", "R": "D", "S": "E"},
        {"P": "b", "Q": " c", "R": "d", "S": "e"},
        {"P": "Ｂ", "Q": "Ｃ", "R": "Ｄ", "S": "Ｅ"},
    ],
    wrong=[
        {"P": "C", "Q": "C", "R": "D", "S": "E"},  # 6 K tokens
        {"P": "A", "Q": "C", "R": "D", "S": "E"},
        {"P": "B", "Q": "D", "R": "D", "S": "E"},  # as on a card without ECC
        {"P": "B", "Q": "B", "R": "D", "S": "E"},
        {"P": "B", "Q": "C", "R": "E", "S": "E"},
        {"P": "B", "Q": "C", "R": "D", "S": "D"},
        {"P": "B", "Q": "C", "R": "D"},
        ["B", "C", "D", "E"],
        None,
    ],
)


def longest_divided(config: Any, card_gib: float, users: int, **options: Any) -> int:
    return min(fit.fits(config, card_gib, **options).tokens // users // 1024 * 1024, config["max_position_embeddings"])


def longest_by_counting(config: Any, card_gib: float, users: int, **options: Any) -> int:
    tokens, length = fit.fits(config, card_gib, **options).tokens, 0
    while (length + 1024) * users <= tokens and length + 1024 <= config["max_position_embeddings"]:
        length += 1024
    return length


cases(
    "10-2",
    right=[
        longest_divided,
        longest_by_counting,
        lambda config, card_gib, users, **options: float(longest_divided(config, card_gib, users, **options)),
    ],
    wrong=[
        lambda config, card_gib, users, **options: longest_divided(config, card_gib, users),  # options forgotten
        lambda config, card_gib, users, **options: fit.fits(config, card_gib, **options).tokens // 1024 * 1024,
        lambda config, card_gib, users, **options: fit.fits(config, card_gib, **options).tokens // users,
        lambda config, card_gib, users, **options: fit.fits(config, card_gib, **options).tokens // users // 1024 * 1024,
        lambda config, card_gib, users, **options: max(1024, longest_divided(config, card_gib, users, **options)),
        lambda config, card_gib, users, **options: longest_divided(config, card_gib, users, **options) // 1024,
        lambda config, card_gib, users: longest_divided(config, card_gib, users),
        lambda *args, **options: None,
    ],
)


def round_trip_loops(row: Any, bits: int, group: int) -> list[float]:
    top, made = 2 ** (bits - 1) - 1, list[float]()
    for begin in range(0, len(row), group):
        part = row[begin : begin + group]
        scale = max(abs(value) for value in part) / top or 1.0
        made += [round(value / scale) * scale for value in part]
    return made


def round_trip_tensors(row: Any, bits: int, group: int) -> Any:
    import torch

    from helpers.models.quantize import to_int

    numbers, scale = to_int(torch.tensor([row]), bits=bits, group=group)
    return (numbers * scale).flatten().tolist()


def round_trip_unguarded(row: Any, bits: int, group: int) -> list[float]:
    top, made = 2 ** (bits - 1) - 1, list[float]()
    for begin in range(0, len(row), group):
        part = row[begin : begin + group]
        scale = max(abs(value) for value in part) / top
        made += [round(value / scale) * scale for value in part]
    return made


cases(
    "10-3",
    right=[round_trip_loops, round_trip_tensors, lambda row, bits, group: tuple(round_trip_loops(row, bits, group))],
    wrong=[
        round_trip_unguarded,
        lambda row, bits, group: round_trip_loops(row, bits, len(row)),
        lambda row, bits, group: round_trip_loops(row, bits + 1, group),
        lambda row, bits, group: round_trip_loops(row, 8, group),
        lambda row, bits, group: [round(value) for value in row],
        lambda row, bits, group: list(row),
        lambda row, bits, group: round_trip_loops(row, bits, group)[:group],
        lambda row, bits, group: "0.5, -1.0",
        lambda row, bits, group: None,
    ],
)

cases(
    "10-4",
    right=[{"X": "E", "Y": "F", "Z": "G"}, {"X": "e", "Y": "f", "Z": "g"}, {"X": " Ｅ", "Y": "F", "Z": "Ｇ"}],
    wrong=[
        {"X": "F", "Y": "F", "Z": "G"},
        {"X": "E", "Y": "E", "Z": "G"},
        {"X": "E", "Y": "H", "Z": "G"},
        {"X": "E", "Y": "F", "Z": "F"},
        {"X": "E", "Y": "F"},
        {"X": "E", "Y": "F", "Z": "--max-num-seqs"},
        "EFG",
        None,
    ],
)
