"""What a run will cost, per step and iteration: a calibration scaled to the run's problems and iterations.

Contract: pure arithmetic. Every iteration is assumed to cost what the first does: that acceptance and lengths stay those
of the base model. They do not: acceptance usually rises with training, so that rejection sampling draws less and the
M-step trains on more. A range is a 95 % interval for which problems the calibration happened to draw on; how busy the
machine is, then and later, is not in it.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fem_core.errors import Corrupt
from fem_core.evaluate.score import wilson
from fem_core.report.calibration import Accepted, Calibration, Drawn, Kind, Rates, Training

VERSION = 1
"""Of the file; raised when an older one can no longer be read as it is."""

BASELINE = "evaluate with exemplars"
"""The step name of the base model's second evaluation."""

_Z = statistics.NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Figure:
    """An amount with its range."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Figure") -> "Figure":
        """Sum; the ranges add up too, as all come from the same few problems."""
        return Figure(self.value + other.value, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Figure":
        """The same amount in another unit."""
        return Figure(self.value * factor, self.low * factor, self.high * factor)


def fixed(value: float) -> Figure:
    """An amount that does not depend on which problems were drawn on."""
    return Figure(value, value, value)


@dataclass(frozen=True)
class StepEstimate:
    """One step of one iteration, or a sum of some. None where the step has no such thing."""

    step: str
    """prepare, sample, filter, train, evaluate, or ``BASELINE``."""
    iteration: int | None
    """k; None outside of iterations."""
    draws: Figure | None
    prompt_tokens: Figure | None
    """Of the draws."""
    tokens: Figure | None
    """Of completions drawn; of the train step, tokens trained on, prompts and epochs included."""
    seconds: Figure
    """Start-ups included."""
    bytes: Figure
    """That stay in the store."""
    look_tokens: Figure | None = None
    """Read and drawn by second looks at the draws; their seconds are in ``seconds``."""


@dataclass(frozen=True)
class Estimate:
    """A run before it begins."""

    steps: tuple[StepEstimate, ...]
    """In the order of the run."""
    calibration: Calibration
    made: str
    """ISO 8601, UTC."""
    hardware: dict[str, Any]
    """``provenance.hardware()`` where it was measured, and the ``load`` before."""

    @property
    def utilization(self) -> Figure:
        """Share of the problems that get a rationale, with Wilson's interval, under ``filter.max_rationales``.

        Of a problem's r rationales each stays with the same chance s, so that the problem stays with 1 - (1 - s)^r.
        """
        found = self.calibration
        share, accepted = _accepted(found), found.accepted
        if accepted.most is None or not accepted.problems:
            return share
        each = accepted.rationales / accepted.problems

        def left(value: float) -> float:
            stays = _stays(accepted, found.sample.of * value * each)
            return value * (1 - math.pow(1 - stays, each))

        return Figure(left(share.value), left(share.low), left(share.high))


def estimate(found: Calibration, iterations: int, epochs: float, made: str, hardware: dict[str, Any]) -> Estimate:
    """Scale a calibration to a run.

    The engine starts in the first sample step; each later one waits for new weights, and so does the last evaluation. An
    evaluation shares the engine with the sample step after it, so the emptying batch is counted once for the two. Where
    nothing is sampled (given completions), the engine starts, and waits, for the evaluations. An evaluation's row has the draws
    of ``evaluate.bound`` in it, as they are made with it.

    Args:
        iterations: K.
        epochs: ``train.epochs``.
    """
    sampled = any(found.sample.draws)
    alone = 0.0 if sampled else found.engine_start
    steps = [
        StepEstimate("prepare", None, None, None, None, fixed(found.prepare_seconds), fixed(found.prepare_bytes)),
        _evaluation(0, found, found.rates.tail + alone),
    ]
    if found.baseline is not None:
        steps.append(_draws(BASELINE, 0, found.baseline, found.rates, 0.0))
    for k in range(1, iterations + 1):
        before = 0.0 if not sampled else found.engine_start if k == 1 else found.swap
        after = found.rates.tail + (found.swap if k == iterations or not sampled else 0.0)
        steps += [
            _draws("sample", k, found.sample, found.rates, before),
            _filter(k, found),
            _train(k, found, epochs),
            _evaluation(k, found, after),
        ]
    return Estimate(tuple(steps), found, made, hardware)


def total(steps: Iterable[StepEstimate], name: str = "total", iteration: int | None = None) -> StepEstimate:
    """The sum of some steps; ``tokens`` are those drawn, without those trained on."""
    some = list(steps)
    drawn = [step for step in some if step.step != "train"]
    return StepEstimate(
        name,
        iteration,
        _sum(step.draws for step in some) or fixed(0),
        _sum(step.prompt_tokens for step in some) or fixed(0),
        _sum(step.tokens for step in drawn) or fixed(0),
        _sum(step.seconds for step in some) or fixed(0),
        _sum(step.bytes for step in some) or fixed(0),
        _sum(step.look_tokens for step in some),
    )


def scaled(values: Sequence[float], of: int) -> Figure:
    """The sum over ``of`` problems, from a random few of them: mean ± 1.96 standard errors, times ``of``.

    Without a correction for the few being a good part of all: a problem drawn for again costs something else.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no problem gives no estimate")
    mean = statistics.fmean(values)
    margin = _Z * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Figure(of * mean, of * max(0.0, mean - margin), of * (mean + margin))


