"""What a judge's answers say beyond right and wrong: distance on a scale, agreement, and what order does.

Contract: pure and deterministic in predictions and problems. A metric that does not apply has the value None and says
why. What has no answer is counted and never dropped in silence: each function says what it does with it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fem_core.problems.answers import classes, normal_text
from fem_core.problems.problem import Problem

MOST_CLASSES = 50
"""A confusion matrix has at most this many rows."""

OTHER, NONE = "(other)", "(none)"
"""Columns of a confusion matrix: an answer that is no class, and no answer."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True)
class Metric:
    """One figure and what it is over."""

    value: float | None
    """None where the metric does not apply."""
    n: int
    """Predictions, problems or pairs that the value is over."""
    left_out: int = 0
    """Those that could not take part, for want of an answer that can be used."""
    reason: str | None = None
    """Why there is no value."""


def judge_metrics(
    answers: Mapping[str, str | None], train: Sequence[Problem], test: Sequence[Problem], as_version: int
) -> dict[str, Any]:
    """The metrics that greedy predictions alone give, as plain JSON values.

    Args:
        answers: ŷ by problem id; None where nothing could be parsed.
        as_version: of the scores; version 2 knew fewer pairs.

    Returns:
        ``mae``, ``quadratic_kappa``, ``spearman`` and ``order_swap`` (fields of ``Metric``), and ``confusion``.
    """
    return {
        **{name: vars(metric) for name, metric in rating_metrics(answers, train, test).items()},
        "order_swap": vars(
            order_swap(answers, test, swap_pairs(test) if as_version > 2 else _pairs_of_version_2(test))
        ),
        "confusion": confusion(answers, train, test),
    }


def rating_metrics(
    answers: Mapping[str, str | None], train: Sequence[Problem], test: Sequence[Problem]
) -> dict[str, Metric]:
    """Mean absolute error, quadratic-weighted kappa and Spearman's rank correlation of ratings.

    They apply where answers are classes and every y* is a whole number; the scale reaches from the lowest to the highest.
    A prediction without an answer, or with one that is no whole number on the scale, is left out of all three and
    counted in ``left_out``.
    """
    everything = [_whole(problem.answer) for problem in (*train, *test)]
    whole = [value for value in everything if value is not None]
    if not classes(test) or len(whole) < len(everything):
        reason = "the answers are not ratings: classes that are all whole numbers"
        return {name: Metric(None, 0, len(test), reason) for name in _RATING}
    low, high = min(whole), max(whole)
    predicted, gold = [], []
    for problem in test:
        given, wanted = _whole(answers[problem.problem_id] or ""), _whole(problem.answer)
        if given is not None and wanted is not None and low <= given <= high:
            predicted.append(given)
            gold.append(wanted)
    left_out = len(test) - len(gold)
    if not gold:
        reason = f"no prediction is on the scale from {low} to {high}"
        return {name: Metric(None, 0, left_out, reason) for name in _RATING}
    found = {}
    for name, measure in _RATING.items():
        value = measure(predicted, gold)
        why = None if value is not None else "predictions or answers are all the same"
        found[name] = Metric(value, len(gold), left_out, why)
    return found


def mean_absolute_error(predicted: Sequence[int], gold: Sequence[int]) -> float:
    """Mean distance, in steps of the scale."""
    return sum(abs(p - g) for p, g in zip(predicted, gold, strict=True)) / len(gold)


def quadratic_kappa(predicted: Sequence[int], gold: Sequence[int]) -> float | None:
    """Cohen's kappa with quadratic weights (Cohen, 1968).

    One minus the mean squared distance of the pairs over that of all predictions with all answers. None where the latter
    is 0.
    """
    n = len(gold)
    seen = sum((p - g) ** 2 for p, g in zip(predicted, gold, strict=True)) / n
    means = sum(predicted) / n, sum(gold) / n
    spread = sum((p - means[0]) ** 2 for p in predicted) / n + sum((g - means[1]) ** 2 for g in gold) / n
    by_chance = spread + (means[0] - means[1]) ** 2
    return 1 - seen / by_chance if by_chance else None


