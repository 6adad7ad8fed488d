import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fem_core.problems.answers import (
    answer_text,
    classes,
    has_answer_line,
    is_correct,
    majority_baseline,
    parse_answer,
)
from fem_core.problems.numbers import parse_number, write_number
from fem_core.problems.problem import Problem, make_problem

NUMBER = make_problem("How many?", "42", "number")
TEXT = make_problem("Which city?", "Paris", "text")
LABEL = make_problem("Good or bad?", "Good", "label")
CHOICE = make_problem("Where?", "B", "choice", choices=("dry palms", "a library", "A-frame house", "wet palms"))
GENERATED = make_problem("gcd?", "4", "reasoning_gym", verifier="{}")


def answer_in(text: str, problem: Problem) -> str | None:
    parsed = parse_answer(text, problem)
    return None if parsed is None else parsed.answer


@pytest.mark.parametrize(
    "line",
    [
        "Answer: 42",
        "answer : 42.",
        "ANSWER:42",
        "**Answer:** 42",
        "**Answer: 42**",
        "**Answer**: **42**",
        "`Answer: 42`",
        "### Answer: 42",
        "- Answer: 42",
        "> 1. **Final Answer:** 42",
        "Final answer: 42",
        "The final answer is: **42**",
        'Answer: "42"',
        "Answer: $42$",
        "Answer: $\\boxed{42}$.",
        "Answer: \\(42\\)",
        "Answer: \\boxed{\\text{42}}",
        "Answer: $42",
        "Answer: \\$42.00",
        "Answer: 42 apples",
        "Answer: 42%",
        "Answer: 6*7 = 42",
        "Answer: 42 \r",
        "Answer: 4.2e1",
        "Answer: 84/2",
    ],
)
def test_markup_around_an_answer_line_does_not_matter(line: str) -> None:
    text = f"Some steps.\n{line}\nAnd a remark."
    parsed = parse_answer(text, NUMBER)
    assert parsed is not None
    assert parsed.answer == "42"
    assert text[parsed.start : parsed.end] == line
    assert is_correct(parsed.answer, NUMBER)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer is 42",
        "Answer:",
        "Answer: <answer>",
        "**Answer:** **",
        "Answer: `<your answer>`",
        "Answer: ...",
        "Question and Answer: 42",
        "My answers: 42",
    ],
)
def test_what_is_no_answer_line(text: str) -> None:
    assert parse_answer(text, NUMBER) is None
    assert parse_answer(text, TEXT) is None
    assert has_answer_line(text + "\n") is None


def test_the_last_answer_line_wins_and_empty_ones_do_not_count() -> None:
    text = "Answer: 41\nNo, wait.\nAnswer: 42\nAnswer: <answer>\nAnswer:\n"
    parsed = parse_answer(text, NUMBER)
    assert parsed is not None
    assert (parsed.answer, text[parsed.start : parsed.end]) == ("42", "Answer: 42")


@pytest.mark.parametrize(
    ("value", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B) a library", "B"),
        ("**B)** a library", "B"),
        ("B: because books are there", "B"),
        ("Option C", "C"),
        ("a library", "B"),
        ("A library.", "B"),
        ("A-frame house", "C"),
        ("A", "A"),
        ("a", "A"),
        ("Dry palms", "A"),
        ("E", None),
        ("B) wet palms", None),
        ("A, B", None),
        ("A or B", None),
        ("A and B", None),
        ("bank", None),
        ("I do not know", None),
    ],
)
def test_a_choice_is_an_existing_letter_or_unparsable(value: str, letter: str | None) -> None:
    assert answer_in(f"Answer: {value}", CHOICE) == letter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", Fraction(1234)),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("-$5", Fraction(-5)),
        ("$-5", Fraction(-5)),
        ("−7", Fraction(-7)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("-3/4", Fraction(-3, 4)),
        ("2 1/2", Fraction(5, 2)),
        ("2½", Fraction(5, 2)),
        ("\\frac{1}{2}", Fraction(1, 2)),
        ("1{,}000", Fraction(1000)),
        ("6 x 10^3", Fraction(6000)),
        ("6 \\times 10^{-3}", Fraction(6, 1000)),
        ("1.5E-3", Fraction(15, 10000)),
        ("60 km/h", Fraction(60)),
        ("12 m^2", Fraction(12)),
        ("5-inch", Fraction(5)),
        ("1,5", None),
        ("1000,000", None),
        ("42 or 43", None),
        ("5-6", None),
        ("5:30", None),
        ("2**3", None),
        ("2^10", None),
        ("10²", None),
        ("1/0", None),
        ("5 million", None),
        ("3x", None),
        ("forty-two", None),
        ("nan", None),
        ("1e999999999", None),
        ("9" * 5000, None),
        ("", None),
    ],
)
def test_numbers_are_read_exactly_or_not_at_all(text: str, value: Fraction | None) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("42.0", "42", True),
        ("43", "42", False),
        ("0.333333", "1/3", True),
        ("0.333", "1/3", False),
        ("1000001", "1000000", False),
        ("-0", "0", True),
    ],
)
def test_numbers_compare_by_value(answer: str, gold: str, right: bool) -> None:
    assert is_correct(answer, make_problem("q", gold, "number")) is right


