"""Which attempts of an iteration to show, and in which order, as SQL with bound parameters.

Contract: no value of a filter is ever part of the SQL text; orders are names from a fixed list. Words are looked for as
they stand, without case: a text must hold all of them, and a phrase in double quotes is one word.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fem_core.errors import FemError

SORTS = {
    "position": "position",
    "-position": "position DESC",
    "problem": "problem_id, attempt",
    "length": "completion_tokens",
    "-length": "completion_tokens DESC",
    "logprob": "logprob",
    "-logprob": "logprob DESC",
    "verdict": "verdict",
}
"""The orders, by name; what is equal comes by position."""

ANNOTATIONS = ("good", "bad", "leaked", "any", "none")
"""Values of ``Filter.annotation``."""

_WORDS = re.compile(r'"([^"]*)"|(\S+)')

_MOST_WORDS = 16


@dataclass(frozen=True)
class Filter:
    """What is asked for; None is anything."""

    verdict: str | None = None
    """The final verdict."""
    prompt_kind: str | None = None
    """plain, hinted or given."""
    label: str | None = None
    """y*."""
    problem_id: str | None = None
    """One problem."""
    min_length: int | None = None
    """Tokens of the completion, at least."""
    max_length: int | None = None
    """At most."""
    min_logprob: float | None = None
    """Sum of the completion's log-probabilities, nats, at least."""
    max_logprob: float | None = None
    """At most."""
    min_leak: float | None = None
    """Leak score, at least: 1 shows what leaks."""
    max_leak: float | None = None
    """At most: 0 shows what was looked at and does not leak."""
    text: str | None = None
    """Words that the completion holds, without case."""
    annotation: str | None = None
    """The last annotation: good, bad or leaked; any shows what has one and none what has none."""

    @property
    def by_leak(self) -> bool:
        """Whether it asks for leak scores."""
        return self.min_leak is not None or self.max_leak is not None


def words(text: str | None) -> tuple[str, ...]:
    """The words and phrases of a search, for highlighting too.

    Raises:
        FemError: there are too many.
    """
    found = tuple(phrase or word for phrase, word in _WORDS.findall(text or "") if phrase.strip() or word)
    if len(found) > _MOST_WORDS:
        raise FemError(f"The search has {len(found)} words. Give at most {_MOST_WORDS}, or a phrase in double quotes.")
    return found


def where(
    chosen: Filter, annotated: Collection[str], leaks: str | None, pieces: str | None = None
) -> tuple[str, list[Any]]:
    """A condition over the columns of an iteration, and its parameters.

    Args:
        leaks: the database that has the leak scores, where ``chosen.by_leak``.
        pieces: the database that has the texts in pieces; None where all are whole.
        annotated: ``<problem id>.<attempt>`` of the attempts that have the annotation that is asked for; of all that
            have one where none is.
    """
    terms: list[str] = []
    values: list[Any] = []
    for column, operator, value in (
        ("problem_id", "=", chosen.problem_id),
        ("verdict", "=", chosen.verdict),
        ("prompt_kind", "=", chosen.prompt_kind),
        ("label", "=", chosen.label),
        ("completion_tokens", ">=", chosen.min_length),
        ("completion_tokens", "<=", chosen.max_length),
        ("logprob", ">=", chosen.min_logprob),
        ("logprob", "<=", chosen.max_logprob),
    ):
        if value is not None:
            terms.append(f"{column} {operator} ?")
            values.append(value)
    if leaks is not None:
        bounds = [("leak >= ?", chosen.min_leak), ("leak <= ?", chosen.max_leak)]
        asked = [(term, value) for term, value in bounds if value is not None]
        terms.append(
            f"position IN (SELECT position FROM {leaks}.leaks WHERE {' AND '.join(term for term, _ in asked)})"
        )
        values += [value for _, value in asked]
    if chosen.annotation is not None:
        if chosen.annotation not in ANNOTATIONS:
            raise FemError(f"There is no annotation {chosen.annotation!r}. Choose one of {', '.join(ANNOTATIONS)}.")
        negation = "NOT " if chosen.annotation == "none" else ""
        terms.append(f"{negation}concat(problem_id, '.', attempt) IN (SELECT unnest(?::VARCHAR[]))")
        values.append(sorted(annotated))
    sought = words(chosen.text)
    if sought:
        holds = "contains(lower(text), lower(?))"
        term = " AND ".join([holds] * len(sought))
        values += sought
        if pieces is not None:
            each = " AND ".join([f"bool_or({holds})"] * len(sought))
            term += f" OR position IN (SELECT position FROM {pieces}.pieces GROUP BY position HAVING {each})"
            values += sought
        terms.append(f"({term})")
    return " AND ".join(terms) or "TRUE", values


def order(sort: str) -> str:
    """The SQL of an order. Raises FemError for one that there is not."""
    if sort not in SORTS:
        raise FemError(f"There is no order {sort!r}. Choose one of {', '.join(SORTS)}.")
    return f"{SORTS[sort]}, position" if "position" not in SORTS[sort] else SORTS[sort]
