"""Scores: the interval against SciPy's, and predictions that do not match the test set."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fem_core.config_files import parse_config
from fem_core.evaluate.paired import paired_bootstrap
from fem_core.evaluate.score import GROUPED, VERSION, WILSON, effective_number, score, version, wilson
from fem_core.problems.problem import Problem, make_problem
from fem_core.schemas import ATTEMPTS


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(pair: tuple[int, int]) -> None:
    correct, n = pair
    theirs = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson(correct, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_a_proportion_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(0, 0)


def problems(*answers: str) -> list[Problem]:
    return [make_problem(question=f"q{i} {a}", answer=a, answer_kind="label") for i, a in enumerate(answers)]


def predictions(test: list[Problem], verdicts: list[str]) -> pa.Table:
    rows = [
        {
            "problem_id": p.problem_id, "attempt": 0, "prompt_kind": "plain", "exemplars": 0, "text": "", "answer": None,
            "verdict": v, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 10 * (i + 1), "logprob": 0.0,
            "seed": 0,
        }
        for i, (p, v) in enumerate(zip(test, verdicts, strict=True))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ATTEMPTS)


def test_scores_count_each_kind_of_failure_and_the_majority_class() -> None:
    test = problems("yes", "no", "no", "yes")
    table = predictions(test, ["accepted", "wrong_answer", "unparsable", "truncated"])
    scores = score([table.slice(0, 2), table.slice(2)], problems("no", "no", "yes"), test)
    assert (scores["n"], scores["correct"], scores["accuracy"]) == (4, 1, 0.25)
    assert (scores["unparsable"], scores["truncated"], scores["mean_tokens"]) == (1, 1, 25.0)
    assert scores["majority_baseline"] == 0.5
    assert scores["low"] < 0.25 < scores["high"]


def test_a_missing_or_doubled_prediction_is_refused() -> None:
    test = problems("yes", "no")
    whole = predictions(test, ["accepted", "accepted"])
    for wrong in (whole.slice(1), pa.concat_tables([whole, whole.slice(1)])):
        with pytest.raises(ValueError, match="one to one"):
            score([wrong], test, test)


# -- problems in groups ------------------------------------------------------------------------------------------------


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def pairs(count: int) -> list[Problem]:
    """Both orders of so many pairs."""
    return [make_problem(f"pair {i}, {a} first", a, "label", group=f"pair {i}") for i in range(count) for a in "ab"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_two_orders_that_always_agree_are_one_answer_and_the_interval_knows(share: float) -> None:
    test = pairs(200)
    table = predictions(test, ["accepted" if i // 2 < 200 * share else "wrong_answer" for i in range(400)])
    scores, before = (score([table], test, test, as_version) for as_version in (VERSION, 3))
    assert scores["interval"] == {"method": GROUPED, "groups": 200, "effective_number": pytest.approx(200)}
    here, naive = ((one["low"], one["high"]) for one in (scores, before))
    assert here == pytest.approx(wilson(round(200 * share), 200))
    assert naive == wilson(round(400 * share), 400) and "interval" not in before
    assert width(here) / width(naive) == pytest.approx(2**0.5, rel=0.02)


def test_problems_that_stand_alone_have_wilsons_interval_as_ever() -> None:
    test = problems(*"abcabcabca")
    table = predictions(test, ["accepted"] * 7 + ["wrong_answer"] * 3)
    scores = score([table], test, test)
    assert (scores["low"], scores["high"]) == wilson(7, 10)
    assert scores["interval"] == {"method": WILSON, "groups": 10, "effective_number": 10.0}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_problems_in_groups_count_for_one_at_least_and_for_no_more_than_they_are(
    answers: list[tuple[bool, int]],
) -> None:
    right, groups = [one for one, _ in answers], [group for _, group in answers]
    n = effective_number(right, groups)
    assert n * (1 + 1e-9) >= 1 and n <= len(answers)
    assert effective_number([not one for one in right], groups) == pytest.approx(n)
    low, high = wilson(min(sum(right) * n / len(right), n), n)
    assert low - 1e-9 <= sum(right) / len(right) <= high + 1e-9


def test_a_judge_that_looks_at_the_place_alone_counts_for_no_more_than_its_answers() -> None:
    assert effective_number([True, False] * 50, [i // 2 for i in range(100)]) == 100


@pytest.mark.parametrize("right", [True, False])
def test_groups_that_are_all_right_or_all_wrong_are_taken_to_agree_in_themselves(right: bool) -> None:
    assert effective_number([right] * 100, [i // 2 for i in range(100)]) == 50
    assert effective_number([right] * 6, [0, 0, 0, 0, 1, 2]) == 2


def test_the_effective_number_gives_the_width_that_resampling_whole_groups_does() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 6, size=300)
    groups = [i for i, size in enumerate(sizes) for _ in range(size)]
    chances = random.beta(2, 1, size=300)
    right = [bool(random.random() < chances[group]) for group in groups]
    n = effective_number(right, groups)
    assert n < 0.8 * len(right)
    resampled = paired_bootstrap([float(one) for one in right], groups)
    assert width(wilson(sum(right) * n / len(right), n)) == pytest.approx(width(resampled), rel=0.06)
    alone = paired_bootstrap([float(one) for one in right])
    assert width(alone) < 0.9 * width(resampled)


def test_numbers_are_scored_as_ever_unless_they_are_in_groups() -> None:
    table = {"source": "table", "path": "sums.jsonl", "answer_kind": "number", "test": 4}
    versions = [
        version(parse_config({"problems": table | more}).problems)
        for more in ({}, {"group": "sheet"}, {"answer_kind": "label"})
    ]
    assert versions == [1, VERSION, VERSION]
