"""Completions that nobody draws: the control arms answer-only and human-rationale fine-tuning.

Contract: pure in the problems and the scheme; an iteration of such an arm has the same artifacts as any other, so that
whatever reads a run reads it. A given completion is one attempt of prompt kind ``given`` with no tokens drawn, judged as
a draw is: y* that the verifier does not take is not trained on here either.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from fem_core.config import SchemeConfig
from fem_core.errors import FemError
from fem_core.filter.verdict import ACCEPTED, judge
from fem_core.problems.answers import answer_text
from fem_core.problems.problem import Problem
from fem_core.problems.verifier import Verifier
from fem_core.schemas import ATTEMPTS

GIVEN = "given"
"""Prompt kind, and finish reason, of a completion that was not drawn."""

GIVING = ("answer_only", "human")
"""Names of the schemes that give."""

_NAMED = 100
"""Problems without a gold rationale that the stats name."""


def is_given(scheme: SchemeConfig) -> bool:
    """Whether a scheme trains on completions that are given."""
    return scheme.name in GIVING


def given_by(step_config: Mapping[str, Any]) -> SchemeConfig | None:
    """The scheme of a step whose attempts were given, from the step's recorded configuration; None for any other step."""
    try:
        scheme = SchemeConfig.model_validate(step_config.get("scheme"))
    except ValidationError:
        return None
    return scheme if is_given(scheme) else None


def given_text(scheme: SchemeConfig, problem: Problem) -> str | None:
    """The completion of a problem; None where it has no gold rationale and the scheme needs one."""
    line = f"Answer: {answer_text(problem)}"
    if scheme.name == "answer_only":
        return line
    rationale = (problem.rationale or "").strip()
    return f"{rationale}\n{line}" if rationale else None


def refuse_without_rationale(scheme: SchemeConfig, problems: Iterable[Problem]) -> None:
    """Scheme ``human`` needs a gold rationale at least.

    Raises:
        FemError: no problem has one.
    """
    if scheme.name == "human" and not any(given_text(scheme, problem) for problem in problems):
        raise FemError(
            "The scheme human trains on gold rationales, and no training problem has one. Name their column in "
            "problems.rationale, or choose another scheme.name."
        )


def given_rows(scheme: SchemeConfig, problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Rows of ``schemas.ATTEMPTS`` in the order of the problems, not judged yet."""
    texts = ((problem, given_text(scheme, problem)) for problem in problems)
    return [
        {
            "problem_id": problem.problem_id,
            "attempt": 0,
            "prompt_kind": GIVEN,
            "exemplars": 0,
            "text": text,
            "answer": None,
            "verdict": "",
            "finish_reason": GIVEN,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "logprob": 0.0,
            "seed": 0,
        }
        for problem, text in texts
        if text is not None
    ]


def given_attempts(scheme: SchemeConfig, problems: Sequence[Problem], verifier: Verifier) -> pa.Table:
    """The attempts of some problems, with ``schemas.ATTEMPTS``.

    Raises:
        FemError: the verifier cannot run.
    """
    by_id = {problem.problem_id: problem for problem in problems}
    rows = given_rows(scheme, problems)
    for row in rows:
        row |= vars(judge(row["text"], GIVEN, by_id[row["problem_id"]], verifier))
    return pa.Table.from_pylist(rows, schema=ATTEMPTS)


def given_stats(scheme: SchemeConfig, problems: Iterable[Problem], attempts: Iterable[pa.Table]) -> dict[str, Any]:
    """Totals in the form of ``draw_stats``: nothing was drawn; how many were ``given``, how many problems have no gold
    rationale, and which (the first hundred)."""
    lacking = [problem.problem_id for problem in problems if given_text(scheme, problem) is None]
    verdicts = [verdict for table in attempts for verdict in table.column("verdict").to_pylist()]
    return {
        "draws": 0,
        "given": len(verdicts),
        "problems_accepted": verdicts.count(ACCEPTED),
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "without_rationale": len(lacking),
        "without_rationale_ids": lacking[:_NAMED],
    }
