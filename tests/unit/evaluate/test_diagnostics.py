"""Diagnostics of iterations drawn up by hand: every figure is one that can be counted on fingers."""

import math

import pyarrow as pa
import pytest

from fem_core.evaluate.diagnostics import Past, as_table, entropy, of_iteration, of_predictions
from fem_core.problems.problem import Problem, make_problem
from fem_core.schemas import DIAGNOSTICS

LABELS = [make_problem(f"q{i}", answer, "label") for i, answer in enumerate(["yes", "Yes", "yes", "no"])]


def drawn(
    problems: list[Problem], *rows: tuple[int, int, str, str, int, float]
) -> tuple[list[pa.Table], list[pa.Table]]:
    """Attempts, and rationales of those with a text: (problem, attempt, kind, text, tokens, logprob)."""
    attempts = [
        {
            "problem_id": problems[i].problem_id,
            "attempt": n,
            "prompt_kind": kind,
            "completion_tokens": tokens,
            "logprob": logprob,
        }
        for i, n, kind, _, tokens, logprob in rows
    ]
    kept = [
        {**attempt, "completion": [{"role": "assistant", "content": text}]}
        for attempt, (_, _, _, text, _, _) in zip(attempts, rows, strict=True)
        if text
    ]
    return [pa.Table.from_pylist(attempts)], [pa.Table.from_pylist(kept)] if kept else []


def values(rows: list, measure: str) -> dict[str, tuple[float, int]]:  # type: ignore[type-arg]
    return {row["part"]: (row["value"], row["over"]) for row in rows if row["measure"] == measure}


FIRST = drawn(
    LABELS,
    (0, 0, "plain", "", 50, -9.0),
    (0, 1, "hinted", "because", 10, -5.0),
    (1, 0, "plain", "since", 30, -3.0),
    (3, 0, "plain", "", 7, -1.0),
    (1, 1, "plain", "since then", 10, -5.0),
)


def test_acceptance_by_label_counts_problems_and_reads_labels_alike() -> None:
    rows, past = of_iteration(1, LABELS, *FIRST, Past())
    assert values(rows, "acceptance_by_label") == {"no": (0.0, 1), "yes": (2 / 3, 3)}
    assert past.accepted == {LABELS[0].problem_id, LABELS[1].problem_id}
    assert values(rows, "acceptance_by_difficulty") == values(rows, "again_problems") == {}, "nothing came before"


def test_log_probabilities_are_per_token_of_what_was_accepted_and_entropies_of_what_was_drawn() -> None:
    rows, _ = of_iteration(1, LABELS, *FIRST, Past())
    assert values(rows, "logprob_per_token") == {"hinted": (-0.5, 10), "plain": (-0.2, 40)}
    assert values(rows, "entropy_per_token") == {"hinted": (0.5, 10), "plain": (pytest.approx(18 / 97), 97)}


def test_lengths_are_quantiles_of_the_rationales() -> None:
    attempts, kept = drawn(LABELS, *((0, n, "plain", f"t{n}", 10 * n, -1.0) for n in range(11)))
    rows, _ = of_iteration(1, LABELS, attempts, kept, Past())
    assert values(rows, "rationale_tokens") == {f"p{q}": (float(q), 11) for q in (10, 25, 50, 75, 90)}


def test_difficulty_is_the_number_of_failed_iterations_before() -> None:
    _, past = of_iteration(1, LABELS, *FIRST, Past())
    second = drawn(LABELS, (0, 0, "plain", "because", 10, -5.0), (2, 0, "plain", "new", 9, -1.0))
    rows, past = of_iteration(2, LABELS, *second, past)
    assert values(rows, "acceptance_by_difficulty") == {"failed 0 of 1": (0.5, 2), "failed 1 of 1": (0.5, 2)}
    rows, _ = of_iteration(3, LABELS, *drawn(LABELS, (3, 0, "plain", "at last", 9, -1.0)), past)
    assert values(rows, "acceptance_by_difficulty") == {
        "failed 0 of 2": (0.0, 1),
        "failed 1 of 2": (0.0, 2),
        "failed 2 of 2": (1.0, 1),
    }


