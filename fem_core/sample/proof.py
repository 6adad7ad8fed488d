"""Proof that an engine holds the weights it was given.

Contract: the trainer records, beside every checkpoint, the float32 log-probabilities of a text under the very weights
it saved (``fem_probe.json``, see ``fem_core/train/probe.py``); an engine that took these weights must find the same
numbers, up to the rounding of its dtype. Stale weights raise nothing by themselves, so nothing is drawn before this has
held. Imports neither torch nor vllm.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fem_core.errors import Corrupt, FemError

PROBE_FILE = "fem_probe.json"

TOLERANCE = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}
"""Largest mean absolute difference, nats per token, between an engine of this dtype and the float32 reference.

Measured with SmolLM2-135M on five texts of 85-152 tokens (prose, arithmetic, code, a puzzle, gibberish), before and
after 20 AdamW steps at 1e-6, 1e-5 and 1e-4; the ranges are over texts:

    right weights          float32 <= 0.00001   float16 0.002-0.009     bfloat16 0.016-0.046, after 1e-4 up to 0.086
    stale altogether       1e-6: 0.005-0.024    1e-5: 0.05-0.25    1e-4: 0.30-1.3
    stale head (float32)   1e-6: 0.0002-0.0015  1e-5: 0.001-0.013  1e-4: 0.015-0.091

So in float32 the mean tells all but the very smallest staleness from rounding. In bfloat16 it tells gross errors only
(another model, another tokenizer, a long training missed); a stale head hides in the noise, and the largest difference
is no better (right: up to 1.1). That is why ``VllmEngine.load`` reads the head back and ``VllmEngine.swap`` wants the
log-probabilities to have moved: both are exact in any dtype.
"""


class WeightsNotProved(FemError):
    """The engine does not compute with the weights of the checkpoint it should hold."""


@dataclass(frozen=True)
class Probe:
    """What a checkpoint says of a text."""

    token_ids: list[int]
    """The text."""
    logprobs: list[float]
    """Log-probability of each token given those before it, nats, from position 1: one fewer than tokens."""


def read_probe(folder: Path) -> Probe | None:
    """The probe beside a checkpoint; None where there is none, as beside a model from elsewhere.

    Raises:
        Corrupt: the file is there but is no probe.
    """
    file = folder / PROBE_FILE
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        probe = Probe([int(t) for t in data["token_ids"]], [float(p) for p in data["logprobs"]])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{file} is no probe ({error!r}). Remove the checkpoint's folder and run again.") from error
    if len(probe.token_ids) < 2 or len(probe.logprobs) != len(probe.token_ids) - 1:
        raise Corrupt(
            f"{file} holds {len(probe.logprobs)} log-probabilities for {len(probe.token_ids)} tokens, where there "
            "should be one fewer than tokens. Remove the checkpoint's folder and run again."
        )
    return probe


def check_weights(engine: Sequence[float], reference: Sequence[float], dtype: str) -> float:
    """Compare an engine's log-probabilities with the checkpoint's.

    Args:
        engine: what the engine finds for the probe's text, nats, one per token from position 1.
        reference: what the probe says of the same positions.
        dtype: the engine's, a key of ``TOLERANCE``.

    Returns:
        The mean absolute difference.

    Raises:
        WeightsNotProved: it exceeds the dtype's tolerance.
    """
    difference = sum(abs(a - b) for a, b in zip(engine, reference, strict=True)) / len(reference)
    if not difference <= TOLERANCE[dtype]:  # also when it is not a number
        raise WeightsNotProved(
            f"The engine's log-probabilities differ from the checkpoint's by {difference:.4g} nats per token in the "
            f"mean, more than {dtype} rounding explains ({TOLERANCE[dtype]:g}). Do not draw with it: start the engine "
            "afresh, and report this with the engine's log if that does not help."
        )
    return difference