def test_text_compares_without_case_punctuation_and_articles() -> None:
    problem = make_problem("q", "The Eiffel Tower", "text")
    assert is_correct("eiffel tower.", problem)
    assert is_correct("**Eiffel** Tower", problem)
    assert not is_correct("Eiffel", problem)
    assert not is_correct("C", make_problem("q", "C++", "text"))
    assert is_correct("A", make_problem("q", "a", "text"))


def test_labels_are_kept_in_one_form() -> None:
    assert answer_in("Answer: **Good**.", LABEL) == answer_in("Answer: good", LABEL) == "good"
    assert is_correct("good", LABEL)


def test_the_first_complete_answer_line_ends_a_draw() -> None:
    assert has_answer_line("steps\nAnswer: 4") is None
    assert has_answer_line("steps\nAnswer: 42\nmore") == len("steps\nAnswer: 42")
    assert has_answer_line("Answer:\nAnswer: <answer>\n**Answer:** 7\n\nAnswer: 8\n") == len(
        "Answer:\nAnswer: <answer>\n**Answer:** 7"
    )


@pytest.mark.parametrize("problem", [NUMBER, TEXT, LABEL, CHOICE, GENERATED])
@pytest.mark.parametrize(
    "line",
    [
        "Answer: " + "1" * 1_000_000,
        "Answer: " + "1," * 500_000,
        "Answer: " + "**" * 500_000,
        "Answer: " + "(" * 1_000_000,
        "Answer: " + "\\boxed{" * 100_000,
        "Answer: " + " " * 1_000_000 + "x",
        "*" * 1_000_000 + "Answer: 1",
        " " * 1_000_000 + "Answer: 1",
        "- " * 500_000 + "Answer: 1",
        "Answer: \n" * 100_000,
    ],
    ids=range(10),
)
def test_a_megabyte_takes_linear_time(line: str, problem: Problem) -> None:
    begin = time.process_time()
    parse_answer(line, problem)
    has_answer_line(line + "\n")
    assert time.process_time() - begin < 2


_WRAPS = ["{}", "**{}**", "`{}`", '"{}"', "${}$", "\\boxed{{{}}}", " {} ", "{}.", "*{}*", "$\\boxed{{{}}}$"]
_LINES = ["Answer: {}", "**Answer:** {}", "**Answer: {}**", "- Answer: {}", "## Final answer: {}", "`Answer`: {}"]


@given(
    st.fractions(max_denominator=10**6),
    st.sampled_from(_WRAPS),
    st.sampled_from(_LINES),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30),
)
def test_a_number_on_an_answer_line_is_read_back(value: Fraction, wrap: str, line: str, before: str) -> None:
    problem = make_problem("q", write_number(value), "number")
    text = f"{before}\n" + line.format(wrap.format(write_number(value)))
    assert answer_in(text, problem) == write_number(value)
    assert parse_number(write_number(value)) == value


@given(st.integers(0, 4), st.sampled_from(_WRAPS), st.sampled_from(_LINES))
def test_a_letter_on_an_answer_line_is_read_back(index: int, wrap: str, line: str) -> None:
    letter = "ABCDE"[index]
    problem = make_problem("q", letter, "choice", choices=("one", "two", "three", "four", "five"))
    assert answer_in(line.format(wrap.format(letter)), problem) == letter


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=40))
def test_a_generated_answer_that_is_read_at_all_is_read_as_it_is(gold: str) -> None:
    gold = gold.strip()
    problem = make_problem("q", gold, "reasoning_gym", verifier="{}")
    assert answer_in(f"Answer: {gold}", problem) in (gold, None)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    for problem in (NUMBER, TEXT, LABEL, CHOICE, GENERATED):
        for candidate in (text, f"Answer: {text}"):
            parsed = parse_answer(candidate, problem)
            if parsed is not None and problem is not GENERATED:
                is_correct(parsed.answer, problem)


def test_majority_baseline_uses_the_most_common_train_answer() -> None:
    def labelled(answers: str) -> list[Problem]:
        return [make_problem(f"q{i}", answer, "label") for i, answer in enumerate(answers)]

    assert majority_baseline(labelled("aabc"), labelled("aaab")) == 0.75
    assert majority_baseline(labelled("ab"), labelled("ab")) == 0.5
    assert majority_baseline([NUMBER], [NUMBER]) is None
    assert classes([CHOICE, LABEL]) and not classes([TEXT])
    assert answer_text(CHOICE) == "B"
