"""The verdict on one draw: what ran into the token limit is not a wrong answer."""

import pytest

from fem_core.filter.verdict import judge
from fem_core.problems.problem import make_problem
from fem_core.problems.verifier import Verifier

PROBLEM = make_problem(question="What is 6 times 7?", answer="42", answer_kind="number")


@pytest.mark.parametrize(
    ("text", "finish_reason", "verdict", "answer"),
    [
        ("So.\nAnswer: 42", "stop", "accepted", "42"),
        ("So.\nAnswer: 41", "stop", "wrong_answer", "41"),
        ("So.\nAnswer: a lot", "stop", "unparsable", None),
        ("I think that", "stop", "unparsable", None),
        ("I think that", "length", "truncated", None),
        ("So.\nAnswer: 4", "length", "truncated", None),
        ("So.\nAnswer: 42\nAnd", "length", "accepted", "42"),
        ("So.\nAnswer: 42\n", "answer", "accepted", "42"),
    ],
)
def test_a_draw_gets_its_verdict(text: str, finish_reason: str, verdict: str, answer: str | None) -> None:
    with Verifier() as verifier:
        judged = judge(text, finish_reason, PROBLEM, verifier)
    assert (judged.verdict, judged.answer) == (verdict, answer)
