"""How much of the machine a step uses: the arithmetic that a model needs, and what these cores can do.

Contract: counts multiplications and additions of matrix products, attention included, nothing else; ``peak`` measures a
large matrix product in the calling process, so its share is of what the same cores reached in the same run.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from fem_core.sample.engine_settings import cpu_dtype


@dataclass(frozen=True)
class Model:
    """The sizes of a Llama-like decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, folder: Path) -> "Model":
        """From a model folder's ``config.json``."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
        )

    def forward(self, tokens: int, logits: int, context: int) -> float:
        """Floating-point operations of forward passes.

        Args:
            tokens: positions computed.
            logits: positions whose next token is predicted.
            context: sum over the positions of how many positions each attends to.
        """
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate
        scores = 2 * self.heads * self.head_dim * context
        return 2.0 * (self.layers * (layer * tokens + scores) + self.hidden * self.vocabulary * logits)

    def draw(self, prompts: list[int], completions: list[int]) -> float:
        """Of drawing: each prompt (its length in tokens) once, and one position per completion token.

        A prompt that a prefix cache holds is counted all the same.
        """
        context = sum((p + c) * (p + c) // 2 for p, c in zip(prompts, completions, strict=True))
        return self.forward(sum(prompts) + sum(completions), sum(completions), context)

    def train(self, lengths: list[int], completions: list[int]) -> float:
        """Of one pass of training over rows: forward, and backward twice that."""
        return 3 * self.forward(sum(lengths), sum(completions), sum(n * n // 2 for n in lengths))


def peak(dtype: str | None = None, size: int = 4096, repeats: int = 5) -> float:
    """What a square matrix product reaches here, floating-point operations per second (median).

    Args:
        dtype: ``bfloat16`` or ``float32``; what the engine and the trainer compute in on these cores by default.
    """
    import torch

    dtype = dtype or cpu_dtype()

    left = torch.randn(size, size).to(getattr(torch, dtype))
    right = torch.randn(size, size).to(getattr(torch, dtype))
    torch.mm(left, right)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / median(seconds)
