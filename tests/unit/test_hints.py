"""Hint strengths: what each shows, and that candidates tell no more than that y* is among them."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pytest
from scipy.stats import chisquare

from fem_core.config import Exemplar, FilterConfig, PromptsConfig
from fem_core.errors import FemError
from fem_core.families import Hint
from fem_core.filter.rationales import filter_attempts
from fem_core.hints import others, values
from fem_core.problems.problem import Problem, make_problem
from fem_core.prompts import PromptKind, messages
from fem_core.schemas import ATTEMPTS

MARK = "HINT-MARK-2e9"
COUNT = 3000


def prompts(hint: Hint, placeholder: str) -> PromptsConfig:
    return PromptsConfig(hint=hint, plain="{question}", hinted="{question} " + MARK + " " + placeholder)


CANDIDATES = prompts("candidates", "{candidates}")


def choice(n: int, letters: str = "ABCD") -> Problem:
    return make_problem(f"Question {n}?", letters[n % len(letters)], "choice", choices=tuple(f"c{x}" for x in letters))


def rating(n: int) -> Problem:
    return make_problem(f"Rate response {n}.", str(n % 5), "number", rationale=f"Reason {n}.")


def shown(problem: Problem, problems: Sequence[Problem], seed: int = 0) -> list[str]:
    return values(CANDIDATES, problem, others(CANDIDATES, problems, seed))["{candidates}"].split(" or ")


@pytest.mark.parametrize(("make", "possible", "size"), [(choice, 4, 2), (rating, 5, 3)])
def test_candidates_tell_nothing_but_that_the_answer_is_among_them(make, possible: int, size: int) -> None:  # type: ignore[no-untyped-def]
    """Whichever answer is right, its place is uniform, and so is who stands beside it."""
    problems = [make(n) for n in range(COUNT)]
    known = others(CANDIDATES, problems, 7)
    places: dict[str, Counter[int]] = {}
    beside: dict[str, Counter[str]] = {}
    for problem in problems:
        names = values(CANDIDATES, problem, known)["{candidates}"].split(" or ")
        assert len(names) == len(set(names)) == size and problem.answer in names
        places.setdefault(problem.answer, Counter())[names.index(problem.answer)] += 1
        beside.setdefault(problem.answer, Counter()).update(set(names) - {problem.answer})
    assert len(places) == possible
    for answer in places:
        assert chisquare([places[answer][i] for i in range(size)]).pvalue > 1e-4, answer
        assert chisquare([beside[answer][a] for a in beside if a != answer]).pvalue > 1e-4, answer
    # Read the other way: of those that show the same set, each member is right equally often.
    sets: dict[frozenset[str], Counter[str]] = {}
    for problem in problems:
        names = values(CANDIDATES, problem, known)["{candidates}"].split(" or ")
        sets.setdefault(frozenset(names), Counter())[problem.answer] += 1
    for members, right in sets.items():
        assert chisquare([right[name] for name in members]).pvalue > 1e-4, members


def test_candidates_follow_from_problem_and_seed() -> None:
    problems = [rating(n) for n in range(60)]
    first = [shown(problem, problems) for problem in problems]
    assert first == [shown(problem, problems[::-1]) for problem in problems]
    assert first != [shown(problem, problems, seed=1) for problem in problems]


def test_free_answers_get_those_of_other_problems_each_once_and_in_one_spelling() -> None:
    names = ["Ann", "ann", "Bo", "Cy", "Dee", "Ed", "Flo", "Gil", "Hal"]
    problems = [make_problem(f"Who {n}?", name, "text") for n, name in enumerate(names * 20)]
    for problem in problems:
        found = shown(problem, problems)
        assert len({name.lower() for name in found}) == len(found) == 4
        assert problem.answer.lower() in {name.lower() for name in found}
        assert "ann" not in found, "the spelling would tell which one it is"


def test_too_few_answers_are_refused() -> None:
    yes_or_no = [make_problem(f"{n}?", "yes" if n % 2 else "no", "label") for n in range(9)]
    with pytest.raises(FemError, match=r"Problem [0-9a-f]{16} has 2 possible answers.*fewer than 3. Choose another"):
        shown(yes_or_no[0], yes_or_no)
    with pytest.raises(FemError, match="has 2 possible answers"):
        shown(choice(0, "AB"), [choice(n, "ABCD") for n in range(9)])
    with pytest.raises(ValueError, match="training problems' answers"):
        messages(CANDIDATES, rating(1), "hinted", 0)


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        ("text", ("The sea", "a lake", "A river", "the  Pond")),
        ("label", ("Yes", "No", "Perhaps", "Never")),
        ("number", ("1.0", "2", "3", "1,000")),
    ],
)
def test_choices_without_letters_are_the_possible_answers(kind: str, choices: tuple[str, ...]) -> None:
    """Answers of other problems would leave y* as the only one of the problem's own choices."""
    answers = ("1", "2", "3", "1000") if kind == "number" else tuple(choice.lower() for choice in choices)
    problems = [make_problem(f"What {n}?", answers[n % 4], kind, choices=choices) for n in range(400)]
    problems += [make_problem(f"Whose {n}?", f"{n}", kind) for n in range(50, 90)]
    places: Counter[int] = Counter()
    for problem in problems[:400]:
        found, mine = shown(problem, problems), choices[answers.index(problem.answer)]
        assert len(set(found)) == len(found) == 2 and set(found) < set(choices) and mine in found
        places[found.index(mine)] += 1
    assert chisquare([places[0], places[1]]).pvalue > 1e-4


