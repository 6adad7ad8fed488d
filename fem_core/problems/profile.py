"""What a problem set is like before anything is drawn: how many problems, which answers, and what guessing scores.

Contract: figures follow from the problems alone; they are recorded beside the problems, for people, and take no part in
any digest.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fem_core.problems.answers import classes, majority_baseline
from fem_core.problems.problem import Problem, full_question

_MOST = 20
"""Answers that are counted by name; the rarer ones are counted together."""


def profile(problems: Sequence[Problem]) -> dict[str, Any]:
    """Figures of one side.

    Returns:
        ``problems`` and ``groups`` (counts), ``question_characters`` (mean, choices included), ``answers``: the count
        of each answer where answers are classes, in order of the answers; else None.
    """
    return {
        "problems": len(problems),
        "groups": len({problem.group for problem in problems}),
        "question_characters": round(sum(len(full_question(p)) for p in problems) / max(1, len(problems)), 1),
        "answers": _answers(problems) if classes(problems) else None,
    }


def profiles(train: Sequence[Problem], test: Sequence[Problem]) -> dict[str, dict[str, Any]]:
    """Figures of ``train`` and of ``test``; the latter also has ``majority_baseline`` (None where answers are no classes)."""
    return {"train": profile(train), "test": {**profile(test), "majority_baseline": majority_baseline(train, test)}}


def lines(train: Sequence[Problem], test: Sequence[Problem]) -> list[str]:
    """Both sides in sentences, and the majority baseline where answers are classes."""
    said = []
    for name, side in (("training", train), ("test", test)):
        found = profile(side)
        said.append(
            f"{found['problems']} {name} problems in {found['groups']} groups; a question has "
            f"{found['question_characters']:.0f} characters on average."
        )
        if found["answers"] is not None:
            shares = (f"{answer} {count} ({count / len(side):.2f})" for answer, count in found["answers"].items())
            said.append(f"{name} answers: {', '.join(shares)}")
    shared = len({p.group for p in train} & {p.group for p in test})
    said.append(f"{shared} groups are on both sides.")
    baseline = majority_baseline(train, test)
    if baseline is not None:
        said.append(f"Always answering the most common training answer scores {baseline:.3f} on the test problems.")
    return said


def _answers(problems: Sequence[Problem]) -> dict[str, int]:
    counts = Counter(problem.answer for problem in problems)
    ranked = sorted(counts, key=lambda answer: (-counts[answer], answer))
    rest = sum(counts[answer] for answer in ranked[_MOST:])
    return {answer: counts[answer] for answer in sorted(ranked[:_MOST])} | ({"others": rest} if rest else {})
