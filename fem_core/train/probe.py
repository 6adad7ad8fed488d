"""Proof that whoever loads a checkpoint later has its weights: log-probabilities of a fixed text.

Contract: they are computed in float32 from the files as re-read from disk, by transformers, and lie in the checkpoint
as ``fem_probe.json``: ``token_ids``, ``logprobs`` (one less: each token's, given those before it) and ``dtype``. The
engine compares its own before the first draw, because stale weights draw without complaint.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fem_core.sample.proof import PROBE_FILE

PROBE_TOKENS = 256
"""Longer texts are cut to this."""


def token_logprobs(model_dir: Path, token_ids: Sequence[int], device: str, trust_remote_code: bool) -> list[float]:
    """log p(token i | tokens before i) for i = 1.., nats, float32, from the weights in a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(model_dir),
        dtype=torch.float32,
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    )
    ids = torch.tensor([list(token_ids)], device=device)
    with torch.inference_mode():
        logits = model.to(device).eval()(input_ids=ids, use_cache=False).logits[0, :-1].float()
        chosen = torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])
    return [float(value) for value in chosen[:, 0]]


def write_probe(
    model_dir: Path, token_ids: Sequence[int], device: Literal["cpu", "cuda"], trust_remote_code: bool
) -> None:
    """Compute the probe for a checkpoint and lay it beside the weights."""
    ids = list(token_ids)[:PROBE_TOKENS]
    logprobs = token_logprobs(model_dir, ids, device, trust_remote_code)
    (model_dir / PROBE_FILE).write_text(json.dumps({"token_ids": ids, "logprobs": logprobs, "dtype": "float32"}))
