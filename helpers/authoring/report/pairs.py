"""vLLM against transformers, in turn, driven from one process.

Random prompts of the same length (new ones for each run), the same number of new tokens, the same dtype; each engine
is warmed up once at each size. Both sample at temperature 1 and ignore the end of sequence, as `vllm bench throughput`
does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    import torch
    from vllm import LLM

__all__ = ["generate", "pairs", "random_prompts"]

INPUT_LEN, OUTPUT_LEN = 64, 128  # tokens, as in the tutorial that this course grew from


def random_prompts(n: int, *, vocabulary: int) -> torch.Tensor:
    """Draw `n` new prompts as token ids, `(n, 64)`: new ones each time, so that the prefix cache holds none of them."""
    import torch

    return torch.randint(vocabulary, (n, INPUT_LEN))


def generate(llm: LLM, n: int) -> None:
    """Let vLLM generate 128 tokens for each of `n` random prompts; the tokenizer is left out."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    ids = random_prompts(n, vocabulary=llm.model_config.get_vocab_size()).tolist()
    params = SamplingParams(temperature=1.0, max_tokens=OUTPUT_LEN, ignore_eos=True, detokenize=False)
    llm.generate([TokensPrompt(prompt_token_ids=row) for row in ids], params, use_tqdm=False)


def pairs(
    model: str,
    *,
    device: str,
    vllm_prompts: list[int],
    hf_batches: list[int],
    repeats: int,
    engine: dict[str, Any],
) -> list[dict[str, Any]]:
    """Time both engines in turn.

    Args:
        model: path of the model folder.
        device: where transformers runs, `cpu` or `cuda`.
        vllm_prompts: how many prompts vLLM gets at once, for example `[1, 25, 100]`.
        hf_batches: batch sizes of transformers; each measurement runs one full batch.
        repeats: measurements of each size.
        engine: further arguments of `vllm.LLM`; transformers takes its `dtype`.

    Returns:
        One row per engine and size: `engine`, `prompts`, `output_tok_per_s` (one value per repeat).
    """
    import torch
    from transformers import AutoModelForCausalLM
    from vllm import LLM

    llm = LLM(model=model, seed=2025, skip_tokenizer_init=True, **engine)
    hf: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, engine["dtype"]))
    hf = hf.to(device).eval()

    def run_vllm(n: int) -> None:
        generate(llm, n)

    def run_hf(n: int) -> None:
        ids = random_prompts(n, vocabulary=hf.config.vocab_size).to(device)
        new = hf.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=OUTPUT_LEN, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert new.shape == (n, INPUT_LEN + OUTPUT_LEN)

    runs: list[tuple[str, int, Callable[[int], None]]] = [("vllm", n, run_vllm) for n in vllm_prompts]
    runs += [("transformers", n, run_hf) for n in hf_batches]
    speeds: dict[tuple[str, int], list[float]] = {(name, n): [] for name, n, _ in runs}
    with torch.inference_mode(), tqdm(total=(repeats + 1) * len(runs), desc="vllm, transformers") as bar:
        for repeat in range(repeats + 1):  # the first round warms up
            for name, n, run in runs:
                begin = time.perf_counter()
                run(n)
                seconds = time.perf_counter() - begin
                if repeat:
                    speeds[name, n].append(n * OUTPUT_LEN / seconds)
                bar.update()
    return [{"engine": name, "prompts": n, "output_tok_per_s": values} for (name, n), values in speeds.items()]