def test_a_letter_is_among_the_letters_whatever_the_kind() -> None:
    problems = [make_problem(f"{n}?", "ABCD"[n % 4], "text", choices=("w", "x", "y", "z")) for n in range(80)]
    for problem in problems:
        found = shown(problem, problems)
        assert len(set(found)) == len(found) == 2 and set(found) < set("ABCD") and problem.answer in found
    word = make_problem("Which?", "AB", "text", choices=("AB", "CD", "EF"))
    assert "AB" in (found := shown(word, problems)) and set(found) < {"AB", "CD", "EF"}, "two letters are no letter"


def test_candidates_that_would_give_the_answer_away_are_refused() -> None:
    others_ = [make_problem(f"{n}?", f"word{n}", "text") for n in range(9)]
    few = make_problem("Which?", "Red", "text", choices=("red", "Blue", "the blue"))
    with pytest.raises(FemError, match=r"has 2 possible answers.*fewer than 3. Choose another"):
        shown(few, [few, *others_])
    none = make_problem("Which?", "green", "text", choices=("red", "blue", "white"))
    with pytest.raises(FemError, match=r"Problem [0-9a-f]{16} has an answer that is none of its choices.*Mend the row"):
        shown(none, [none, *others_])
    formulas = [make_problem(f"{n}?", text, "math") for n, text in enumerate((r"\frac12", r"\frac{1}{2}", "0.5", "2"))]
    with pytest.raises(
        FemError, match=r"Problem [0-9a-f]{16} has a formula as its answer.*Choose another prompts.hint"
    ):
        shown(formulas[0], formulas)


def test_the_solution_is_shown_and_refused_where_there_is_none() -> None:
    config = prompts("solution", "{solution} so {answer}")
    assert messages(config, rating(3), "hinted", 0)[0]["content"] == f"Rate response 3. {MARK} Reason 3. so 3"
    with pytest.raises(FemError, match=r"Problem [0-9a-f]{16} has no gold rationale.*Name its column"):
        messages(config, choice(1), "hinted", 0)


def test_placeholders_in_a_solution_are_left_as_they_are() -> None:
    problem = make_problem("Q {solution}?", "1", "number", rationale="{question} {answer}")
    (turn,) = messages(prompts("solution", "{solution}"), problem, "hinted", 0)
    assert turn["content"] == f"Q {{solution}}? {MARK} {{question}} {{answer}}"


@pytest.mark.parametrize(
    ("hint", "placeholder", "hints"),
    [
        ("answer", "{answer}", [r"2"]),
        ("answer_with_reason_request", "{answer}", [r"2"]),
        ("solution", "{solution}", [r"One more."]),
    ],
)
def test_exemplars_show_hints_of_the_same_strength(hint: Hint, placeholder: str, hints: list[str]) -> None:
    exemplar = Exemplar(question="1+1?", rationale="One more.", answer="2")
    config = prompts(hint, placeholder).model_copy(update={"exemplars": (exemplar,)})
    assert messages(config, rating(3), "hinted", 1)[0]["content"] == f"1+1? {MARK} {hints[0]}"


def test_an_exemplars_candidates_are_answers_of_the_problems() -> None:
    exemplar = Exemplar(question="Rate 'Hello'.", rationale="Short.", answer="2")
    config, problems = CANDIDATES.model_copy(update={"exemplars": (exemplar,)}), [rating(n) for n in range(9)]
    turn = messages(config, problems[0], "hinted", 1, others(config, problems, 0))[0]["content"]
    found = turn.partition(f"{MARK} ")[2].split(" or ")
    assert len(found) == 3 and "2" in found and set(found) < set("01234")


@pytest.mark.parametrize(
    ("hint", "placeholder"),
    [
        ("answer", "{answer}"),
        ("candidates", "{candidates}"),
        ("answer_with_reason_request", "{answer}"),
        ("solution", "{solution}"),
    ],
)
def test_no_hint_of_any_strength_reaches_a_training_prompt(hint: Hint, placeholder: str) -> None:
    config, problems = prompts(hint, placeholder), [rating(n) for n in range(20)]
    known = others(config, problems, 0)

    def prompt(problem: Problem, kind: PromptKind) -> str:
        return str(messages(config, problem, kind, 0, known))

    rows = [
        {
            "problem_id": problem.problem_id, "attempt": 0, "prompt_kind": "hinted", "exemplars": 0,
            "text": f"Good.\nAnswer: {problem.answer}", "answer": problem.answer, "verdict": "accepted",
            "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 9, "logprob": -1.0, "seed": 0,
        }
        for problem in problems
    ]  # fmt: skip
    assert all(MARK in prompt(problem, "hinted") and MARK not in prompt(problem, "plain") for problem in problems)
    trained = filter_attempts(
        problems, [pa.Table.from_pylist(rows, schema=ATTEMPTS)], FilterConfig(), config
    ).rationales.to_pylist()
    assert len(trained) == 20
    by_id = {problem.problem_id: problem for problem in problems}
    for row in trained:
        question = by_id[row["problem_id"]].question
        assert row["prompt"] == [{"role": "user", "content": question}]
