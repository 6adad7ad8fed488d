"""MATH-500: competition mathematics whose y* is a formula in LaTeX and whose solution is a gold rationale.

Contract: answers are compared by math-verify in the verifier's process; the record says y* and the time limit.
"""

from fem_core.config_problems import Math500Problems
from fem_core.problems.problem import Problem, make_problem
from fem_core.problems.published import load as load_published
from fem_core.problems.published import text_in
from fem_core.problems.registry import ProblemSet
from fem_core.problems.rows import Row
from fem_core.problems.verifier import math_record


def load(config: Math500Problems, seed: int) -> ProblemSet:
    """See ``published.load``."""
    return load_published(config, seed, lambda row: [_problem(row, config.time_limit)])


def _problem(row: Row, time_limit: float) -> Problem:
    answer = " ".join(text_in(row, "answer").split())
    rationale = row.record.get("solution")
    return make_problem(
        text_in(row, "problem"),
        answer,
        "math",
        rationale=rationale.strip() or None if isinstance(rationale, str) else None,
        verifier=math_record(answer, time_limit),
    )
