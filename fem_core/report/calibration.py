"""What a short calibration measured: how fast the engine and the trainer are here, and what each of a few problems cost.

Contract: measurements and the arithmetic that makes them out of what was seen; ``estimate`` scales them to a run. The
calibration walks the run's own plan on a random subset of its problems, so what those cost is an unbiased sample of
what all of them cost with the base model, whatever the plan and however much problems differ.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from fem_core.filter.verdict import ACCEPTED
from fem_core.sample.given import GIVEN
from fem_core.train.launch import TrainProgress

_SHORTEST = 1.0
"""Seconds with a full batch from which they give a rate; a shorter stretch is one or two reports of the engine."""


@dataclass(frozen=True)
class Moment:
    """The engine at one time, over all jobs."""

    seconds: float
    """Since the first draw was queued."""
    generated: int
    """Completion tokens so far, those of draws in flight included."""
    running: int
    """Draws that have tokens and have not ended."""
    waiting: int
    """Draws whose prompt has not been read."""
    looked: int = 0
    """Tokens of second looks so far."""


@dataclass(frozen=True)
class Rates:
    """How fast the engine drew."""

    completion_tokens: float
    """Per second while the batch was full, all draws together. Prompts of second and later draws of a problem are in it."""
    prompt_tokens: float | None
    """Per second, of each problem's first prompt; None where reading them could not be told apart and is in the other."""
    tail: float
    """Seconds that the emptying batch cost more than its tokens at the full rate: once for each time the engine is fed."""
    in_flight: int
    """Draws in the full batch."""
    look_tokens: float | None = None
    """Per second, of second looks, which read without the prefix cache; None where none are taken."""


@dataclass(frozen=True)
class Drawn:
    """One draw job on a subset of its problems; the tuples have an item for each problem."""

    of: int
    """Problems that the run's job has."""
    draws: tuple[int, ...]
    """Attempts, by the plan."""
    first_prompt_tokens: tuple[int, ...]
    """Of the first attempt's prompt."""
    prompt_tokens: tuple[int, ...]
    """Of all attempts' prompts."""
    completion_tokens: tuple[int, ...]
    """Of all completions."""
    bytes: int
    """Of the part files."""
    look_tokens: int = 0
    """Of the second looks at the attempts, over the subset."""


@dataclass(frozen=True)
class Kind:
    """What the draws with one prompt kind came to."""

    kind: str
    """plain or hinted."""
    draws: int
    """How many."""
    accepted: int
    """How many of them."""
    prompt_tokens: int
    """Of all of them."""
    completion_tokens: int
    """Of all of them."""


@dataclass(frozen=True)
class Accepted:
    """What the filter made of the subset's attempts, but for ``filter.max_rationales``."""

    problems: int
    """Of the subset, with a rationale at least."""
    rationales: int
    """How many."""
    tokens: int
    """Of all their training rows, prompts included."""
    seconds: float
    """That filtering took."""
    bytes: int
    """Of verdicts and rationales."""
    rationale_bytes: int = 0
    """Of these, the rationales'."""
    most: int | None = None
    """``filter.max_rationales``, which bounds an iteration of the run and not the subset."""


@dataclass(frozen=True)
class Training:
    """The trainer on a few optimizer steps."""

    tokens_per_second: float
    """Prompts included, from the end of the first step on."""
    startup: float
    """Seconds of everything else: starting the process, loading, a slow first step, saving and storing the checkpoint. A
    run starts the process while it still draws, so some of this is hidden there."""
    checkpoint_bytes: int
    """Of the checkpoint's files."""
    peak_gib: float
    """As ``TrainResult.peak_memory_gib``."""
    tokens_per_row: float
    """Of the rows that it trained on."""
    made_up: bool
    """Whether these were written from the exemplars, as no attempt was accepted."""


@dataclass(frozen=True)
class Calibration:
    """All that was measured. Seconds are of this machine as busy as it was."""

    sample: Drawn
    kinds: tuple[Kind, ...]
    """Of the sample job; none where completions are given."""
    evaluate: Drawn
    baseline: Drawn | None
    """Evaluation of the base model with the sampling exemplars, where the run has it."""
    rates: Rates
    accepted: Accepted
    training: Training
    prepare_seconds: float
    """Loading and checking the problems."""
    prepare_bytes: int
    """Of the problems and prompts."""
    engine_start: float
    """Seconds from nothing to the first draw."""
    swap: float
    """Seconds to put a checkpoint's weights in place of others and prove them."""
    engine_gib: float | None
    """The engine host's resident memory after drawing; None on GPU, where ``gpu_memory_utilization`` fixes it."""
    bound: Drawn | None = None
    """The hinted draws of ``evaluate.bound``, on fewer problems; None where the run has no bound."""


