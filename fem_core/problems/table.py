"""The user's own problems: JSONL, JSON, CSV or Parquet files, or a Hugging Face data set.

Contract: every row becomes a problem or a ``FemError`` that names its file and line; nothing is skipped in silence.
Which rows are chosen and how one file is split follow from the seed and the rows' content, not from their order.
"""

import re
from collections.abc import Iterable

from fem_core.config_problems import TableProblems
from fem_core.errors import FemError
from fem_core.problems.answers import parse_answer
from fem_core.problems.numbers import parse_number, write_number
from fem_core.problems.problem import Problem, make_problem
from fem_core.problems.registry import ProblemSet, without_duplicates
from fem_core.problems.rows import Row, cap, choices_in, is_empty, letter_in, read, shown, split_by_group, string_in


def load(config: TableProblems, seed: int) -> ProblemSet:
    """Read, map, split and cap.

    Raises:
        FemError: a file, split or column is missing, or a row cannot be read.
    """
    pattern = _compile(config.answer_pattern)
    source = read(config)
    notes = source.notes
    pool = _problems(source.train, config, pattern)
    test = None if source.test is None else _problems(source.test, config, pattern)
    pool, more = without_duplicates(pool, "train" if test is not None else "rows")
    notes += more
    if test is None:
        assert config.test is not None
        pool, test, more = split_by_group(pool, config.test, seed)
        notes += more
    else:
        test, more = without_duplicates(test, "test")
        notes += more
    return ProblemSet(cap(pool, config.train, seed), cap(test, config.test, seed), source.inputs, notes)


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise FemError(f"problems.answer_pattern {pattern!r} is no regular expression: {error}. Mend it.") from error
    if compiled.groups < 1:
        raise FemError(f"problems.answer_pattern {pattern!r} has no group. Put the part that is y* in parentheses.")
    return compiled


def _problems(rows: Iterable[Row], config: TableProblems, pattern: re.Pattern[str] | None) -> list[Problem]:
    return [_problem(row, config, pattern) for row in rows]


def _problem(row: Row, config: TableProblems, pattern: re.Pattern[str] | None) -> Problem:
    question = string_in(row, config.question)
    answer = string_in(row, config.answer)
    if pattern is not None:
        match = pattern.search(answer)
        if match is None or not (match[1] or "").strip():
            raise FemError(
                f"{row.place}: problems.answer_pattern {pattern.pattern!r} finds nothing in {shown(answer)}. "
                "Mend the pattern or the row."
            )
        answer = match[1].strip()
    choices = None
    if config.choices is not None:
        labels, choices = choices_in(row, config.choices)
        if config.answer_kind == "choice":
            answer = letter_in(row, answer, labels, choices)
    if config.answer_kind == "number":
        number = parse_number(answer)
        if number is None:
            raise FemError(
                f"{row.place}: the answer {shown(answer)} is no number. Mend the row, pick the number with "
                "problems.answer_pattern, or set problems.answer_kind to text."
            )
        answer = write_number(number)
    if "\n" in answer:
        raise FemError(
            f"{row.place}: the answer {shown(answer)} has several lines, and an answer line holds one. Shorten it, or "
            "pick its part with problems.answer_pattern."
        )
    problem = make_problem(
        question,
        answer,
        config.answer_kind,
        choices=choices,
        rationale=None
        if config.rationale is None or is_empty(row, config.rationale)
        else string_in(row, config.rationale),
        group=None if config.group is None else string_in(row, config.group),
    )
    if parse_answer(f"Answer: {answer}", problem) is None:
        raise FemError(f"{row.place}: {shown(answer)} reads as no answer behind 'Answer:'. Mend or remove the row.")
    return problem
