"""Two models on the same test problems, and one model over seeds: exact and seeded tests.

Contract: pure; equal input gives equal output, as the bootstrap has a seed. McNemar's test takes every pair as
independent; the bootstrap draws whole clusters, so it holds where the same problem stands in several pairs.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import mean, stdev

import numpy as np

RESAMPLES = 10_000
"""Bootstrap samples."""


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (1947): binomial over the pairs on which the two differ.

    Args:
        only_first, only_second: pairs that only one of the two got right. Without any, p is 1.
    """
    n = only_first + only_second
    if not n:
        return 1.0
    term = tail = 1
    for i in range(min(only_first, only_second)):
        term = term * (n - i) // (i + 1)
        tail += term
    return float(min(1.0, 2 * tail / 2**n))  # of whole numbers, which Python divides exactly however large they are


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests together, adjusted so that the chance of any false one stays bounded (Holm, 1979)."""
    adjusted, worst = [0.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, min(1.0, values[i] * (len(values) - rank)))
        adjusted[i] = worst
    return adjusted


def paired_bootstrap(
    differences: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile interval of the mean difference over resampled pairs.

    Args:
        differences: second minus first for each pair.
        clusters: what each pair belongs to, such as its problem; pairs of one cluster are drawn together.

    Raises:
        ValueError: there are no pairs.
    """
    if not differences:
        raise ValueError("there are no pairs to resample")
    sums: dict[Hashable, list[float]] = {}
    for i, difference in enumerate(differences):
        sums.setdefault(i if clusters is None else clusters[i], []).append(difference)
    # Clusters with the same sum and size are alike, so a resample is one multinomial draw of how many there are of each.
    kinds = Counter((math.fsum(inside), len(inside)) for inside in sums.values())
    values = np.array(sorted(kinds), dtype=float)
    shares = np.array([kinds[kind] for kind in sorted(kinds)], dtype=float) / len(sums)
    drawn = np.random.default_rng(seed).multinomial(len(sums), shares, size=resamples)
    means = (drawn @ values[:, 0]) / (drawn @ values[:, 1])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean over seeds; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1, confidence) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def t_quantile(freedom: int, confidence: float) -> float:
    """t with P(|T| <= t) = confidence, by bisection of the exact distribution.

    Raises:
        ValueError: unless freedom >= 1 and 0 < confidence < 1.
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"there is no quantile with {freedom} degrees of freedom at {confidence}")
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t) for a whole number of degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for i in range(3 if odd else 2, freedom - 1, 2):
        term *= (i - 1) / i * cosine**2
        total += term
    if freedom == 1:
        return 2 * angle / math.pi
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