def rates(moments: Sequence[Moment], first_prompt_tokens: int, look_tokens: float | None = None) -> Rates:
    """The engine's rates, from its state about once a second.

    The batch is full from the moment when no prompt waits and half as many draws run as at most (the host lets the first
    draw go ahead alone) until fewer do. That stretch gives completion tokens per second. What the time before it took more
    than its tokens at that rate went into reading prompts; what the time after it took more is the tail. Dividing all
    tokens by all seconds instead would call the engine slow, as a small job is mostly beginning and end.

    Args:
        moments: in order; the first is the moment before the first draw, the last has nothing in flight.
        first_prompt_tokens: of each problem's first prompt, summed.
        look_tokens: per second; the time that looks took between the draws so is no part of the other rates.

    Raises:
        ValueError: nothing was drawn, or no time passed.
    """
    moments = _without_looks(moments, look_tokens)
    end = moments[-1]
    if end.generated <= 0 or end.seconds <= 0:
        raise ValueError(f"{end.generated} tokens in {end.seconds} seconds give no rate")
    peak = max(moment.running for moment in moments)
    whole = [moment for moment in moments if not moment.waiting and 2 * moment.running >= peak > 0]
    full, last = (whole[0], whole[-1]) if whole else (end, end)
    if last.seconds - full.seconds < _SHORTEST or last.generated <= full.generated:
        return Rates(end.generated / end.seconds, None, 0.0, peak, look_tokens)
    rate = (last.generated - full.generated) / (last.seconds - full.seconds)
    reading = full.seconds - full.generated / rate
    tail = end.seconds - last.seconds - (end.generated - last.generated) / rate
    return Rates(rate, first_prompt_tokens / reading if reading > 0 else None, max(0.0, tail), peak, look_tokens)


def _without_looks(moments: Sequence[Moment], look_tokens: float | None) -> Sequence[Moment]:
    """The same by a clock that stands still while looks are taken; as they are where that would leave it no time."""
    if look_tokens is None or moments[-1].seconds <= moments[-1].looked / look_tokens:
        return moments
    return [replace(one, seconds=one.seconds - one.looked / look_tokens) for one in moments]


def drawn(tables: Iterable[pa.Table], problems: Iterable[str], of: int, size: int, look_tokens: int = 0) -> Drawn:
    """What a job cost per problem; nothing for given completions and for problems that have none.

    Args:
        tables: attempts (``schemas.ATTEMPTS``) of the subset.
        problems: ids of the whole subset.
        of: problems that the run's job has.
        size: bytes of the part files.
        look_tokens: of the second looks at these attempts.
    """
    by_problem: dict[str, list[dict[str, Any]]] = {problem: [] for problem in sorted(problems)}
    for row in sorted(_rows(tables), key=lambda row: row["attempt"]):
        if row["prompt_kind"] != GIVEN:
            by_problem[row["problem_id"]].append(row)
    each = by_problem.values()
    return Drawn(
        of=of,
        draws=tuple(len(attempts) for attempts in each),
        first_prompt_tokens=tuple(sum(row["prompt_tokens"] for row in attempts[:1]) for attempts in each),
        prompt_tokens=tuple(sum(row["prompt_tokens"] for row in attempts) for attempts in each),
        completion_tokens=tuple(sum(row["completion_tokens"] for row in attempts) for attempts in each),
        bytes=size,
        look_tokens=look_tokens,
    )


def kinds(tables: Iterable[pa.Table]) -> tuple[Kind, ...]:
    """The draws by prompt kind, in the order in which the kinds were first drawn with."""
    found: dict[str, Kind] = {}
    for row in sorted(_rows(tables), key=lambda row: row["attempt"]):
        one = found.get(row["prompt_kind"]) or Kind(row["prompt_kind"], 0, 0, 0, 0)
        found[one.kind] = Kind(
            one.kind,
            one.draws + 1,
            one.accepted + (row["verdict"] == ACCEPTED),
            one.prompt_tokens + row["prompt_tokens"],
            one.completion_tokens + row["completion_tokens"],
        )
    return tuple(found.values())


def training(
    progress: Sequence[TrainProgress], wall: float, rows: int, size: int, peak_gib: float, made_up: bool
) -> Training:
    """The trainer's rate and start-up.

    Args:
        progress: each optimizer step; the first pays for what is done once, so the rate is that of the others.
        wall: seconds from the request to the stored checkpoint.
        rows: trained on.
        size: bytes of the checkpoint.

    Raises:
        ValueError: there was no step.
    """
    if not progress:
        raise ValueError("no optimizer step gives no rate")
    first, last = progress[0], progress[-1]
    tokens, seconds = last.tokens - first.tokens, last.seconds - first.seconds
    rate = tokens / seconds if tokens > 0 and seconds > 0 else last.tokens / last.seconds
    return Training(rate, max(0.0, wall - last.tokens / rate), size, peak_gib, last.tokens / rows, made_up)


def _rows(tables: Iterable[pa.Table]) -> list[dict[str, Any]]:
    columns = ["problem_id", "attempt", "prompt_kind", "verdict", "prompt_tokens", "completion_tokens"]
    return [row for table in tables for row in table.select(columns).to_pylist()]