def spearman(predicted: Sequence[float], gold: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank. None where either side is constant."""
    first, second = _ranks(predicted), _ranks(gold)
    middle = (len(gold) + 1) / 2
    both = sum((a - middle) * (b - middle) for a, b in zip(first, second, strict=True))
    each = sum((a - middle) ** 2 for a in first) * sum((b - middle) ** 2 for b in second)
    return float(both / each**0.5) if each else None


_RATING = {"mae": mean_absolute_error, "quadratic_kappa": quadratic_kappa, "spearman": spearman}


def confusion(answers: Mapping[str, str | None], train: Sequence[Problem], test: Sequence[Problem]) -> dict[str, Any]:
    """How often each class was answered with each.

    Returns:
        ``labels`` (rows, y*), ``columns`` (the labels, then ``(other)`` for an answer that is no class and ``(none)`` for
        no answer), ``counts`` (rows of counts; they sum to the test problems) and ``reason``, which is None, or says why
        the others are.
    """
    labels = {_class(problem.answer) for problem in (*train, *test)}
    if not classes(test) or len(labels) > MOST_CLASSES:
        reason = (
            f"{len(labels)} classes are more than {MOST_CLASSES}" if classes(test) else "the answers are not classes"
        )
        return {"labels": None, "columns": None, "counts": None, "reason": reason}
    ordered = sorted(labels, key=lambda label: (_whole(label) is None, _whole(label) or 0, label))
    columns = [*ordered, OTHER, NONE]
    counts = [[0] * len(columns) for _ in ordered]
    for problem in test:
        given = answers[problem.problem_id]
        column = NONE if given is None else _class(given) if _class(given) in labels else OTHER
        counts[ordered.index(_class(problem.answer))][columns.index(column)] += 1
    return {"labels": ordered, "columns": columns, "counts": counts, "reason": None}


Pairs = Sequence[tuple[Problem, Problem]]


def order_swap(answers: Mapping[str, str | None], problems: Sequence[Problem], pairs: Pairs | None = None) -> Metric:
    """Share of swapped pairs in which the same item is preferred in both orders.

    An answer that is neither of the two that swap (a tie) is consistent when it stays. A pair in which an answer is missing
    counts as inconsistent, and in ``left_out``.

    Args:
        pairs: ``swap_pairs`` of the problems by default.
    """
    if not classes(problems):
        return Metric(None, 0, reason="the answers are not classes")
    pairs = swap_pairs(problems) if pairs is None else pairs
    if not pairs:
        return Metric(None, 0, reason="no group holds two problems that are each other's swap")
    swaps = {tuple(sorted((_class(a.answer), _class(b.answer)))) for a, b in pairs}
    sides = {swap for swap in swaps if swap[0] != swap[1]}
    if len(sides) != 1:
        return Metric(
            None, 0, len(pairs), f"the answers that swap are not two, as {len(sides)} pairs of answers differ"
        )
    first, second = next(iter(sides))
    flip = {first: second, second: first}
    kept = missing = 0
    for a, b in pairs:
        here, there = answers[a.problem_id], answers[b.problem_id]
        if here is None or there is None:
            missing += 1
            continue
        kept += flip.get(_class(here), _class(here)) == _class(there)
    return Metric(kept / len(pairs), len(pairs), missing)


def swap_pairs(problems: Sequence[Problem]) -> Pairs:
    """Problems of one group that are each other's swap; each problem is in one pair at most.

    They have the same question with the same two choices the other way round; or the same choices, or none, and a question
    of the same words in another order: then the texts to choose between stand in it.
    """
    groups: dict[str, list[Problem]] = {}
    pairs = []
    for problem in problems:
        alone = groups.setdefault(problem.group, [])
        other = next((one for one in alone if _swapped(one, problem)), None)
        if other is None:
            alone.append(problem)
        else:
            alone.remove(other)
            pairs.append((other, problem))
    return pairs


def _swapped(a: Problem, b: Problem) -> bool:
    if a.question == b.question:
        return a.choices is not None and len(a.choices) == 2 and a.choices[::-1] == b.choices
    return a.choices == b.choices and sorted(a.question.split()) == sorted(b.question.split())


def _pairs_of_version_2(problems: Sequence[Problem]) -> Pairs:
    """Those in a group of two, where texts to choose between that stand in the question went with no choices."""
    groups = Counter(problem.group for problem in problems)
    alone = [problem for problem in problems if groups[problem.group] == 2]
    return [pair for pair in swap_pairs(alone) if pair[0].question == pair[1].question or pair[0].choices is None]


def _class(answer: str) -> str:
    """An answer as the class it names; letters of choices come out in lower case."""
    return normal_text(answer)


def _whole(answer: str) -> int | None:
    text = _class(answer)
    return int(text) if _WHOLE.fullmatch(text) else None


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for i in order[start : end + 1]:
            ranks[i] = (start + end) / 2 + 1
        start = end + 1
    return ranks