def dump(made: Estimate) -> bytes:
    """The estimate as a file."""
    return json.dumps({"version": VERSION, **asdict(made)}, indent=1, ensure_ascii=False).encode() + b"\n"


def load(text: bytes, where: str) -> Estimate:
    """The estimate in a file.

    Raises:
        Corrupt: it is none, or none of this version.
    """
    try:
        values = json.loads(text)
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']}, and {VERSION} is read here")
        return Estimate(
            tuple(_step(one) for one in values["steps"]),
            _calibration(values["calibration"]),
            values["made"],
            values["hardware"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{where} holds no estimate that can be read: {error}. Make it again with fem plan.") from error


def _draws(step: str, k: int, job: Drawn, rates: Rates, extra: float) -> StepEstimate:
    reading = 1 / rates.prompt_tokens if rates.prompt_tokens else 0.0
    seconds = [
        prompt * reading + tokens / rates.completion_tokens
        for prompt, tokens in zip(job.first_prompt_tokens, job.completion_tokens, strict=True)
    ]
    tokens = scaled(job.completion_tokens, job.of)
    size = fixed(job.bytes / len(job.draws) * job.of)  # where completions are given
    looks = None
    if any(job.completion_tokens):
        size = tokens.times(job.bytes / sum(job.completion_tokens))
        looks = tokens.times(job.look_tokens / sum(job.completion_tokens)) if job.look_tokens else None
    looking = looks.times(1 / rates.look_tokens) if looks and rates.look_tokens else fixed(0)
    return StepEstimate(
        step,
        k,
        scaled(job.draws, job.of),
        scaled(job.prompt_tokens, job.of),
        tokens,
        scaled(seconds, job.of) + looking + fixed(extra),
        size,
        looks,
    )


def _evaluation(k: int, found: Calibration, extra: float) -> StepEstimate:
    scored = _draws("evaluate", k, found.evaluate, found.rates, extra)
    if found.bound is None:
        return scored
    return total((scored, _draws("evaluate", k, found.bound, found.rates, 0.0)), "evaluate", k)


def _accepted(found: Calibration) -> Figure:
    """Share of the problems with an accepted rationale, however many may stay."""
    accepted, n = found.accepted.problems, len(found.sample.draws)
    return Figure(accepted / n, *wilson(accepted, n))


def _stays(accepted: Accepted, rationales: float) -> float:
    """With what chance one of so many rationales of an iteration stays."""
    return 1.0 if accepted.most is None or rationales <= accepted.most else accepted.most / rationales


def _filter(k: int, found: Calibration) -> StepEstimate:
    share = found.sample.of / len(found.sample.draws)
    accepted = found.accepted
    lost = accepted.rationale_bytes * (1 - _stays(accepted, accepted.rationales * share))
    return StepEstimate(
        "filter", k, None, None, None, fixed(accepted.seconds * share), fixed(round((accepted.bytes - lost) * share))
    )


def _train(k: int, found: Calibration, epochs: float) -> StepEstimate:
    of, accepted = found.sample.of, found.accepted
    per_problem = accepted.tokens / accepted.problems if accepted.problems else found.training.tokens_per_row
    tokens = _accepted(found).times(of * per_problem * epochs)
    if accepted.most is not None:
        per_row = accepted.tokens / accepted.rationales if accepted.rationales else found.training.tokens_per_row
        most = accepted.most * per_row * epochs
        tokens = Figure(min(tokens.value, most), min(tokens.low, most), min(tokens.high, most))
    seconds = tokens.times(1 / found.training.tokens_per_second) + fixed(found.training.startup)
    return StepEstimate("train", k, None, None, tokens, seconds, fixed(found.training.checkpoint_bytes))


def _sum(figures: Iterable[Figure | None]) -> Figure | None:
    some = [figure for figure in figures if figure is not None]
    return sum(some[1:], some[0]) if some else None


def _step(values: dict[str, Any]) -> StepEstimate:
    names = ("draws", "prompt_tokens", "tokens", "seconds", "bytes", "look_tokens")
    figures = {name: None if values.get(name) is None else Figure(**values[name]) for name in names}
    return StepEstimate(values["step"], values["iteration"], **figures)  # type: ignore[arg-type]


def _calibration(values: dict[str, Any]) -> Calibration:
    def job(one: dict[str, Any]) -> Drawn:
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in one.items()}
        return Drawn(**plain)

    made: dict[str, Any] = {
        "sample": job(values["sample"]),
        "kinds": tuple(Kind(**one) for one in values["kinds"]),
        "evaluate": job(values["evaluate"]),
        "baseline": None if values["baseline"] is None else job(values["baseline"]),
        "bound": None if values.get("bound") is None else job(values["bound"]),
        "rates": Rates(**values["rates"]),
        "accepted": Accepted(**values["accepted"]),
        "training": Training(**values["training"]),
    }
    return Calibration(**{**values, **made})
