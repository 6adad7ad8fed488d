"""Second looks at accepted draws, checked: who was asked, and whether the recorded verdict is that of the recorded answer.

Contract: what the engine said is recorded, not repeated. The filter's verdicts follow from these columns and are derived
again with it.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fem_core.errors import VerifierTimeout
from fem_core.filter.verdict import ACCEPTED, TRUNCATED, UNPARSABLE, VERIFIER_TIMEOUT, WRONG_ANSWER
from fem_core.problems.answers import is_correct
from fem_core.problems.problem import Problem
from fem_core.problems.verifier import Verifier

COLUMNS = ("plain_logprob", "blind_answer", "blind_verdict")
"""Columns of an attempt that looks fill."""


def differences(
    row: Mapping[str, Any], looks: Collection[str], problem: Problem, verifier: Verifier
) -> Iterator[tuple[str, object, object]]:
    """What does not hold about the looks at a draw: column, what is there, what it should be.

    Args:
        row: of ``schemas.LOOKED``.
        looks: what the step asked about accepted draws.

    Raises:
        FemError: the verifier cannot run.
    """
    right = row["verdict"] == ACCEPTED
    for look, column in (("plain_logprob", "plain_logprob"), ("blind_answer", "blind_verdict")):
        wanted = right and look in looks
        if (row[column] is not None) != wanted:
            yield column, row[column], "a value" if wanted else None
    verdict, answer = row["blind_verdict"], row["blind_answer"]
    if verdict is None or verdict == VERIFIER_TIMEOUT:
        return
    if verdict in (UNPARSABLE, TRUNCATED):
        again = verdict if answer is None else f"a verdict on {answer!r}"
    elif answer is None:
        again = UNPARSABLE
    else:
        try:
            again = ACCEPTED if is_correct(answer, problem, verifier) else WRONG_ANSWER
        except VerifierTimeout:
            return
    if again != verdict:
        yield "blind_verdict", verdict, again
