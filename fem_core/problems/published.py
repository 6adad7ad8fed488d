"""What the published problem sets share: rows become problems, and train and test are kept apart.

Contract: a row that cannot serve is left out and counted by its reason in ``notes``; a row of another form is a
``FemError``. A training problem that shares its group or its question with a test problem is left out and counted: the
test side is never the smaller for it. Of rows that ask the same question a digest with the seed keeps one, so that no
answer is preferred. Problems that a row gives beside its first one stay with it on every way.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from fem_core.config_problems import PublishedProblems
from fem_core.digest import digest
from fem_core.problems.answers import parse_answer
from fem_core.problems.problem import Problem, full_question, question_identity
from fem_core.problems.registry import ProblemSet, without_duplicates
from fem_core.problems.rows import Row, cap, reach, read, shown, split_by_group, string_in


class Unfit(Exception):
    """Why a row cannot serve, in words that follow *left out because*."""


def load(config: PublishedProblems, seed: int, problems_of: Callable[[Row], Sequence[Problem]]) -> ProblemSet:
    """Read, convert, divide and cap.

    Args:
        problems_of: the problems of a row, all in one group; raises ``Unfit`` where there are none.

    Raises:
        FemError: a file, split or column is missing, or a row cannot be read.
    """
    source = read(config)
    beside: dict[str, Sequence[Problem]] = {}
    pool, notes = _converted(
        source.train, problems_of, config, seed, "rows" if source.test is None else "train", beside
    )
    notes = [*source.notes, *notes]
    together = 1 + max(map(len, beside.values()), default=0)
    train, test = (None if most is None else max(1, most // together) for most in (config.train, config.test))
    if source.test is None:
        assert test is not None
        pool, held, more = split_by_group(pool, test, seed)
    else:
        held, more = _converted(source.test, problems_of, config, seed, "test", beside)
        pool, without = _apart(pool, held)
        more += without

    def whole(side: Sequence[Problem], most: int | None) -> list[Problem]:
        return [one for problem in cap(side, most, seed) for one in (problem, *beside[problem.problem_id])]

    return ProblemSet(whole(pool, train), whole(held, test), source.inputs, [*notes, *more])


def text_in(row: Row, column: str) -> str:
    """The text of a column.

    Raises:
        Unfit: it is empty.
        FemError: there is no such column, or it holds something else.
    """
    value = reach(row, column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise Unfit(f"{column} is empty")
    return string_in(row, column)


def _converted(
    rows: Iterable[Row],
    problems_of: Callable[[Row], Sequence[Problem]],
    config: PublishedProblems,
    seed: int,
    side: str,
    beside: dict[str, Sequence[Problem]],
) -> tuple[list[Problem], list[str]]:
    """The first problem of each row; the others go to ``beside`` under its id."""
    found: list[Problem] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        try:
            first, *others = _fit(problems_of(row), row, config.max_characters)
        except Unfit as error:
            left_out[str(error)] += 1
            continue
        found.append(first)
        beside.setdefault(first.problem_id, others)
    notes = [f"{side}: {count} rows were left out because {why}." for why, count in sorted(left_out.items())]
    # Not by the digest that ``cap`` sorts by: a question that many were asked would then be chosen more often.
    kept, more = without_duplicates(sorted(found, key=lambda p: digest([seed, "kept", p.problem_id])), side)
    return kept, [*notes, *more]


def _fit(problems: Sequence[Problem], row: Row, longest: int | None) -> Sequence[Problem]:
    for problem in problems:
        if longest is not None and len(full_question(problem)) > longest:
            raise Unfit(f"the question has more than {longest} characters")
        if parse_answer(f"Answer: {problem.answer}", problem) is None:
            raise Unfit(f"an answer such as {shown(problem.answer)} reads as none behind 'Answer:'")
    return problems


def _apart(train: Sequence[Problem], test: Sequence[Problem]) -> tuple[list[Problem], list[str]]:
    """The training problems that share neither group nor question with a test problem."""
    groups, asked = {p.group for p in test}, {question_identity(p) for p in test}
    kept = [p for p in train if p.group not in groups and question_identity(p) not in asked]
    shared = len(train) - len(kept)
    return kept, [f"train: {shared} problems share a group with test problems and were left out."] if shared else []
