"""The user's own problems: JSONL, JSON, CSV or Parquet files, or a Hugging Face data set.

Contract: every row becomes a problem or a ``FemError`` that names its file and line; nothing is skipped in silence.
Which rows are chosen and how one file is split follow from the seed and the rows' content, not from their order.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fem_core.config import TableProblems
from fem_core.digest import digest, digest_file
from fem_core.errors import FemError
from fem_core.problems.answers import letter_of, parse_answer
from fem_core.problems.numbers import parse_number, write_number
from fem_core.problems.problem import LETTERS, Problem, make_problem
from fem_core.problems.registry import ProblemSet, without_duplicates

_FORMATS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Row:
    """A record and where it stands, for messages."""

    place: str
    record: dict[str, Any]


def load(config: TableProblems, seed: int) -> ProblemSet:
    """Read, map, split and cap.

    Raises:
        FemError: a file, split or column is missing, or a row cannot be read.
    """
    pattern = _compile(config.answer_pattern)
    inputs: dict[str, str] = {}
    notes: list[str] = []
    if config.path is not None:
        pool = _problems(read_file(Path(config.path)), config, pattern)
        inputs["train"] = digest_file(Path(config.path))
        other = None if config.test_path is None else Path(config.test_path)
        test = None if other is None else _problems(read_file(other), config, pattern)
        if other is not None:
            inputs["test"] = digest_file(other)
    else:
        rows, inputs["train"] = _hub_rows(config, config.train_split)
        pool, test = _problems(rows, config, pattern), None
        if config.test_split is not None:
            rows, inputs["test"] = _hub_rows(config, config.test_split)
            test = _problems(rows, config, pattern)
        if config.hub_revision is None:
            notes.append(f"{config.hub}: no problems.hub_revision was named, so what the hub serves may change.")
    pool, more = without_duplicates(pool, "train" if test is not None else "rows")
    notes += more
    if test is None:
        assert config.test is not None
        pool, test, more = split_by_group(pool, config.test, seed)
        notes += more
    else:
        test, more = without_duplicates(test, "test")
        notes += more
    return ProblemSet(_cap(pool, config.train, seed), _cap(test, config.test, seed), inputs, notes)


def split_by_group(pool: Sequence[Problem], test: int, seed: int) -> tuple[list[Problem], list[Problem], list[str]]:
    """Whole groups, in the order of their digests with the seed, go to the test side until it holds ``test`` problems.

    What the last group has too many is cut by ``_cap`` and given to neither side. Returns train, test and notes.
    """
    groups: dict[str, list[Problem]] = {}
    for problem in pool:
        groups.setdefault(problem.group, []).append(problem)
    order = sorted(groups, key=lambda group: digest([seed, group]))
    held: list[Problem] = []
    while order and len(held) < test:
        held += groups[order.pop(0)]
    train = [problem for group in order for problem in groups[group]]
    over = len(held) - test
    if over <= 0:
        return train, held, []
    return train, held, [f"test: {over} problems beyond {test} shared a group with test problems and were left out."]


def read_file(path: Path) -> Iterator[Row]:
    """The rows of a file, by its ending.

    Raises:
        FemError: the file is missing, of another kind, or cannot be read; the message names the line.
    """
    if not path.is_file():
        raise FemError(f"There is no file {str(path)!r}. Name an existing one in problems.path or problems.test_path.")
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in _FORMATS or (kind == ".parquet" and path.suffix == ".gz"):
        raise FemError(f"{path} is none of {', '.join(_FORMATS)} (text also .gz). Convert it to one of them.")
    if kind == ".parquet":
        yield from _parquet(path)
        return
    text = _text(path)
    yield from {".jsonl": _jsonl, ".json": _json, ".csv": _csv}[kind](path, text)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise FemError(f"{path} cannot be read: {error}. Check that the file is complete.") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FemError(f"{path} is not UTF-8 (near line {line}). Save it as UTF-8.") from error


def _jsonl(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FemError(
                    f"{path}, line {number} is not valid JSON: {error}. Mend or remove that line."
                ) from error
            yield _row(f"{path}, line {number}", record)


def _json(path: Path, text: str) -> Iterator[Row]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise FemError(
            f"{path}, line {error.lineno} is not valid JSON: {error.msg}. Mend it; a file with one record on each line "
            "is named .jsonl."
        ) from error
    if not isinstance(records, list):
        raise FemError(f"{path} holds a {type(records).__name__} where a JSON array of records is expected.")
    for number, record in enumerate(records, start=1):
        yield _row(f"{path}, record {number}", record)


def _csv(path: Path, text: str) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for record in reader:
            place = f"{path}, line {reader.line_num}"
            if None in record:
                raise FemError(f"{place} has more fields than the first line names. Quote fields that contain commas.")
            yield Row(place, {key: value for key, value in record.items() if value is not None})
    except csv.Error as error:
        raise FemError(f"{path}, line {reader.reader.line_num} is not valid CSV: {error}. Mend that line.") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise FemError(f"{path} cannot be read as Parquet: {error}. Check that the file is complete.") from error
    number = 0
    for batch in table.to_batches(max_chunksize=1024):
        for record in batch.to_pylist():
            number += 1
            yield Row(f"{path}, row {number}", record)


def _row(place: str, record: Any) -> Row:
    if not isinstance(record, dict):
        raise FemError(f"{place} is a {type(record).__name__} where a record with named columns is expected.")
    return Row(place, record)


def _hub_rows(config: TableProblems, split: str) -> tuple[list[Row], str]:
    """The rows of a hub data set's split, and the digest of their content."""
    import datasets

    name = str(config.hub)
    try:
        data = datasets.load_dataset(name, config.hub_config, split=split, revision=config.hub_revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first = " ".join(str(error).split())[:300]
        raise FemError(
            f"The data set {name!r}, split {split!r}, cannot be loaded: {first}. Check problems.hub, hub_config, "
            "hub_revision and the split's name, and that the hub can be reached."
        ) from error
    sha = hashlib.sha256()
    rows = []
    for number, record in enumerate(data, start=1):
        sha.update(json.dumps(record, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
        rows.append(Row(f"{name}, split {split}, row {number}", dict(record)))
    return rows, sha.hexdigest()


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


def _problems(rows: Iterator[Row] | list[Row], config: TableProblems, pattern: re.Pattern[str] | None) -> list[Problem]:
    return [_problem(row, config, pattern) for row in rows]


def _problem(row: Row, config: TableProblems, pattern: re.Pattern[str] | None) -> Problem:
    question = _string(row, config.question)
    answer = _string(row, config.answer)
    if pattern is not None:
        match = pattern.search(answer)
        if match is None or not (match[1] or "").strip():
            raise FemError(
                f"{row.place}: problems.answer_pattern {pattern.pattern!r} finds nothing in {_shown(answer)}. "
                "Mend the pattern or the row."
            )
        answer = match[1].strip()
    choices = None
    if config.choices is not None:
        labels, choices = _choices(row, config.choices)
        if config.answer_kind == "choice":
            answer = _letter(row, answer, labels, choices)
    if config.answer_kind == "number":
        number = parse_number(answer)
        if number is None:
            raise FemError(
                f"{row.place}: the answer {_shown(answer)} is no number. Mend the row, pick the number with "
                "problems.answer_pattern, or set problems.answer_kind to text."
            )
        answer = write_number(number)
    if "\n" in answer:
        raise FemError(
            f"{row.place}: the answer {_shown(answer)} has several lines, and an answer line holds one. Shorten it, or "
            "pick its part with problems.answer_pattern."
        )
    problem = make_problem(
        question,
        answer,
        config.answer_kind,
        choices=choices,
        rationale=None if config.rationale is None else _string(row, config.rationale),
        group=None if config.group is None else _string(row, config.group),
    )
    if parse_answer(f"Answer: {answer}", problem) is None:
        raise FemError(f"{row.place}: {_shown(answer)} reads as no answer behind 'Answer:'. Mend or remove the row.")
    return problem


def _reach(row: Row, column: str) -> Any:
    """The value of a column; a dotted name reaches into nested records, unless a column has that very name."""
    if column in row.record:
        return row.record[column]
    value: Any = row.record
    for name in column.split("."):
        if not isinstance(value, dict) or name not in value:
            known = ", ".join(map(str, value)) if isinstance(value, dict) else f"a {type(value).__name__}"
            raise FemError(f"{row.place} has no column {column!r}; at {name!r} there is: {known}. Name another column.")
        value = value[name]
    return value


def _string(row: Row, column: str) -> str:
    value = _reach(row, column)
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float) and value.is_integer():
        value = str(int(value))
    elif isinstance(value, (int, float)):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise FemError(f"{row.place}: the column {column!r} is empty. Fill it in or remove the row.")
    if not isinstance(value, str):
        raise FemError(
            f"{row.place}: the column {column!r} is a {type(value).__name__}, not a text. Name another column."
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise FemError(f"{row.place}: the column {column!r} holds half a character ({_shown(value)}). Mend the row.")
    return value.strip()


def _choices(row: Row, column: str) -> tuple[list[str] | None, tuple[str, ...]]:
    """Labels, where the row has them, and texts.

    Takes a list of texts, of records with ``label`` and ``text``, a record of two such lists (as the hub's ARC has it),
    or any of these as JSON text (in CSV).
    """
    value = _reach(row, column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise FemError(
                f'{row.place}: the choices {_shown(value)} are no JSON list. Write them as ["first", "second"].'
            ) from error
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        labels = value.get("label") or [None] * len(value["text"])
        value = [{"label": label, "text": text} for label, text in zip(labels, value["text"], strict=False)]
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        raise FemError(f"{row.place}: {column!r} must be a list of 2 to {len(LETTERS)} choices, not {_shown(value)}.")
    texts = [item.get("text") if isinstance(item, dict) else item for item in value]
    labels = [item.get("label") if isinstance(item, dict) else None for item in value]
    texts = [str(text) if isinstance(text, (int, float)) else text for text in texts]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise FemError(f"{row.place}: a choice in {column!r} has no text: {_shown(value)}. Mend the row.")
    named = [str(label).strip() for label in labels] if all(label is not None for label in labels) else None
    return named, tuple(" ".join(str(text).split()) for text in texts)


def _letter(row: Row, answer: str, labels: list[str] | None, choices: tuple[str, ...]) -> str:
    """The answer as a letter: a label of the row; or a letter, ``answer3``, or a choice's own text."""
    if labels is not None and labels.count(answer) == 1:
        return LETTERS[labels.index(answer)]
    readings = set()
    if len(answer) == 1 and answer.upper() in LETTERS[: len(choices)]:
        readings.add(answer.upper())
    numbered = re.fullmatch(r"answer\s?([0-9]{1,2})", answer, re.IGNORECASE)
    if numbered is not None and 1 <= int(numbered[1]) <= len(choices):
        readings.add(LETTERS[int(numbered[1]) - 1])
    by_text = LETTERS[choices.index(answer)] if choices.count(answer) == 1 else letter_of(answer, choices)
    if by_text is not None:
        readings.add(by_text)
    if len(readings) == 1:
        return readings.pop()
    trouble = "may be any of several of" if readings else "is not among"
    raise FemError(
        f"{row.place}: the answer {_shown(answer)} {trouble} the choices {_shown(list(labels or choices))}. Give the "
        "letter, the choice's label or its text."
    )


def _cap(problems: Sequence[Problem], most: int | None, seed: int) -> list[Problem]:
    """At most ``most`` problems, in an order that depends on the seed and the content alone."""
    return sorted(problems, key=lambda p: digest([seed, p.problem_id]))[:most]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
