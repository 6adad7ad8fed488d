"""What the placeholders of a hinted prompt stand for: y*, y* among other answers, or the gold rationale.

Contract: the same problem, seed and training problems give the same hint, for every attempt and iteration. Candidates
say no more than that y* is among them: all sets of their size are equally likely whichever of them y* is, and so are
all orders.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fem_core.config import Exemplar, PromptsConfig
from fem_core.digest import derive_seed, digest
from fem_core.errors import FemError
from fem_core.problems.answers import answer_class, answer_text, parse_answer
from fem_core.problems.problem import LETTERS, Problem

_MOST = 4
"""Candidates shown at most."""


@dataclass(frozen=True)
class Others:
    """Where candidates beside y* come from."""

    seed: int
    """The run's seed."""
    answers: dict[str, str]
    """The different right answers of the training problems in one spelling each, by ``answer_class``."""


def others(config: PromptsConfig, problems: Sequence[Problem], seed: int) -> Others | None:
    """What hints need to know of the training problems; None where they need nothing.

    Args:
        problems: all training problems, in any order.
    """
    if config.hint != "candidates":
        return None
    answers: dict[str, str] = {}
    for kind, text in sorted({(problem.answer_kind, answer_text(problem)) for problem in problems}):
        answers.setdefault(answer_class(text, kind), text)
    return Others(seed, answers)


def values(config: PromptsConfig, problem: Problem, known: Others | None) -> dict[str, str]:
    """What stands for each placeholder of the hinted prompt but ``{question}``.

    Raises:
        FemError: the problem has no gold rationale to show, or too few possible answers for candidates.
        ValueError: candidates are asked for without ``known``.
    """
    answer = answer_text(problem)
    if config.hint == "candidates":
        name, seed = f"problem {problem.problem_id}", _known(known).seed
        mine, possible = _possible(problem, _known(known))
        return {"{candidates}": _candidates(name, mine, answer, possible, seed)}
    if config.hint == "solution":
        if not (problem.rationale or "").strip():
            raise FemError(
                f"Problem {problem.problem_id} has no gold rationale, which prompts.hint 'solution' shows. Name its "
                "column in problems.rationale, or choose another prompts.hint."
            )
        return {"{answer}": answer, "{solution}": str(problem.rationale)}
    return {"{answer}": answer}


def _possible(problem: Problem, known: Others) -> tuple[str, dict[str, str]]:
    """y* as a key, and the possible answers by such keys: letters, the problem's own choices, or those of other problems.

    Raises:
        FemError: they would give y* away.
    """
    answer, kind = answer_text(problem), problem.answer_kind
    if kind == "math":
        raise FemError(
            f"Problem {problem.problem_id} has a formula as its answer, and prompts.hint 'candidates' cannot tell which "
            "formulas are equal. Choose another prompts.hint."
        )
    mine = answer_class(answer, kind)
    if problem.choices is None:
        return mine, known.answers
    letters = {letter: letter for letter in LETTERS[: len(problem.choices)]}
    if answer in letters:
        return answer, letters
    possible: dict[str, str] = {}
    for choice in problem.choices:
        parsed = parse_answer(f"Answer: {choice}", problem)
        possible.setdefault(answer_class(choice if parsed is None else parsed.answer, kind), choice)
    if mine not in possible:
        raise FemError(
            f"Problem {problem.problem_id} has an answer that is none of its choices, and prompts.hint 'candidates' would "
            "give it away. Mend the row, or choose another prompts.hint."
        )
    return mine, possible


def exemplar_values(config: PromptsConfig, exemplar: Exemplar, known: Others | None) -> dict[str, str]:
    """The same for an exemplar, whose rationale is its own solution."""
    if config.hint == "candidates":
        name = f"exemplar {digest(exemplar.question)[:16]}"
        spelled = {text: text for text in _known(known).answers.values()}
        return {"{candidates}": _candidates(name, exemplar.answer, exemplar.answer, spelled, _known(known).seed)}
    if config.hint == "solution":
        return {"{answer}": exemplar.answer, "{solution}": exemplar.rationale}
    return {"{answer}": exemplar.answer}


def _candidates(name: str, mine: str, answer: str, possible: dict[str, str], seed: int) -> str:
    """Half of the possible answers, 2 to 4 of them, in a random order: ``B or D``.

    Args:
        mine: y* as a key of ``possible``; where it is none, ``answer`` counts as one more.
    """
    keys = list(possible)
    total = len(keys) + (mine not in possible)
    if total < 3:
        raise FemError(
            f"{name.capitalize()} has {total} possible answers, and prompts.hint 'candidates' would say nothing with "
            "fewer than 3. Choose another prompts.hint."
        )
    chosen: dict[str, str] = {mine: possible.get(mine, answer)}
    draw = 0
    while len(chosen) < min(_MOST, (total + 1) // 2):
        key = keys[derive_seed(seed, "candidates", name, draw) % len(keys)]
        chosen.setdefault(key, possible[key])
        draw += 1
    return " or ".join(chosen[key] for key in sorted(chosen, key=lambda key: derive_seed(seed, "order", name, key)))


def _known(known: Others | None) -> Others:
    if known is None:
        raise ValueError("candidates need the training problems' answers")
    return known
