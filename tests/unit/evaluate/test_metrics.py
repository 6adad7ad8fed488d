"""Judge metrics: against values worked out by hand and SciPy's, and what each does with a missing answer."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_run import made_config
from scipy import stats

from fem_core.evaluate import metrics
from fem_core.evaluate.score import VERSION, score
from fem_core.problems.pairs import ask
from fem_core.problems.problem import Problem, make_problem
from fem_core.schemas import ATTEMPTS
from fem_core.store.store import Store
from tasks.evaluate import scores_work

RATINGS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40)


def rated(*answers: str) -> list[Problem]:
    return [make_problem(f"How good is text {i}?", answer, "label") for i, answer in enumerate(answers)]


def given_to(problems: list[Problem], *answers: str | None) -> dict[str, str | None]:
    return {problem.problem_id: answer for problem, answer in zip(problems, answers, strict=True)}


def predicted(problem: Problem, answer: str, right: str) -> dict[str, Any]:
    return {
        "problem_id": problem.problem_id, "attempt": 0, "prompt_kind": "plain", "exemplars": 0, "text": "",
        "answer": answer, "verdict": "accepted" if answer == right else "wrong_answer", "finish_reason": "stop",
        "prompt_tokens": 1, "completion_tokens": 1, "logprob": 0.0, "seed": 0,
    }  # fmt: skip


# -- ratings -----------------------------------------------------------------------------------------------------------


def test_ratings_are_measured_on_their_scale_and_what_is_not_on_it_is_counted() -> None:
    test = rated("0", "1", "2", "4", "4", "3")
    found = metrics.rating_metrics(given_to(test, "0", "2", "2", "3", None, "9"), [], test)
    assert found["mae"] == metrics.Metric(0.5, 4, 2)
    # squared distances 0 + 1 + 0 + 1; all with all: 16 pairs of {0,2,2,3} and {0,1,2,4}, together 54
    assert found["quadratic_kappa"].value == pytest.approx(1 - (2 / 4) / (54 / 16))
    assert found["spearman"].value == pytest.approx(stats.spearmanr([0, 2, 2, 3], [0, 1, 2, 4]).statistic)
    assert {metric.left_out for metric in found.values()} == {2}


def test_the_scale_is_that_of_training_and_test_answers_together() -> None:
    test = rated("1", "2")
    assert metrics.rating_metrics(given_to(test, "1", "4"), rated("4"), test)["mae"] == metrics.Metric(1.0, 2)
    assert metrics.rating_metrics(given_to(test, "1", "4"), [], test)["mae"] == metrics.Metric(0.0, 1, 1)


def test_ratings_without_a_metric_say_why() -> None:
    words, same = rated("good", "bad"), rated("3", "3")
    assert metrics.rating_metrics(given_to(words, "good", "bad"), [], words)["mae"] == metrics.Metric(
        None, 0, 2, "the answers are not ratings: classes that are all whole numbers"
    )
    numbers = [make_problem("1 + 1?", "2", "number")]
    assert metrics.rating_metrics(given_to(numbers, "2"), [], numbers)["mae"].value is None, "a sum is no rating"
    constant = metrics.rating_metrics(given_to(same, "3", "3"), [], same)
    assert (constant["mae"].value, constant["quadratic_kappa"].value, constant["spearman"].value) == (0.0, None, None)
    assert constant["spearman"].reason == "predictions or answers are all the same"
    lost = metrics.rating_metrics(given_to(same, None, "many"), [], same)["mae"]
    assert lost == metrics.Metric(None, 0, 2, "no prediction is on the scale from 3 to 3")


@given(RATINGS)
def test_the_kappa_is_that_of_the_weighted_tables(pairs: list[tuple[int, int]]) -> None:
    predicted, gold = zip(*pairs, strict=True)
    seen = sum((p - g) ** 2 for p, g in pairs) / len(pairs)
    chance = sum((p - g) ** 2 for p in predicted for g in gold) / len(pairs) ** 2
    mine = metrics.quadratic_kappa(predicted, gold)
    assert mine is None if not chance else mine == pytest.approx(1 - seen / chance)


@given(RATINGS)
def test_the_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    predicted, gold = zip(*pairs, strict=True)
    mine = metrics.spearman(predicted, gold)
    if len(set(predicted)) == 1 or len(set(gold)) == 1:
        assert mine is None
    else:
        assert mine == pytest.approx(stats.spearmanr(predicted, gold).statistic)


# -- classes -----------------------------------------------------------------------------------------------------------


def test_the_confusion_matrix_has_columns_for_other_answers_and_for_none() -> None:
    test = rated("10", "9", "9", "9")
    found = metrics.confusion(given_to(test, "9", "9", "seven", None), rated("2"), test)
    assert found["labels"] == ["2", "9", "10"], "numbers stand in their order, and training classes count"
    assert found["columns"] == ["2", "9", "10", "(other)", "(none)"]
    assert found["counts"] == [[0, 0, 0, 0, 0], [0, 1, 0, 1, 1], [0, 1, 0, 0, 0]]


def test_a_confusion_matrix_that_does_not_apply_says_why() -> None:
    free = [make_problem("Who?", "Ann", "text")]
    assert metrics.confusion({}, [], free)["reason"] == "the answers are not classes"
    many = rated(*map(str, range(51)))
    assert metrics.confusion({}, [], many)["reason"] == "51 classes are more than 50"


# -- order -------------------------------------------------------------------------------------------------------------


def swapped(n: int, first: str, second: str) -> list[Problem]:
    """The same two items in both orders; the first item is the better one."""
    question = f"Which answers question {n} better?"
    return [
        make_problem(question, "A", "choice", choices=(first, second), group=f"g{n}"),
        make_problem(question, "B", "choice", choices=(second, first), group=f"g{n}"),
    ]


def test_a_pair_is_consistent_where_the_same_item_wins_in_both_orders() -> None:
    problems = [*swapped(0, "hot", "cold"), *swapped(1, "up", "down"), *swapped(2, "in", "out"), *swapped(3, "x", "y")]
    alone = make_problem("Which?", "A", "choice", choices=("p", "q"))
    answers = given_to([*problems, alone], "A", "B", "B", "A", "A", "A", "A", None, "A")
    assert metrics.order_swap(answers, [*problems, alone]) == metrics.Metric(0.5, 4, 1)


def test_swapped_texts_without_choices_are_pairs_and_a_tie_may_stay() -> None:
    def texts(n: int, one: str, two: str) -> list[Problem]:
        asked = f"Which is better? ({n})\n1: {{}}\n2: {{}}"
        return [
            make_problem(asked.format(one, two), "1", "label", group=f"g{n}"),
            make_problem(asked.format(two, one), "2", "label", group=f"g{n}"),
        ]

    problems = [*texts(0, "good text", "bad"), *texts(1, "fine", "poor"), *texts(2, "so", "thus")]
    unrelated = [make_problem(f"Say {word}", "1", "label", group="other") for word in ("one", "two")]
    answers = given_to([*problems, *unrelated], "2", "1", "0", "0", "0", "1", "1", "1")
    assert metrics.order_swap(answers, [*problems, *unrelated]) == metrics.Metric(pytest.approx(2 / 3), 3)


def test_judges_pairs_are_found_by_their_texts_and_beside_other_pairs_of_the_same_prompt() -> None:
    """As problems/pairs.py asks them: the responses stand in the question, the choices only name them."""

    def asked(*texts: str, better: int | None) -> list[Problem]:
        def problem(first: str, second: str, answer: str) -> Problem:
            question = f"Which is better?\n\nResponse A:\n{first}\n\nResponse B:\n{second}"
            choices = ("Response A", "Response B", "Both are equally good")
            return make_problem(question, answer, "choice", choices=choices, group="one prompt")

        return ask((texts[0], texts[1]), better, "one prompt", 0, True, problem)

    first, second, tie = (
        asked("yes it is", "no", better=0),
        asked("yes", "it is no", better=1),
        asked("so", "or so", better=None),
    )
    problems = [first[0], second[0], tie[0], tie[1], second[1], first[1]]
    right = {problem.problem_id: problem.answer for problem in problems}
    assert metrics.order_swap(right, problems) == metrics.Metric(1.0, 3)
    always_a = given_to(problems, *"AAAAAA")
    assert metrics.order_swap(always_a, problems) == metrics.Metric(0.0, 3)
    one_missing = right | {tie[0].problem_id: None}
    assert metrics.order_swap(one_missing, problems) == metrics.Metric(pytest.approx(2 / 3), 3, 1)
    old = metrics.judge_metrics(right, problems, problems, as_version=2)["order_swap"]
    assert old["reason"] == "no group holds two problems that are each other's swap", "as it was scored then"
    assert metrics.judge_metrics(right, problems, problems, as_version=3)["order_swap"]["n"] == 3


def test_order_without_pairs_says_why() -> None:
    test = rated("1", "2")
    assert (
        metrics.order_swap(given_to(test, "1", "1"), test).reason
        == "no group holds two problems that are each other's swap"
    )


# -- in the scores -----------------------------------------------------------------------------------------------------


def test_scores_hold_the_metrics_where_answers_are_classes_and_an_older_version_did_not() -> None:
    test = rated("1", "2")
    table = pa.Table.from_pylist([predicted(problem, "2", right=problem.answer) for problem in test], schema=ATTEMPTS)
    judge = score([table], test, test)["judge"]
    assert judge["mae"] == {"value": 0.5, "n": 2, "left_out": 0, "reason": None}
    assert judge["confusion"]["counts"] == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert "judge" not in score([table], test, test, as_version=1)
    free = [make_problem("Who?", "2", "text")]
    other = pa.Table.from_pylist([predicted(free[0], "2", right="2")], schema=ATTEMPTS)
    assert "judge" not in score([other], free, free)


def test_only_scores_of_classes_have_a_new_version_and_recorded_ones_stay_valid(made_folder: Path) -> None:
    store = Store.open(str(made_folder), check=False)
    manifests = [store.manifest(f"runs/made/{name}") for name in ("problems/train", "iteration=000/predictions")]
    problems, predictions = (manifest for manifest in manifests if manifest is not None)
    recorded = store.manifest("runs/made/iteration=000/scores")
    assert recorded is not None and recorded.step.version == 1, "numbers are scored as ever"
    ratings = made_config(problems={"source": "table", "path": "r.jsonl", "answer_kind": "label", "test": 4})
    fresh, kept = (
        scores_work("made", ratings, 0, problems, problems, predictions, 0, there) for there in (None, recorded)
    )
    assert (fresh.version, kept.version) == (VERSION, 1)
