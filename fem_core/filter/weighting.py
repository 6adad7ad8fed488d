"""Which of a problem's accepted hinted draws stands for it: importance resampling towards the posterior p(z | x, y*).

Contract: pure in the columns. A draw is chosen with probability proportional to w = pi(z, y | x) / q(z, y | x, y*), which
``evaluate/posterior.py`` explains; ``plain_logprob`` is log pi and ``logprob`` log q, of the same tokens. What a filter
that judges a rationale by itself has rejected weighs nothing, so what is estimated is the posterior restricted to what
these filters keep. The problem's own seeds decide, so neither the order of parts nor other problems change a choice.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fem_core.digest import derive_seed
from fem_core.evaluate.posterior import effective_sample_size, log_weights, normalised, resample


@dataclass(frozen=True)
class Weighed:
    """A draw that may stand for its problem."""

    problem_id: str
    attempt: int
    seed: int
    """The draw's own."""
    log_pi: float
    """Under the plain prompt, nats."""
    log_q: float
    """Under the prompt that drew it, nats."""


@dataclass(frozen=True)
class Choice:
    """What stands for a problem."""

    attempt: int
    """Index of the draw that was chosen."""
    shares: dict[int, float]
    """Normalised weight of each draw, by its index."""
    effective: float
    """Effective sample size: how many equally weighted draws would tell as much."""


def choose(draws: Iterable[Weighed]) -> dict[str, Choice]:
    """One draw for each problem that has any, by problem id.

    Args:
        draws: those of a problem in the order of their indices, on which a choice depends.

    Raises:
        ValueError: a log-probability is none.
    """
    by_problem: dict[str, list[Weighed]] = {}
    for draw in draws:
        by_problem.setdefault(draw.problem_id, []).append(draw)
    return {problem_id: _choose(some) for problem_id, some in by_problem.items()}


def _choose(draws: list[Weighed]) -> Choice:
    for one in draws:
        if not (np.isfinite(one.log_pi) and np.isfinite(one.log_q)):
            raise ValueError(
                f"attempt {one.attempt} of problem {one.problem_id} has log pi {one.log_pi} and log q {one.log_q}"
            )
    log_w = log_weights([[one.log_pi for one in draws]], [[one.log_q for one in draws]], [[True] * len(draws)])
    seed = derive_seed("importance", *(one.seed for one in draws))
    column = int(resample(log_w, [seed])[0, 0])
    return Choice(
        draws[column].attempt,
        {one.attempt: float(share) for one, share in zip(draws, normalised(log_w)[0], strict=True)},
        float(effective_sample_size(log_w)[0]),
    )
