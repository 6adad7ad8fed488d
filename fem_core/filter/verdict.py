"""The verdict on one draw: the reward r = 1[y = y*], and by name what else can happen to a draw.

Contract: pure but for the verifier's child process; the same text and problem give the same verdict, so an audit can
re-derive it. ``unparsable`` and ``truncated`` are not ``wrong_answer``: they say something else about the model.
"""

from dataclasses import dataclass

from fem_core.errors import VerifierTimeout
from fem_core.problems.answers import is_correct, parse_answer
from fem_core.problems.problem import Problem
from fem_core.problems.verifier import Verifier

ACCEPTED = "accepted"
WRONG_ANSWER = "wrong_answer"
UNPARSABLE = "unparsable"
TRUNCATED = "truncated"
VERIFIER_TIMEOUT = "verifier_timeout"
ANNOTATED = "annotated"
TOO_SHORT = "too_short"
TOO_LONG = "too_long"
LEAKED = "leaked"
BLIND = "blind"
OUTWEIGHED = "outweighed"
NEAR_DUPLICATE = "near_duplicate"
OVER_CAP = "over_cap"
OVER_LABEL_SHARE = "over_label_share"
OVER_SIZE = "over_size"

NOT_RIGHT = (WRONG_ANSWER, UNPARSABLE, TRUNCATED, VERIFIER_TIMEOUT)
"""Verdicts of draws whose answer is not known to be right; with every other one it is, whatever a filter then did."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with the parsed answer, where there is one."""

    verdict: str
    answer: str | None


def judge(text: str, finish_reason: str, problem: Problem, verifier: Verifier) -> Judgement:
    """Judge a draw.

    Args:
        finish_reason: ``length`` where the draw ran into the token limit; an answer line that was cut there does not
            count, since its value may be incomplete.
    """
    parsed = parse_answer(text, problem)
    if finish_reason == "length" and (parsed is None or "\n" not in text[parsed.end :]):
        return Judgement(TRUNCATED, None)
    if parsed is None:
        return Judgement(UNPARSABLE, None)
    try:
        right = is_correct(parsed.answer, problem, verifier)
    except VerifierTimeout:
        return Judgement(VERIFIER_TIMEOUT, parsed.answer)
    return Judgement(ACCEPTED if right else WRONG_ANSWER, parsed.answer)
