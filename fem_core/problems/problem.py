"""Problem: one pair (x, y*), and its table.

Contract: a problem's id is the digest of what is asked and what counts as right, so the same problem has the same id
whatever file, row or machine it came from; its rationale and its group take no part.
"""

import re
import string
from dataclasses import dataclass

import pyarrow as pa

from fem_core import schemas
from fem_core.digest import digest

LETTERS = string.ascii_uppercase
"""The names of choices, in order."""


@dataclass(frozen=True)
class Problem:
    """One row of ``schemas.PROBLEMS``, which describes the fields."""

    problem_id: str
    question: str
    choices: tuple[str, ...] | None
    answer: str
    answer_kind: str
    rationale: str | None
    group: str
    verifier: str | None


def make_problem(
    question: str,
    answer: str,
    answer_kind: str,
    *,
    choices: tuple[str, ...] | None = None,
    rationale: str | None = None,
    group: str | None = None,
    verifier: str | None = None,
) -> Problem:
    """A problem with its id. ``group`` is by default the question's own identity: every question its own group."""
    content = {
        "question": question,
        "choices": None if choices is None else list(choices),
        "answer": answer,
        "answer_kind": answer_kind,
        "verifier": verifier,
    }
    problem_id = digest(content)[:16]
    if group is None:
        group = group_of(_with_choices(question, choices))
    return Problem(problem_id, question, choices, answer, answer_kind, rationale, group, verifier)


def full_question(problem: Problem) -> str:
    """The question and, where there are choices, one line ``A. text`` for each."""
    return _with_choices(problem.question, problem.choices)


def question_identity(problem: Problem) -> str:
    """The full question without case and layout: equal for two problems that ask the same."""
    return _same(full_question(problem))


def group_of(text: str) -> str:
    """16 hex digits that are equal for texts which differ in case and layout only."""
    return digest(_same(text))[:16]


def to_table(problems: list[Problem]) -> pa.Table:
    """The problems as a table of ``schemas.PROBLEMS``."""
    rows = [
        {
            "problem_id": p.problem_id,
            "question": p.question,
            "choices": None if p.choices is None else list(p.choices),
            "answer": p.answer,
            "answer_kind": p.answer_kind,
            "rationale": p.rationale,
            "group": p.group,
            "verifier": p.verifier,
        }
        for p in problems
    ]
    return pa.Table.from_pylist(rows, schema=schemas.PROBLEMS)


def from_table(table: pa.Table) -> list[Problem]:
    """The problems of a table of ``schemas.PROBLEMS``."""
    return [
        Problem(**{**row, "choices": None if row["choices"] is None else tuple(row["choices"])})
        for row in table.select(schemas.PROBLEMS.names).to_pylist()
    ]


def _with_choices(question: str, choices: tuple[str, ...] | None) -> str:
    if choices is None:
        return question
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))])


def _same(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()
