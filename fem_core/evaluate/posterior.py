"""Importance weights of hinted draws against the posterior p(z | x, y*), and what they say of p(y* | x).

Contract: arithmetic on log-probabilities alone, nats, one row per problem and one column per draw. A draw (z, y) comes
from the hinted prompt with density q(z, y | x, y*); the plain prompt gives it pi(z, y | x). Its weight is

    w = pi(z, y | x) / q(z, y | x, y*) where y = y*, else 0,

so that E_q[w] = pi(y* | x) wherever q can draw all that pi can, and weights divided by their sum estimate the posterior.
Both densities are of the whole completion, rationale and answer line; pi at temperature 1 without top_p, q with the settings
that it was drawn with.

On what is left out: a wrong draw weighs nothing, but it was drawn, so it counts in S; leaving it out would divide the
estimate of pi(y* | x) by q's own acceptance. S must not depend on what was drawn. That holds for ``scheme.keep: all``
and for a budget of 1. Drawing until the first acceptance makes S small exactly where acceptance came early, and the mean
of w too large. Where a filter rejects right answers for other reasons, the mask decides what is estimated: with the
answer's verdict the posterior itself, with the filter's the posterior restricted to what the filter keeps, whose mass is
a smaller share of pi(y* | x), so that the bound holds all the same.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def log_weights(log_pi: npt.ArrayLike, log_q: npt.ArrayLike, right: npt.ArrayLike) -> Floats:
    """Unnormalised log-weights, nats, of shape (problems, draws).

    Args:
        log_pi: log pi(z, y | x) of each draw under the plain prompt, of that shape; -inf where it cannot happen.
        log_q: log q(z, y | x, y*) of each draw under the prompt that drew it; finite, as it was drawn.
        right: whether the draw's answer is y* (or: whether it was kept; see above). What is not right weighs nothing, and
            its densities are not looked at.

    Raises:
        ValueError: the shapes differ, or a right draw has a density that none can have.
    """
    pi, q, mask = np.asarray(log_pi, np.float64), np.asarray(log_q, np.float64), np.asarray(right, np.bool_)
    if pi.ndim != 2 or not pi.shape == q.shape == mask.shape:
        raise ValueError(f"shapes {pi.shape}, {q.shape} and {mask.shape} are not one shape (problems, draws)")
    wrong = mask & (np.isnan(pi) | (pi == np.inf) | ~np.isfinite(q))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"draw {column} of problem {row} has log pi {pi[row, column]} and log q {q[row, column]}; log q must be finite, "
            "log pi finite or -inf"
        )
    found = np.full(pi.shape, -np.inf)
    np.subtract(pi, q, out=found, where=mask)
    return found


def normalised(log_w: Floats) -> Floats:
    """Self-normalised weights: each row sums to 1, or is 0 where the problem has no draw that weighs anything."""
    highest = _highest(log_w)
    weights: Floats = np.exp(log_w - highest)
    total = weights.sum(axis=-1, keepdims=True)
    shares: Floats = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return shares


def effective_sample_size(log_w: Floats) -> Floats:
    """(sum w)^2 / sum w^2 per problem: how many equal weights estimate as well; 0 without any, S at most."""
    squares = np.square(normalised(log_w)).sum(axis=-1)
    sizes: Floats = np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0)
    return sizes


def resample(log_w: Floats, seeds: Sequence[int], m: int = 1) -> npt.NDArray[np.int64]:
    """Draw columns with replacement by their weights: about m draws of the posterior for each problem.

    Args:
        seeds: one per problem, such as ``derive_seed(run, iteration, problem_id)``, so that what a problem gets does not
            depend on which others stand beside it.

    Returns:
        Columns, of shape (problems, m); -1 where a problem has no draw that weighs anything.

    Raises:
        ValueError: unless there is one seed per problem and m >= 1.
    """
    if m < 1 or len(seeds) != len(log_w):
        raise ValueError(f"{len(seeds)} seeds for {len(log_w)} problems and {m} draws each")
    weights = normalised(log_w)
    chosen = np.full((len(weights), m), -1, np.int64)
    for row in np.flatnonzero(weights.sum(axis=-1) > 0):
        upto = np.cumsum(weights[row])
        points = np.random.default_rng(seeds[row]).random(m) * upto[-1]
        last = np.flatnonzero(weights[row])[-1]  # a point may be rounded up to the whole sum
        chosen[row] = np.minimum(np.searchsorted(upto, points, side="right"), last)
    return chosen


def lower_bound(log_w: Floats) -> Floats:
    """log(1/S sum w) per problem, nats: in expectation at most log pi(y* | x), and the closer the larger S.

    The mean of w is unbiased, its logarithm lies below (Jensen), and rises with S (Burda et al., 2016). It is -inf where
    no draw weighs anything. A mean over the other problems alone bounds nothing: tell their number beside it.

    Raises:
        ValueError: there is no draw.
    """
    draws = log_w.shape[-1]
    if not draws:
        raise ValueError("no draws give no bound")
    highest = _highest(log_w)
    with np.errstate(divide="ignore"):
        total: Floats = np.log(np.exp(log_w - highest).sum(axis=-1))
    bound: Floats = total + highest[..., 0] - np.log(draws)
    return bound


def _highest(log_w: Floats) -> Floats:
    """The largest log-weight of each row, kept as a column; 0 where all are -inf, so that nothing becomes NaN."""
    highest: Floats = np.max(log_w, axis=-1, keepdims=True, initial=-np.inf)
    highest[np.isneginf(highest)] = 0.0
    return highest
