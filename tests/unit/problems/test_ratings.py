"""Ratings as models write them, and what is no rating of the scale."""

import time

import pytest

from fem_core.problems.answers import classes, is_correct, majority_baseline, parse_answer
from fem_core.problems.problem import make_problem
from fem_core.problems.ratings import parse_rating, scale_of, scale_record

RATED = make_problem("How helpful?", "3", "rating", verifier=scale_record(0, 4))


@pytest.mark.parametrize(
    "text",
    ["3", "3.", "3.0", "3/4", "3 / 4", "3 out of 4", "3 of 4", "**3**", "(3)", "`3`", "3 (mostly helpful)", "3 - good",
     "3: good", "3, since it is right", "Rating: 3", "rating of 3", "score is 3", "3 stars", " 3 \r"],
)  # fmt: skip
def test_a_rating_is_read_however_it_is_written(text: str) -> None:
    assert parse_rating(text, 0, 4) == 3


@pytest.mark.parametrize(
    "text",
    ["", "5", "-1", "300", "3.5", "3,5", "3-4", "3 or 4", "3/5", "3 out of 10", "3rd", "good", "three", "3/4.5", "2+1"],
)
def test_what_is_off_the_scale_or_between_its_numbers_is_no_rating(text: str) -> None:
    assert parse_rating(text, 0, 4) is None


def test_the_ends_of_the_scale_belong_to_it() -> None:
    low, high = scale_of(scale_record(1, 7))
    assert [parse_rating(str(n), low, high) for n in (0, 1, 7, 8)] == [None, 1, 7, None]


def test_an_answer_line_with_a_rating_is_right_wrong_or_unparsable() -> None:
    def judged(line: str) -> bool | None:
        parsed = parse_answer(f"It helps.\n{line}", RATED)
        return None if parsed is None else is_correct(parsed.answer, RATED)

    assert [judged(f"Answer: {text}") for text in ("3", "**3/4**", "2", "5", "very good")] == [
        True, True, False, None, None,
    ]  # fmt: skip


def test_ratings_are_classes_with_a_majority_baseline() -> None:
    rated = [make_problem(f"q{i}", str(r), "rating", verifier=scale_record(0, 4)) for i, r in enumerate([3, 3, 1, 4])]
    assert classes(rated)
    assert majority_baseline(rated, rated) == 0.5


def test_reading_takes_time_linear_in_the_text() -> None:
    begin = time.monotonic()
    for text in ("3" + " " * 200_000, "3 " * 100_000, "rating" * 50_000, "3 (" + "(" * 200_000):
        parse_rating(text, 0, 4)
    assert time.monotonic() - begin < 2
