"""Label shares: how many of each label stay, and that only the content says which."""

import random
from collections import Counter

from fem_core.filter.label_share import objections, rank


def ranked(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(label, rank(f"{label}{n}", 0, "So.")) for label, count in counts.items() for n in range(count)]


def kept(counts: dict[str, int], ratio: float) -> dict[str, int]:
    rows = ranked(counts)
    found = objections(rows, ratio)
    return dict(Counter(label for (label, _), objection in zip(rows, found, strict=True) if objection is None))


def test_of_two_labels_the_rarer_is_the_measure() -> None:
    assert kept({"A": 40, "B": 10}, 1.5) == {"A": 15, "B": 10}
    assert kept({"A": 12, "B": 10}, 1.5) == {"A": 12, "B": 10}
    assert kept({"A": 40, "B": 10}, 1.0) == {"A": 10, "B": 10}


def test_of_more_labels_the_median_is_the_measure_so_that_one_rare_label_costs_little() -> None:
    assert kept({"0": 1, "1": 10, "2": 20, "3": 50, "4": 200}, 2) == {"0": 1, "1": 10, "2": 20, "3": 40, "4": 40}
    assert kept({"0": 1, "1": 10, "2": 20, "3": 50}, 1) == {"0": 1, "1": 10, "2": 10, "3": 10}


def test_the_order_of_rows_changes_nothing() -> None:
    rows = ranked({"A": 40, "B": 10})
    found = dict(zip(rows, objections(rows, 2), strict=True))
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    assert found == dict(zip(shuffled, objections(shuffled, 2), strict=True))


def test_the_reason_says_the_values_that_decided() -> None:
    (reason,) = {one for one in objections(ranked({"A": 40, "B": 10}), 1.5) if one is not None}
    assert reason == "one of 40 rationales with the answer 'A', of which 15 are kept: 1.5 times the 10 with 'B'"


def test_one_label_or_none_is_left_alone() -> None:
    assert objections([], 1) == []
    assert kept({"A": 9}, 1) == {"A": 9}
