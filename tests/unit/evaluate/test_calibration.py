"""Calibration over repeated draws: against values worked out by hand, in the scores, and where people see it."""

from typing import Any

import pyarrow as pa
import pytest
from made_run import made_config, make_run

from fem_core.config import RunConfig
from fem_core.evaluate.calibration import calibration
from fem_core.evaluate.diagnostics import of_predictions
from fem_core.evaluate.score import score
from fem_core.problems.problem import make_problem
from fem_core.report.model_card import model_card
from fem_core.report.summary import further, markdown, summarise
from fem_core.schemas import ATTEMPTS
from fem_core.store import layout
from fem_core.store.store import Store
from tasks.evaluate import predictions_job, predictions_work
from tasks.step import Run


def draws(problem: str, *answers: str | None, right: str, first: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "problem_id": problem, "attempt": first + i, "prompt_kind": "plain", "exemplars": 0, "text": "",
            "answer": answer, "verdict": "accepted" if answer == right else "wrong_answer", "finish_reason": "stop",
            "prompt_tokens": 1, "completion_tokens": 1, "logprob": 0.0, "seed": i,
        }
        for i, answer in enumerate(answers)
    ]  # fmt: skip


def test_the_error_is_the_distance_of_agreement_from_being_right() -> None:
    rows = [
        *draws("a", "1", "1", "1", "0", right="1"),  # confidence 0.75, right
        *draws("b", "0", "0", "0", "2", right="2"),  # confidence 0.75, wrong: the two share a bin, 0.75 against 0.5
        *draws("c", "3", "3", "0", "0", right="3"),  # confidence 0.5, right: the first of two equals
        *draws("d", None, None, None, None, right="4"),  # sure that there is no answer: 1.0 against 0
    ]
    found = calibration(rows, 4)
    assert found["error"] == pytest.approx((2 * 0.25 + 0.5 + 1.0) / 4)
    assert (found["draws"], found["confidence"], found["majority_accuracy"]) == (4, 0.75, 0.5)
    assert found["bins"] == [
        {"low": 0.4, "high": 0.5, "n": 1, "confidence": 0.5, "accuracy": 1.0},
        {"low": 0.7, "high": 0.8, "n": 2, "confidence": 0.75, "accuracy": 0.5},
        {"low": 0.9, "high": 1.0, "n": 1, "confidence": 1.0, "accuracy": 0.0},
    ]


def test_right_answers_agree_however_they_are_written() -> None:
    rows = draws("a", "1/2", "0.5", "7", right="")
    rows = [row | {"verdict": "accepted" if row["answer"] != "7" else "wrong_answer"} for row in rows]
    assert calibration(rows, 1)["confidence"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        (draws("a", "1", right="1"), 1),
        ([*draws("a", "1", "1", right="1"), *draws("b", "1", "1", "1", right="1")], 2),
        (draws("a", "1", "1", right="1"), 2),
    ],
    ids=["one draw", "unequal", "a problem without any"],
)
def test_draws_that_say_nothing_are_refused(rows: list[dict[str, Any]], problems: int) -> None:
    with pytest.raises(ValueError, match="must have as many"):
        calibration(rows, problems)


def test_sampled_draws_are_in_no_other_figure_of_the_scores() -> None:
    test = [make_problem("q", "yes", "label"), make_problem("r", "no", "label")]
    greedy = [draws(one.problem_id, "yes", right=one.answer, first=0)[0] for one in test]
    more = [row for one in test for row in draws(one.problem_id, "no", "no", right=one.answer)]
    alone, both = (pa.Table.from_pylist(rows, ATTEMPTS) for rows in (greedy, greedy + more))
    scores = score([both], test, test)
    assert scores.pop("calibration")["majority_accuracy"] == 0.5
    assert scores == score([alone], test, test)
    assert of_predictions(0, test, [both]) == of_predictions(0, test, [alone])


def drawing(**changes: Any) -> RunConfig:
    return made_config(evaluate={"draws": 3, **changes})


def test_a_run_without_draws_keeps_its_identity_and_one_with_them_is_another() -> None:
    plain, drawn = made_config(), drawing()
    assert "draws" not in plain.identity()["evaluate"] and plain.digest() != drawn.digest()
    assert drawn.digest() != drawing(draw_temperature=0.7).digest()


def test_a_run_with_draws_shows_its_calibration_everywhere(tmp_path: Any) -> None:
    store = Store.open(str(tmp_path / "store"))
    made = make_run(store, drawing())
    test = store.manifest(layout.problems("made", "test"))
    model = store.manifest(layout.model("made"))
    assert test is not None and model is not None
    run = Run("made", drawing(), store, tmp_path)
    todo = predictions_work("made", run.config, 0, test, model, 0)
    assert (
        "sampled" in todo.config and "sampled" not in predictions_work("made", made_config(), 0, test, model, 0).config
    )
    job = predictions_job(run, todo, 0, test, 0)
    assert (job.stages, job.keep, job.greedy_first, job.temperature) == ((("plain", 4),), "all", True, 1.0)
    assert [one.stats["calibration"]["draws"] for one in made if one.kind == "scores"] == [3, 3, 3]
    summary = summarise(store, "made")
    ((headers, base, *_),) = further(summary)
    assert dict(zip(headers, base, strict=True)) == {
        "iteration": "0 base", "draws per problem": "3", "majority accuracy": "0.500", "confidence": "0.833",
        "calibration error": "0.667",
    }  # fmt: skip
    for text in (markdown(summary), model_card(store, "made", 2)):
        assert "| iteration | draws per problem | majority accuracy | confidence | calibration error |" in text
        assert "| 2 | 3 | 0.500 | 0.833 | 0.667 |" in text
