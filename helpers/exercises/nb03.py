"""The exercises of notebook 03. Where the answer depends on the model, the learner's own engine is asked."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from importlib import import_module
from typing import Any

from helpers.exercises.judging import Judge, NotJudged, Wrong, call, choices, gone, kind, number, short

__all__ = ["JUDGES"]

PLAN = "请帮我制定个简短的初学者Python学习计划"
TAG_QUESTION = "</think> 标签有什么用？"
FACTORIAL = "我想问你，5的阶乘是多少？"


def _need_engine(llm: Any) -> Any:
    if not hasattr(llm, "chat") or not hasattr(llm, "get_tokenizer"):
        raise NotJudged(
            f"最后一样要交正在运行的引擎 llm，得到的是{kind(llm)}。引擎已经释放的话，重新运行第 2 节建引擎的那一格。"
        )
    if hasattr(llm, "llm_engine") and llm.llm_engine.has_unfinished_requests():
        raise NotJudged("引擎停在了半路（按过停止），再问就没有回音。重新运行第 2 节建引擎的那一格，再运行这一格。")
    return llm


def thought_closes(answer: object, llm: object) -> None:
    engine, tokens = _need_engine(llm), number(answer)
    if tokens < 2 or tokens != int(tokens):
        raise Wrong("要一个大于 1 的整数。")
    sampling = import_module("vllm").SamplingParams

    def closed(max_tokens: int) -> bool:
        messages = [{"role": "user", "content": PLAN}]
        [output] = engine.chat(messages, sampling(temperature=0, max_tokens=max_tokens), use_tqdm=False)
        return "</think>" in output.outputs[0].text

    if not closed(int(tokens)):
        near = closed(int(tokens) + 1)
        hint = "只差一个：位置从 0 数起，个数从 1 数起。" if near else ""
        raise Wrong(f"max_tokens={tokens:.0f} 时，思考还没有写完。", hint=hint)
    if closed(int(tokens) - 1):
        raise Wrong(f"max_tokens={tokens:.0f} 时写完了，可是再少一个也写得完，这不是最小的。")


TEXTS = [
    ("先想一想。\n</think>\n\n答案是 4。", "先想一想。", "答案是 4。", "最普通的输出"),
    ("想。</think>标签 </think> 表示思考结束。", "想。", "标签 </think> 表示思考结束。", "标签出现了两次"),
    ("a</think>b</think>c</think>d", "a", "b</think>c</think>d", "标签出现了三次"),
    ("用户想要一份计划，先想清楚", "用户想要一份计划，先想清楚", None, "没有标签，思考被截断了"),
    ("想完了。</think>", "想完了。", "", "刚写完标签就被截断了"),
    ("", "", None, "一个字也没有"),
]  # fmt: skip


def two_parts(think_and_answer: object) -> None:
    for text, thought, answer, about in TEXTS:
        value = call(think_and_answer, text, about=about)
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise Wrong(f"{about}，要返回两样东西（思考，答案），得到的是 {short(value)}。")
        if not isinstance(value[0], str) or value[0].strip() != thought:
            raise Wrong(f"{about}，思考成了 {short(value[0])}。")
        if answer is None and value[1] is not None:
            raise Wrong(f"{about}，还没有答案，函数却给出了 {short(value[1])}。")
        if answer is not None and (not isinstance(value[1], str) or value[1].strip() != answer):
            raise Wrong(f"{about}，答案成了 {short(value[1])}。")


CUT = "没有 </think>，就还没有答案。这时要返回 None，不是空字符串，也不是那半截思考。"
SPLIT = "只在第一个 </think> 处切开（第 4 节的 partition），它后面的全是答案，答案里再有这个标签也留着。"
ORDER = "先数，再问：把长度检查放到提问前面。"
COUNT = "要数的是套完模板的 token：第 6 节的 apply_chat_template 返回的 input_ids 有几个。刚好相等是放得下的。"

FAULTS = {1: "F", 2: "E", 3: "A", 4: "C", 5: "D", 6: "B"}


def old_script(answer: object) -> None:
    read = choices(answer, keys=list(FAULTS), letters="ABCDEFG")
    wrong = [str(key) for key, letter in FAULTS.items() if read[key] != letter]
    if wrong:
        raise Wrong(f"{len(FAULTS) - len(wrong)} 处对了，不对的是 {'、'.join(wrong)}。")


ENOUGH = 1024  # tokens: nobody waits until a card's whole context is full


class _Watched:
    """The engine, cut at `ENOUGH` tokens, with a memory of what it returned: the answer is compared with that."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self.seen: list[Any] = []
        self.temperatures: set[object] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(self._llm.chat, args, kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask(self._llm.generate, args, kwargs)

    def _ask(self, ask: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > 1:
            args = (args[0], self._cut(args[1]), *args[2:])
        else:
            kwargs = kwargs | {"sampling_params": self._cut(kwargs.get("sampling_params"))}
        outputs = ask(*args, **kwargs)
        self.seen += outputs
        return outputs

    def _cut(self, params: Any) -> Any:
        if isinstance(params, list | tuple):
            return [self._cut(one) for one in params]
        self.temperatures.add(getattr(params, "temperature", None))
        if params is not None and (params.max_tokens or ENOUGH + 1) > ENOUGH:
            params = copy(params)
            params.max_tokens = ENOUGH
        return params


def mended_completion(get_answer: object, llm: object, max_model_len: object) -> None:
    engine, limit = _need_engine(llm), int(number(max_model_len))
    messages = [{"role": "user", "content": FACTORIAL}]
    rendered = engine.get_tokenizer().apply_chat_template(messages, add_generation_prompt=True)
    room = limit - len(rendered["input_ids"])
    _compare(get_answer, engine, PLAN, 24, "思考被截断时（max_tokens=24）")
    _compare(get_answer, engine, FACTORIAL, room, f"提示词加 max_tokens 刚好是 {limit} 时")
    _compare(get_answer, engine, TAG_QUESTION, 1024, "答案里又提到 </think> 时")
    for max_tokens in (4 * limit, room + 1):
        _refused(get_answer, engine, FACTORIAL, max_tokens)


def _compare(get_answer: object, engine: Any, question: str, max_tokens: int, about: str) -> None:
    watched = _Watched(engine)
    value = call(get_answer, watched, question, max_tokens, about=about)
    if not watched.seen:
        raise Wrong(f"{about}，函数没有用传进来的 llm 提问。引擎只建一次，不要在函数里再建。")
    if watched.temperatures != {0}:
        raise Wrong(
            f"{about}，不是用贪心解码问的，同一个问题每次的答案可能不同。",
            hint="贪心解码怎么写，在第 3 节。SamplingParams 里不写 temperature，用的是 1.0。",
        )
    completion = watched.seen[-1].outputs[0]
    if len(completion.token_ids) > max_tokens:
        raise Wrong(f"{about}，输出了 {len(completion.token_ids)} 个 token，没有按传进来的 max_tokens 限制。")
    _, tag, answer = completion.text.partition("</think>")
    if not tag and value is not None:
        raise Wrong(f"{about}，还没有答案，函数却返回 {short(value)}。", hint=CUT)
    if tag and (not isinstance(value, str) or value.strip() != answer.strip()):
        raise Wrong(f"{about}，函数返回 {short(value)}，不是引擎写出的那个答案。", hint=SPLIT)


def _refused(get_answer: object, engine: Any, question: str, max_tokens: int) -> None:
    watched, about = _Watched(engine), f"max_tokens={max_tokens} 时"
    try:
        get_answer(watched, question, max_tokens)  # type: ignore[operator]
    except ValueError:
        if watched.seen:
            raise Wrong(f"{about}，问完才抛出 ValueError，模型已经白算了一遍。", hint=ORDER) from None
        return
    except Exception as error:
        if reason := gone(error):
            raise reason from None
        raise Wrong(f"{about}，要抛出 ValueError，抛出的却是 {type(error).__name__}。", hint=COUNT) from None
    raise Wrong(f"{about}，加上提示词就放不下了，函数却没有抛出 ValueError。", hint=COUNT)


JUDGES: dict[str, Judge] = {
    "03-1": thought_closes,
    "03-2": two_parts,
    "03-3": old_script,
    "03-4": mended_completion,
}
