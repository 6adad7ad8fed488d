"""OpenBookQA, ARC, MMLU and CommonsenseQA: a question, its choices and the letter of the right one.

Contract: the hub's form, the form of the sets' own files and the form with the choices inside the question give the same
problem, with the choices in the set's order unless they are shuffled. The group is the question with its choices in
whatever order.
"""

import re

from fem_core.config_problems import ChoiceProblems
from fem_core.digest import digest
from fem_core.errors import FemError
from fem_core.problems.problem import LETTERS, Problem, group_of, make_problem
from fem_core.problems.published import Unfit, text_in
from fem_core.problems.published import load as load_published
from fem_core.problems.registry import ProblemSet
from fem_core.problems.rows import Row, choices_in, letter_in, reach, string_in

_OPENING = "Please choose the correct answer to the question: "
_CHOICES, _CLOSING = "\n\nAnswer1: ", "\n\nAnswer format: "


def load(config: ChoiceProblems, seed: int) -> ProblemSet:
    """See ``published.load``."""
    return load_published(config, seed, lambda row: [_problem(row, seed if config.shuffle else None)])


def _problem(row: Row, seed: int | None) -> Problem:
    question, choices, letter = _inline(row) if "instruction" in row.record else _columns(row)
    group = group_of("\n".join([question, *sorted(choices, key=str.casefold)]))
    if seed is not None:
        right = LETTERS.index(letter)
        order = sorted(range(len(choices)), key=lambda i: digest([seed, question, list(choices), i]))
        choices, letter = tuple(choices[i] for i in order), LETTERS[order.index(right)]
    return make_problem(question, letter, "choice", choices=choices, group=group)


def _columns(row: Row) -> tuple[str, tuple[str, ...], str]:
    """Of a row with columns of its own for question, choices and key; MMLU's key is the index of the choice."""
    nested = isinstance(row.record.get("question"), dict)
    stem = "question_stem" if "question_stem" in row.record else "question.stem" if nested else "question"
    column = "question.choices" if nested else "choices"
    texts = reach(row, column)
    if isinstance(texts, list) and any(isinstance(text, str) and not text.strip() for text in texts):
        raise Unfit("a choice has no text")
    labels, choices = choices_in(row, column)
    key = "answerKey" if "answerKey" in row.record else "answer"
    index = row.record.get(key)
    if labels is None and isinstance(index, int) and 0 <= index < len(choices):
        return text_in(row, stem), choices, LETTERS[index]
    return text_in(row, stem), choices, letter_in(row, string_in(row, key), labels, choices)


def _inline(row: Row) -> tuple[str, tuple[str, ...], str]:
    """Of a row whose ``instruction`` holds the question and, behind ``Answer1:`` and so on, its choices."""
    text = string_in(row, "instruction").removeprefix(_OPENING)
    question, opened, rest = text.rpartition(_CHOICES)
    rest, closed, _ = rest.rpartition(_CLOSING)
    choices: list[str] = []
    while opened and closed and rest:
        choice, found, rest = rest.partition(f" Answer{len(choices) + 2}: ")
        choices.append(" ".join(choice.split()))
        if not found:
            break
    key = re.fullmatch(r"answer([0-9]{1,2})", string_in(row, "answer"))
    if len(choices) < 2 or key is None or not 1 <= int(key[1]) <= len(choices):
        raise FemError(
            f"{row.place}: 'instruction' and 'answer' do not hold a question with choices 'Answer1: …' and the name of "
            "one of them. Mend or remove the row."
        )
    return question.strip(), tuple(choices), LETTERS[int(key[1]) - 1]
