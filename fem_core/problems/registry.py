"""From a configuration to checked train and test problems, whatever the source.

Contract: both sides are non-empty, no question and no group is on both, and a question occurs once on its side. What
was left out on the way is said in ``notes``. The same configuration, seed and file contents give the same problems
in the same order.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from fem_core.config_problems import SOURCES, Problems
from fem_core.errors import FemError
from fem_core.problems.problem import Problem, question_identity


@dataclass
class ProblemSet:
    """The problems of a run."""

    train: list[Problem]
    """What the E-step draws for."""
    test: list[Problem]
    """What evaluation draws for."""
    inputs: dict[str, str]
    """Digest of each thing that was read: files, or the generator with its parameters and version."""
    notes: list[str]
    """What was left out and why, in sentences."""


def load(config: Problems, seed: int) -> ProblemSet:
    """Read or generate the problems of a run and check them.

    Raises:
        FemError: the source cannot be read, a side is empty, or train and test share questions or groups.
    """
    module = importlib.import_module(f"fem_core.problems.{SOURCES[config.source]}")
    found: ProblemSet = module.load(config, seed)
    return check(found)


def check(found: ProblemSet) -> ProblemSet:
    """The checks that every source passes.

    Raises:
        FemError: as ``load``.
    """
    train, train_notes = without_duplicates(found.train, "train")
    test, test_notes = without_duplicates(found.test, "test")
    for name, side in (("train", train), ("test", test)):
        if not side:
            raise FemError(
                f"The source gave no {name} problems. Check the section problems: its file or split, and its numbers "
                "train and test."
            )
    shared = {question_identity(p) for p in train} & {question_identity(p) for p in test}
    if shared:
        raise FemError(
            f"{len(shared)} questions are both among the {len(train)} train and the {len(test)} test problems, which "
            f"would make the test meaningless; one begins {min(shared)[:80]!r}. Remove them from one side, or give one "
            "file and let problems.test split it."
        )
    groups = {p.group for p in train} & {p.group for p in test}
    if groups:
        raise FemError(
            f"{len(groups)} groups have rows both in train and in test, such as {min(groups)[:80]!r}. Remove those "
            "rows from one side, or give one file and let problems.test split it by problems.group."
        )
    return ProblemSet(train, test, found.inputs, [*found.notes, *train_notes, *test_notes])


def without_duplicates(problems: Sequence[Problem], name: str) -> tuple[list[Problem], list[str]]:
    """Each question once, the first one kept, and a note that counts the others."""
    kept: dict[str, Problem] = {}
    other_answer = 0
    for problem in problems:
        first = kept.setdefault(question_identity(problem), problem)
        other_answer += first.answer != problem.answer
    dropped = len(problems) - len(kept)
    if not dropped:
        return list(kept.values()), []
    conflict = f", {other_answer} of them with another answer than the one kept" if other_answer else ""
    return list(kept.values()), [f"{name}: {dropped} rows repeat a question and were left out{conflict}."]
