"""Scores: the interval against SciPy's, and predictions that do not match the test set."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fem_core.evaluate.score import score, wilson
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