def test_overlap_tells_the_same_problem_from_the_same_text() -> None:
    _, past = of_iteration(1, LABELS, *FIRST, Past())
    second = drawn(
        LABELS,
        (0, 0, "plain", "because", 10, -5.0),
        (1, 0, "plain", "another reason", 10, -5.0),
        (2, 0, "plain", "because", 10, -5.0),
    )
    rows, _ = of_iteration(2, LABELS, *second, past)
    assert values(rows, "again_problems") == {"": (2 / 3, 3)}
    assert values(rows, "again_texts") == {"": (1 / 3, 3)}, "the same words about another problem are another text"


def test_given_completions_have_neither_length_nor_log_probability() -> None:
    rows, _ = of_iteration(1, LABELS, *drawn(LABELS, (0, 0, "given", "Answer: yes", 0, 0.0)), Past())
    assert {row["measure"] for row in rows} == {"acceptance_by_label"}


def test_an_iteration_without_a_rationale_has_rows_still() -> None:
    rows, past = of_iteration(2, LABELS, *drawn(LABELS, (0, 0, "plain", "", 5, -1.0)), Past(accepted=frozenset({"x"})))
    assert values(rows, "acceptance_by_label") == {"no": (0.0, 1), "yes": (0.0, 3)}
    assert values(rows, "again_problems") == {} and past.failed[LABELS[0].problem_id] == 1


def answered(problems: list[Problem], *answers: str | None) -> list[pa.Table]:
    rows = [{"problem_id": p.problem_id, "attempt": 0, "answer": a} for p, a in zip(problems, answers, strict=True)]
    columns = [("problem_id", pa.string()), ("attempt", pa.int32()), ("answer", pa.string())]
    return [pa.Table.from_pylist(rows, schema=pa.schema(columns))]


def test_answers_are_spread_beside_the_test_labels() -> None:
    rows = of_predictions(2, LABELS, answered(LABELS, "yes", "yes", None, "maybe"))
    assert values(rows, "answer_share") == {"maybe": (1 / 3, 3), "no": (0.0, 3), "yes": (2 / 3, 3)}
    assert values(rows, "label_share") == {"maybe": (0.0, 4), "no": (0.25, 4), "yes": (0.75, 4)}
    assert values(rows, "answer_entropy")[""] == (pytest.approx(math.log(3) - 2 / 3 * math.log(2)), 3)
    assert values(rows, "label_entropy")[""] == (pytest.approx(math.log(4) - 0.75 * math.log(3)), 4)


def test_free_answers_have_an_entropy_and_no_labels() -> None:
    sums = [make_problem("1+1", "2", "number"), make_problem("2+2", "4", "number")]
    rows = of_predictions(0, sums, answered(sums, "2", "2"))
    assert [(row["measure"], row["value"]) for row in rows] == [("answer_entropy", 0.0)]
    assert of_predictions(0, sums, answered(sums, None, None)) == []
    rows, _ = of_iteration(1, sums, *drawn(sums, (0, 0, "plain", "x", 5, -1.0)), Past())
    assert values(rows, "acceptance_by_label") == {}


def test_letters_of_choices_stay_letters() -> None:
    choice = [make_problem("Which?", "A", "choice", choices=("x", "y"))]
    assert values(of_predictions(0, choice, answered(choice, "A")), "answer_share") == {"A": (1.0, 1)}


def test_entropy_is_in_nats_and_never_negative() -> None:
    assert entropy([5, 5]) == pytest.approx(math.log(2)) and entropy([7]) == 0.0 and entropy([]) == 0.0
    assert math.copysign(1.0, entropy([3])) == 1.0


def test_the_table_has_the_schema() -> None:
    rows, _ = of_iteration(1, LABELS, *FIRST, Past())
    assert as_table(rows).schema == DIAGNOSTICS and as_table([]).num_rows == 0
