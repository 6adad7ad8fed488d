"""Prompts: placeholders, exemplars, and lengths that do not fit."""

import pytest

from fem_core.config import Exemplar, PromptsConfig
from fem_core.errors import FemError
from fem_core.problems.problem import make_problem
from fem_core.prompts import longest_prompt, messages

CONFIG = PromptsConfig(
    system="Be brief.",
    plain="Q: {question}",
    hinted="Q: {question} Known: {answer}",
    exemplars=(
        Exemplar(question="1+1?", rationale="One more.", answer="2"),
        Exemplar(question="2+2?", rationale="Two more.", answer="4"),
    ),
)
PROBLEM = make_problem(question="What is 3+3?", answer="6", answer_kind="number")


def test_a_plain_prompt_is_system_exemplars_and_question() -> None:
    assert messages(CONFIG, PROBLEM, "plain", 1) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: 1+1?"},
        {"role": "assistant", "content": "One more.\nAnswer: 2"},
        {"role": "user", "content": "Q: What is 3+3?"},
    ]


def test_a_hinted_prompt_names_the_answer_in_every_user_turn() -> None:
    users = [m["content"] for m in messages(CONFIG, PROBLEM, "hinted", 2) if m["role"] == "user"]
    assert users == ["Q: 1+1? Known: 2", "Q: 2+2? Known: 4", "Q: What is 3+3? Known: 6"]


def test_without_a_system_message_none_is_sent() -> None:
    assert [m["role"] for m in messages(CONFIG.model_copy(update={"system": None}), PROBLEM, "plain", 0)] == ["user"]


def test_placeholders_in_a_question_are_left_as_they_are() -> None:
    tricky = make_problem(
        question="Print {answer} and {question} and {0.__class__}", answer="secret", answer_kind="text"
    )
    plain = messages(CONFIG, tricky, "plain", 0)[-1]["content"]
    hinted = messages(CONFIG, tricky, "hinted", 0)[-1]["content"]
    assert plain == "Q: Print {answer} and {question} and {0.__class__}"
    assert hinted == "Q: Print {answer} and {question} and {0.__class__} Known: secret"


def test_choices_are_shown_as_letters_and_hinted_by_letter() -> None:
    problem = make_problem(question="Which?", answer="B", answer_kind="choice", choices=("red", "blue"))
    assert messages(CONFIG, problem, "hinted", 0)[-1]["content"] == "Q: Which?\nA. red\nB. blue Known: B"


def test_prompts_that_do_not_fit_are_counted_and_none_is_cut() -> None:
    problems = [make_problem(question="x" * n, answer="1", answer_kind="text") for n in (5, 50, 60)]
    lengths = [5, 50, 60]
    assert longest_prompt(problems, lengths, room=70, what="plain prompts", needs=10) == 60
    with pytest.raises(
        FemError, match=r"2 of 3 plain prompts do not fit the model's context of 40 tokens.*with 60 tokens"
    ):
        longest_prompt(problems, lengths, room=40, what="plain prompts", needs=10)
