"""Predictions to scores: accuracy on the held-out problems with its uncertainty.

Contract: deterministic in the predictions; the interval is Wilson's (1927) at 95 %, which holds near 0 and 1 where a
normal one does not. Where problems belong together (both orders of a pair, the responses to one prompt) it takes them as
the number of independent ones that would tell as much, which is their own number where each stands alone.
"""

from collections.abc import Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import Any

import pyarrow as pa

from fem_core.config_problems import Problems, TableProblems
from fem_core.evaluate.calibration import calibration
from fem_core.evaluate.metrics import judge_metrics
from fem_core.filter.verdict import ACCEPTED, TRUNCATED, UNPARSABLE, VERIFIER_TIMEOUT
from fem_core.problems.answers import CLASS_KINDS, classes, majority_baseline
from fem_core.problems.problem import Problem

VERSION = 4
"""Raised when the same predictions would give other scores. 2 adds ``judge`` where answers are classes; 3 finds the swaps of
judges' pairs whose texts stand in the question, or that are not the only one of their group; 4 knows groups in the interval."""

WILSON, GROUPED = "wilson", "wilson, effective number"
"""Names of the interval: of problems that stand alone, and of problems in groups."""


def version(problems: Problems) -> int:
    """The version of the scores of such problems: those that are no classes and in no groups are scored as version 1 did."""
    grouped = isinstance(problems, TableProblems) and problems.group is not None
    return VERSION if problems.answer_kind in CLASS_KINDS or grouped else 1


def effective_number(right: Sequence[bool], groups: Sequence[Hashable]) -> float:
    """How many independent answers tell as much of a proportion as these (Kish, 1965): n over the design effect.

    The design effect is the variance of the proportion with whole groups as units, over that of independent answers. It is
    taken as 1 at least. Where answers that are all alike leave it open, it is that of groups that agree in themselves.

    Args:
        right: the answers; one at least.
        groups: what each belongs to.
    """
    n, inside = len(right), dict[Hashable, list[bool]]()
    for one, group in zip(right, groups, strict=True):
        inside.setdefault(group, []).append(one)
    if len(inside) == n:
        return float(n)
    p = sum(right) / n
    if p in (0, 1):
        return n * n / sum(len(some) ** 2 for some in inside.values())
    apart = sum((sum(some) - p * len(some)) ** 2 for some in inside.values())
    return n / max(1.0, apart / (n * p * (1 - p)))


def wilson(correct: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (E. B. Wilson, 1927).

    Args:
        correct, n: counts, or those that an effective number makes of them.

    Raises:
        ValueError: unless 0 <= correct <= n and n >= 1.
    """
    if not 0 <= correct <= n or n < 1:
        raise ValueError(f"{correct} of {n} is no proportion")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def score(
    predictions: Iterable[pa.Table], train: Sequence[Problem], test: Sequence[Problem], as_version: int = VERSION
) -> dict[str, Any]:
    """Score one evaluation.

    Args:
        predictions: tables with ``schemas.ATTEMPTS``: one greedy plain attempt per test problem, its first; behind it
            perhaps sampled ones, as many for each problem.
        train: gives the majority class and the classes.
        as_version: what an older version gave.

    Returns:
        ``n``, ``correct``, ``accuracy``, ``low`` and ``high`` (95 %), ``interval`` (its ``method``, the number of
        ``groups`` and the ``effective_number`` of problems), ``unparsable``, ``truncated``, ``verifier_timeout`` (counts),
        ``mean_tokens`` of the completions, ``majority_baseline`` (None where answers are not classes), all of the greedy
        attempts; where answers are classes, also ``judge``: ``metrics.judge_metrics``; where there are sampled attempts,
        ``calibration``: ``calibration.calibration``.

    Raises:
        ValueError: the greedy predictions are not exactly one per test problem, or the sampled ones not as many for each.
    """
    columns = ["problem_id", "attempt", "answer", "verdict", "completion_tokens"]
    drawn = [row for table in predictions for row in table.select(columns).to_pylist()]
    rows = [row for row in drawn if row["attempt"] == 0]
    sampled = [row for row in drawn if row["attempt"] > 0]
    if sorted(row["problem_id"] for row in rows) != sorted(problem.problem_id for problem in test):
        raise ValueError(f"{len(rows)} predictions do not match the {len(test)} test problems one to one")
    n = len(rows)
    verdicts = [row["verdict"] for row in rows]
    correct = verdicts.count(ACCEPTED)
    known = {problem.problem_id: problem.group for problem in test}
    groups = [known[row["problem_id"]] for row in rows]
    effective = effective_number([verdict == ACCEPTED for verdict in verdicts], groups) if as_version >= 4 else n
    low, high = wilson(min(correct * effective / n, effective), effective)
    scores = {
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "low": low,
        "high": high,
        "unparsable": verdicts.count(UNPARSABLE),
        "truncated": verdicts.count(TRUNCATED),
        "verifier_timeout": verdicts.count(VERIFIER_TIMEOUT),
        "mean_tokens": sum(row["completion_tokens"] for row in rows) / n,
        "majority_baseline": majority_baseline(train, test),
    }
    if as_version >= 4:
        count = len(set(groups))
        method = WILSON if count == n else GROUPED
        scores["interval"] = {"method": method, "groups": count, "effective_number": effective}
    if classes(test) and as_version >= 2:
        scores["judge"] = judge_metrics({row["problem_id"]: row["answer"] for row in rows}, train, test, as_version)
    if sampled:
        scores["calibration"] = calibration(sampled, len(test))
    return scores
