"""Calibration over repeated draws: is the model right as often as it agrees with itself?

Contract: pure and deterministic in the draws, in their order. The answer drawn most often is a problem's answer (the
first drawn among equals), its share of the draws the confidence. Nothing is left out: draws without an answer count as
one answer of their own, which is never right.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from fem_core.filter.verdict import ACCEPTED
from fem_core.problems.answers import normal_text

BINS = 10
"""Equal bins of confidence."""


def calibration(draws: Iterable[Mapping[str, Any]], problems: int) -> dict[str, Any]:
    """Expected calibration error (Guo et al., 2017) and what it is made of, as plain JSON values.

    Args:
        draws: rows of ``schemas.ATTEMPTS``, sampled, each problem's in their order.
        problems: how many problems were drawn for.

    Returns:
        ``draws`` per problem; ``error``, the mean over problems of the distance between confidence and accuracy in
        ``BINS`` equal bins of confidence; ``confidence``, its mean; ``majority_accuracy``, the share of problems whose
        most drawn answer is right; ``bins``, those that hold problems: ``low`` < confidence <= ``high``, ``n`` and the
        bin's mean ``confidence`` and ``accuracy``.

    Raises:
        ValueError: the problems do not have the same number of draws, two or more.
    """
    by_problem: dict[str, list[tuple[bool, str | None]]] = {}
    for row in draws:
        by_problem.setdefault(row["problem_id"], []).append(_answer(row))
    sizes = {len(drawn) for drawn in by_problem.values()}
    if len(by_problem) != problems or len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            f"{len(by_problem)} of {problems} problems have {sorted(sizes)} sampled draws; all must have as many, at "
            "least two"
        )
    (size,) = sizes
    bins: dict[int, list[tuple[int, bool]]] = {}
    for drawn in by_problem.values():
        (right, _), count = Counter(drawn).most_common(1)[0]
        place = (count * BINS - 1) // size  # in integers: a share on the edge of a bin belongs to the lower one
        bins.setdefault(place, []).append((count, right))
    found = [
        {
            "low": place / BINS,
            "high": (place + 1) / BINS,
            "n": len(inside),
            "confidence": sum(count for count, _ in inside) / (size * len(inside)),
            "accuracy": sum(right for _, right in inside) / len(inside),
        }
        for place, inside in sorted(bins.items())
    ]
    everything = [one for inside in bins.values() for one in inside]
    return {
        "draws": size,
        "error": sum(one["n"] * abs(one["accuracy"] - one["confidence"]) for one in found) / problems,
        "confidence": sum(count for count, _ in everything) / (size * problems),
        "majority_accuracy": sum(right for _, right in everything) / problems,
        "bins": found,
    }


def _answer(row: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Equal for draws that agree: all right answers do, however written; others where their texts are the same."""
    if row["verdict"] == ACCEPTED:
        return True, None
    return False, None if row["answer"] is None else normal_text(row["answer"])
