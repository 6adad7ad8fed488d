"""Second looks in the filter: importance resampling on a model that can be enumerated, and the order of verdicts."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare

from fem_core.config import FilterConfig, PromptsConfig
from fem_core.digest import derive_seed
from fem_core.filter.rationales import filter_attempts
from fem_core.problems.problem import Problem, make_problem
from fem_core.schemas import ATTEMPTS, LOOKED

# pi(z, y | x) under the plain prompt and q(z, y | x, y*) under the hinted one; y* = "1".
PLAIN = {("a", "1"): 0.10, ("b", "1"): 0.25, ("c", "1"): 0.05, ("a", "0"): 0.30, ("b", "0"): 0.10, ("c", "0"): 0.20}
HINTED = {("a", "1"): 0.50, ("b", "1"): 0.10, ("c", "1"): 0.20, ("a", "0"): 0.05, ("b", "0"): 0.05, ("c", "0"): 0.10}
WEIGHTING = FilterConfig(weighting="importance")
BOTH = FilterConfig(weighting="importance", blind=True)


def problem(n: int) -> Problem:
    return make_problem(f"question {n}", "1", "number")


def row(of: Problem, attempt: int, z: str, y: str = "1", **more: Any) -> dict[str, Any]:
    right = y == "1"
    looked = {"plain_logprob": float(np.log(PLAIN[z, y])), "blind_answer": "1", "blind_verdict": "accepted"}
    return {
        "problem_id": of.problem_id, "attempt": attempt, "prompt_kind": "hinted", "exemplars": 0,
        "text": f"{z} so\nAnswer: {y}", "answer": y, "verdict": "accepted" if right else "wrong_answer",
        "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 2, "logprob": float(np.log(HINTED[z, y])),
        "seed": derive_seed(0, 1, of.problem_id, attempt), **(looked if right else {}), **more,
    }  # fmt: skip


def filtered(rows: list[dict[str, Any]], config: FilterConfig, problems: int = 1) -> Any:
    table = pa.Table.from_pylist(rows, schema=LOOKED)
    return filter_attempts([problem(n) for n in range(problems)], [table], config, PromptsConfig())


def drawn(problems: int, draws: int) -> list[dict[str, Any]]:
    cells, chances = list(HINTED), list(HINTED.values())
    columns = np.random.default_rng(0).choice(len(cells), p=chances, size=(problems, draws))
    return [row(problem(n), m, *cells[columns[n, m]]) for n in range(problems) for m in range(draws)]


def counts(result: Any) -> list[int]:
    said = [one["completion"][0]["content"][0] for one in result.rationales.to_pylist()]
    return [said.count(z) for z in "abc"]


def p_value(result: Any, of: dict[tuple[str, str], float]) -> float:
    right = np.array([of[z, "1"] for z in "abc"])
    found = counts(result)
    return float(chisquare(found, sum(found) * right / right.sum()).pvalue)


def test_weighted_rationales_follow_the_posterior_and_unweighted_ones_the_hinted_prompt() -> None:
    rows = drawn(500, 48)
    result = filtered(rows, WEIGHTING, 500)
    assert sum(counts(result)) == 500, "one rationale a problem"
    assert p_value(result, PLAIN) > 1e-3
    first = filtered(rows, FilterConfig(max_per_problem=1), 500)
    assert p_value(first, HINTED) > 1e-3 and p_value(first, PLAIN) < 1e-9
    q, w = (np.array([table[z, "1"] for z in "abc"]) for table in (HINTED, PLAIN))
    limit = 48 * q.sum() * (w / q @ (q / q.sum())) ** 2 / ((w / q) ** 2 @ (q / q.sum()))
    assert result.stats["effective_sample_size"] == pytest.approx(limit, rel=0.1)
    assert result.stats["weighed_draws"] == pytest.approx(48 * q.sum(), rel=0.02)


def test_the_choice_depends_on_the_problems_own_draws_alone_and_not_on_the_order_of_rows() -> None:
    rows = drawn(40, 6)
    whole = filtered(rows, WEIGHTING, 40)
    assert filtered(rows[::-1], WEIGHTING, 40).rationales.equals(whole.rationales)
    alone = filtered(rows[60:90], WEIGHTING, 40).rationales.to_pylist()
    ids = {one["problem_id"] for one in alone}
    assert alone == [one for one in whole.rationales.to_pylist() if one["problem_id"] in ids]


def test_each_verdict_says_what_decided_and_comes_in_the_filters_order() -> None:
    mine = problem(0)
    rows = [
        row(mine, 0, "a", "0"),
        row(mine, 1, "a", text="Answer: 1"),
        row(mine, 2, "b", blind_answer="7", blind_verdict="wrong_answer", plain_logprob=50.0),
        row(mine, 3, "b", blind_answer=None, blind_verdict="truncated", plain_logprob=50.0),
        row(mine, 4, "b", logprob=-1.0, plain_logprob=-1.0),
        row(mine, 5, "c", logprob=-1.0, plain_logprob=-101.0),
    ]
    config = FilterConfig(min_rationale_words=1, blind=True, weighting="importance", max_per_problem=1)
    reasons = {one["attempt"]: (one["verdict"], one["reason"]) for one in filtered(rows, config).verdicts.to_pylist()}
    assert reasons == {
        0: ("wrong_answer", "answered '0', wanted '1'"),
        1: ("too_short", "0 words before the answer line, at least 1 wanted"),
        2: ("blind", "without its answer line the rationale leads to '7' (wrong_answer)"),
        3: ("blind", "without its answer line the rationale leads to no answer (truncated)"),
        4: ("accepted", "answered '1', chosen with weight 1.00 among 2, effective sample size 1.0"),
        5: ("outweighed", "weighs 0.00 of the problem's 2 draws, and attempt 4 was chosen"),
    }


def test_equal_texts_keep_their_weight_before_near_duplicates_are_looked_for() -> None:
    """A rationale drawn twice is twice as likely; only then are the chosen ones of all problems compared."""
    rows = [row(problem(n), m, "a", text="one two three four\nAnswer: 1") for n in range(2) for m in range(3)]
    result = filtered(rows, FilterConfig(weighting="importance", near_duplicate=0.8), 2)
    assert result.stats["verdicts"] == {"accepted": 1, "near_duplicate": 1, "outweighed": 4}
    assert (result.stats["effective_sample_size"], result.stats["weighed_draws"]) == (pytest.approx(3.0), 3.0)


def test_the_blind_filter_alone_keeps_every_draw_that_finds_its_answer_again() -> None:
    rows = [row(problem(0), m, "a", blind_verdict="unparsable" if m == 1 else "accepted") for m in range(3)]
    result = filtered(rows, FilterConfig(blind=True))
    assert result.rationales.column("attempt").to_pylist() == [0, 2]
    assert "effective_sample_size" not in result.stats
    assert filtered(rows, FilterConfig()).stats["verdicts"] == {"accepted": 3}, "off by default"


@pytest.mark.parametrize(
    ("config", "column", "sentence"),
    [(FilterConfig(blind=True), "blind_verdict", "no blind look"), (WEIGHTING, "plain_logprob", "no plain_logprob")],
)
def test_an_accepted_draw_that_was_not_looked_at_is_an_error_and_a_given_one_is_not(
    config: FilterConfig, column: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        filtered([row(problem(0), 0, "a", **{column: None})], config)
    with pytest.raises(ValueError, match=sentence):
        old = pa.Table.from_pylist([row(problem(0), 0, "a")], schema=ATTEMPTS)
        filter_attempts([problem(0)], [old], config, PromptsConfig())
    given = row(problem(0), 0, "a", prompt_kind="given", blind_answer=None, blind_verdict=None)
    assert filtered([given], FilterConfig(blind=True)).stats["accepted"] == 1


@pytest.mark.parametrize("broken", [{"plain_logprob": float("nan")}, {"logprob": float("-inf")}])
def test_a_log_probability_that_is_none_names_its_draw(broken: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="attempt 3 of problem"):
        filtered([row(problem(0), 3, "a", **broken)], WEIGHTING)
