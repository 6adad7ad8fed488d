"""The figures that a problem set is shown and recorded with."""

from fem_core.problems.problem import make_problem
from fem_core.problems.profile import lines, profile, profiles


def test_a_side_is_counted_by_problems_groups_and_answers() -> None:
    side = [
        make_problem("12345", "B", "choice", choices=("x", "y"), group="g"),
        make_problem("123", "A", "choice", choices=("x", "y"), group="g"),
        make_problem("1234", "B", "choice", choices=("x", "y")),
    ]
    assert profile(side) == {"problems": 3, "groups": 2, "question_characters": 14.0, "answers": {"A": 1, "B": 2}}


def test_free_answers_have_no_distribution_and_rare_labels_are_counted_together() -> None:
    assert profile([make_problem("q", "42", "number")])["answers"] is None
    labels = [make_problem(f"q{i}", f"label {i:02d}", "label") for i in range(25)]
    answers = profile([*labels, make_problem("again", "label 24", "label")])["answers"]
    assert (answers["label 24"], answers["others"], len(answers)) == (2, 5, 21)


def test_the_report_says_both_sides_shared_groups_and_the_majority_baseline() -> None:
    train = [make_problem(f"q{i}", answer, "label", group=f"g{i}") for i, answer in enumerate("yyn")]
    test = [make_problem(f"t{i}", answer, "label", group=f"g{i + 2}") for i, answer in enumerate("ynnn")]
    assert lines(train, test) == [
        "3 training problems in 3 groups; a question has 2 characters on average.",
        "training answers: n 1 (0.33), y 2 (0.67)",
        "4 test problems in 4 groups; a question has 2 characters on average.",
        "test answers: n 3 (0.75), y 1 (0.25)",
        "1 groups are on both sides.",
        "Always answering the most common training answer scores 0.250 on the test problems.",
    ]
    assert profiles(train, test) == {"train": profile(train), "test": {**profile(test), "majority_baseline": 0.25}}
    numbers = [make_problem("q", "42", "number")]
    assert not any("Always" in line for line in lines(numbers, numbers))
