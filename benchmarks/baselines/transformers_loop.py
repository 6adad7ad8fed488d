"""FEM as a script around transformers: ``python -m benchmarks.baselines.transformers_loop CONFIG FOLDER [--set a.b=c]``.

As script.py, but the draws come from ``model.generate``: prompts sorted by length, 64 sequences at a time, padded on the
left, in bfloat16 unless the configuration names another dtype. A batch ends when its longest draw does.
"""

from pathlib import Path
from typing import Any

from benchmarks.baselines.loop import Decoding, Draw, Generate, main
from fem_core.config import RunConfig

BATCH = 64
"""Sequences per call."""


def start(model_dir: Path, config: RunConfig, seed: int) -> Generate:
    """The model and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = "bfloat16" if config.sample.engine.dtype == "auto" else config.sample.engine.dtype
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).to(device).eval()
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    torch.manual_seed(seed)

    def one_batch(prompts: list[list[int]], how: Decoding) -> list[list[Draw]]:
        batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(device)
        # top_k is 50 unless said otherwise, which would be another distribution than vLLM's.
        sampling: dict[str, Any] = {"temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
        with torch.inference_mode():
            found = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=how.max_tokens,
                num_return_sequences=how.n,
                pad_token_id=pad,
                do_sample=how.temperature > 0,
                **(sampling if how.temperature > 0 else {}),
            )
        completions = found[:, batch["input_ids"].shape[1] :].tolist()
        draws = [as_draw(ids) for ids in completions]
        return [draws[n : n + how.n] for n in range(0, len(draws), how.n)]

    def as_draw(ids: list[int]) -> Draw:
        end = next((n + 1 for n, token in enumerate(ids) if token in ends), None)
        text = tokenizer.decode(ids[:end], skip_special_tokens=True)
        return Draw(text, "length" if end is None else "stop", len(ids[:end]))

    def generate(prompts: list[list[int]], how: Decoding) -> list[list[Draw]]:
        order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]), reverse=True)
        found: list[list[Draw]] = [[] for _ in prompts]
        size = max(1, BATCH // how.n)
        for first in range(0, len(order), size):
            members = order[first : first + size]
            for n, draws in zip(members, one_batch([prompts[n] for n in members], how), strict=True):
                found[n] = draws
        return found

    return generate


if __name__ == "__main__":
    main("benchmarks.baselines.transformers_loop", __doc__, start, {})
