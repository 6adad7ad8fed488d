"""Paired tests and intervals: against SciPy's and values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fem_core.evaluate.paired import holm, mcnemar, paired_bootstrap, t_interval, t_quantile


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_test_is_the_exact_binomial(b: int, c: int) -> None:
    theirs = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(b, c) == pytest.approx(theirs, rel=1e-9)


def test_mcnemars_test_stands_thousands_of_pairs() -> None:
    assert mcnemar(5000, 5200) == pytest.approx(stats.binomtest(5000, 10200).pvalue, rel=1e-9)
    assert mcnemar(0, 5000) == 0.0


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 29, 200])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_quantile_is_students(freedom: int, confidence: float) -> None:
    assert t_quantile(freedom, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_a_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 degrees of freedom"):
        t_quantile(0, 0.95)


def test_the_interval_over_seeds_needs_two() -> None:
    low, high = t_interval([0.5, 0.6, 0.7]) or (0.0, 0.0)
    half = 4.302652729911275 * 0.1 / math.sqrt(3)
    assert (low, high) == (pytest.approx(0.6 - half), pytest.approx(0.6 + half))
    assert t_interval([0.5]) is None


def test_the_bootstrap_is_seeded_and_agrees_with_resampling_row_by_row() -> None:
    differences = [1.0] * 60 + [-1.0] * 25 + [0.0] * 315
    found = paired_bootstrap(differences)
    assert found == paired_bootstrap(differences)
    assert paired_bootstrap(differences, resamples=20) != paired_bootstrap(differences, resamples=20, seed=1)
    rows = np.array(differences)[np.random.default_rng(5).integers(0, 400, (10_000, 400))].mean(axis=1)
    assert found == pytest.approx(tuple(np.quantile(rows, [0.025, 0.975])), abs=0.004)


def test_pairs_of_one_problem_are_resampled_together() -> None:
    differences = [1.0] * 20 + [-1.0] * 10 + [0.0] * 70
    alone = paired_bootstrap(differences)
    tripled = paired_bootstrap(differences * 3, [*range(100)] * 3)
    assert tripled == alone, "the same problems three times tell nothing new"
    apart = paired_bootstrap(differences * 3)
    assert apart[1] - apart[0] < 0.7 * (alone[1] - alone[0])


def test_a_bootstrap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired_bootstrap([])


def test_several_tests_are_adjusted_together() -> None:
    assert holm([0.04, 0.01, 0.03, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == []
