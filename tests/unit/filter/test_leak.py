"""The leak filter: what it takes for a leak, what it must leave alone, and how often it is right on real draws."""

import time
from pathlib import Path

import pytest

from benchmarks import leak_filter
from fem_core.config import PromptsConfig
from fem_core.filter.leak import Leaks
from fem_core.problems.problem import make_problem

LEAKS = Leaks(PromptsConfig())
PROBLEM = make_problem("Which animal barks?", "B", "choice", choices=("cat", "dog", "cow"))


@pytest.mark.parametrize(
    "text",
    [
        "Since the correct answer is B, a dog must be meant.",
        "As given, the provided answer is a dog.",
        "We are told that the correct answer is B.",
        "The hint says it is a dog.",
        "Using the hint, we look at the second choice.",
        "We already know the answer is B.",
        "The answer you gave is right.",
        "This fits the answer that was given.",
        "To reach the correct answer of B, we rule out the others.",
        "To reach this answer, we rule out the others.",
        "The prompt says so.",
        "You're right, it is a dog.",
        "I must not say it, and never mention it.",
        "Explain step by step how to reach it: a dog barks.",
    ],
)
def test_a_rationale_that_speaks_of_a_given_answer_is_a_leak(text: str) -> None:
    assert LEAKS.find(text, PROBLEM) is not None


@pytest.mark.parametrize(
    "text",
    [
        "A dog barks. The correct answer is B.",
        "The answer is B, since neither cats nor cows bark.",
        "We are told that Ann has 5 dogs.",
        "Given the three choices, only a dog barks.",
        "Of the given answer choices, only one animal barks.",
        "The answer is given by the difference of both.",
        "As stated in the question, the animal barks.",
        "There is a hint of doubt.",
        "So the right answer is the second choice. To reach the answer we look at each animal.",
        "Now we have the answer: it is B.",
        "Since the answer is an animal, we go through the animals.",
        "",
    ],
)
def test_naming_or_finding_the_answer_is_no_leak(text: str) -> None:
    assert LEAKS.find(text, PROBLEM) is None


def test_the_words_that_show_it_are_named() -> None:
    found = LEAKS.find("We are TOLD that the\ncorrect answer is B.", PROBLEM)
    assert found == "speaks of a given answer: 'told that the correct answer'"
    found = LEAKS.find("Explain step by step how to reach it.", PROBLEM)
    assert found == "repeats the hint: 'explain step by step how'"


def test_what_the_question_or_the_plain_prompt_says_is_not_held_against_a_rationale() -> None:
    riddle = make_problem("The hint says it barks. Explain step by step how to reach it.", "dog", "text")
    assert LEAKS.find("The hint says it barks, so it is a dog.", riddle) is None
    assert LEAKS.find("Explain step by step how to reach it.", riddle) is None
    assert LEAKS.find("Put the final answer on a last line of the form", PROBLEM) is None


def test_only_the_words_of_this_runs_hint_count_and_y_itself_does_not() -> None:
    own = Leaks(PromptsConfig(hinted="{question} Somebody whispered to us {answer} when nobody was listening at all."))
    assert own.find("Somebody whispered to us B", PROBLEM) is None, "four words, then y*"
    assert own.find("It was said when nobody was listening.", PROBLEM) is None
    assert own.find("It was said when nobody was listening at all.", PROBLEM) is not None
    assert LEAKS.find("It was said when nobody was listening at all.", PROBLEM) is None


def test_hostile_text_takes_linear_time() -> None:
    for piece in ("to reach the correct right answer ", "we already know the ", "a", "the hint", "told us that the "):
        start = time.perf_counter()
        LEAKS.find(piece * 50_000, PROBLEM)
        assert time.perf_counter() - start < 5, piece


def test_on_labelled_draws_it_is_as_good_as_the_documentation_says(capsys: pytest.CaptureFixture[str]) -> None:
    leak_filter.main([])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1")]
    page = (Path(__file__).parents[3] / "docs" / "method.md").read_text(encoding="utf-8")
    assert len(rows) == 1 and rows[0] in page, rows


def test_texts_written_without_a_hint_raise_the_documented_false_alarms(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leak_filter.main(["--data", str(shared_data)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| GSM8K", "| Auto-J"))]
    page = (Path(__file__).parents[3] / "docs" / "method.md").read_text(encoding="utf-8")
    assert len(rows) == 3 and all(row in page for row in rows), rows
