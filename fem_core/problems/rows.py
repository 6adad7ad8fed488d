"""Rows of files and of hub data sets, what stands in them, and their division into train and test.

Contract: an unreadable file, column or row is a ``FemError`` that names its place; nothing is skipped in silence. Which
problems are chosen and how one file is split follow from the seed and the problems' content, not from their order.
"""

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fem_core.config_problems import PublishedProblems, TableProblems
from fem_core.digest import digest, digest_file
from fem_core.errors import FemError
from fem_core.problems.answers import letter_of
from fem_core.problems.problem import LETTERS, Problem

_FORMATS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Row:
    """A record and where it stands, for messages."""

    place: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What a section ``problems`` names."""

    train: Iterable[Row]
    """The rows to train on; all rows where ``test`` is None."""
    test: Iterable[Row] | None
    """The rows to test on, where they are apart."""
    inputs: dict[str, str]
    """Digest of each side that was read."""
    notes: list[str]
    """What a reader of the run should know of it."""


def read(config: TableProblems | PublishedProblems) -> Source:
    """Open what ``path`` and ``test_path``, or ``hub`` and its splits, name.

    Raises:
        FemError: a file, data set or split is missing or cannot be read; of files also while their rows are taken.
    """
    if config.path is not None:
        files = {"train": config.path} | ({} if config.test_path is None else {"test": config.test_path})
        inputs = {side: digest_file(Path(file)) for side, file in files.items() if Path(file).is_file()}
        test = None if config.test_path is None else read_file(Path(config.test_path))
        return Source(read_file(Path(config.path)), test, inputs, [])
    splits = {"train": str(config.train_split)} | ({} if config.test_split is None else {"test": config.test_split})
    rows = {side: hub_rows(config, split) for side, split in splits.items()}
    notes = []
    if config.hub_revision is None or config.hub_revision.startswith("refs/"):
        notes.append(f"{config.hub}: problems.hub_revision names no commit, so what the hub serves may change.")
    inputs = {side: sha for side, (_, sha) in rows.items()}
    return Source(rows["train"][0], rows["test"][0] if "test" in rows else None, inputs, notes)


def split_by_group(pool: Sequence[Problem], test: int, seed: int) -> tuple[list[Problem], list[Problem], list[str]]:
    """Whole groups, in the order of their digests with the seed, go to the test side until it holds ``test`` problems.

    What the last group has too many is cut by ``cap`` and given to neither side. Returns train, test and notes.
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


def hub_rows(config: TableProblems | PublishedProblems, split: str) -> tuple[list[Row], str]:
    """The rows of a hub data set's split, and the digest of their content."""
    import datasets

    name = str(config.hub)
    try:
        if _is_converted(config):
            files = f"{_converted(config)}/{config.hub_config or 'default'}/{split}/*.parquet"
            data = datasets.load_dataset("parquet", data_files={split: files}, split=split)
        else:
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


def _is_converted(config: TableProblems | PublishedProblems) -> bool:
    """Whether the revision is that branch of the hub's own, or a commit of it."""
    if config.hub_revision is None:
        return False
    of_the_set = isinstance(config, PublishedProblems) and config.CONVERTED
    return of_the_set or config.hub_revision.startswith("refs/convert/")


def _converted(config: TableProblems | PublishedProblems) -> str:
    """Where the hub keeps the Parquet files that it made of a data set which is a script: no script is run."""
    name, revision = str(config.hub), str(config.hub_revision)
    return name if Path(name).is_dir() else f"hf://datasets/{name}@{revision.replace('/', '%2F')}"


def reach(row: Row, column: str) -> Any:
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


def is_empty(row: Row, column: str) -> bool:
    """Whether a column that exists holds nothing."""
    value = reach(row, column)
    return value is None or (isinstance(value, str) and not value.strip())


def string_in(row: Row, column: str) -> str:
    """The text of a column that may not be empty; numbers and truth values as text.

    Raises:
        FemError: it is empty, missing, or no text.
    """
    if is_empty(row, column):
        raise FemError(f"{row.place}: the column {column!r} is empty. Fill it in or remove the row.")
    value = reach(row, column)
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float) and value.is_integer():
        value = str(int(value))
    elif isinstance(value, (int, float)):
        value = str(value)
    if not isinstance(value, str):
        raise FemError(
            f"{row.place}: the column {column!r} is a {type(value).__name__}, not a text. Name another column."
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise FemError(f"{row.place}: the column {column!r} holds half a character ({shown(value)}). Mend the row.")
    return value.strip()


def choices_in(row: Row, column: str) -> tuple[list[str] | None, tuple[str, ...]]:
    """Labels, where the row has them, and texts.

    Takes a list of texts, of records with ``label`` and ``text``, a record of two such lists (as the hub's ARC has it),
    or any of these as JSON text (in CSV).
    """
    value = reach(row, column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise FemError(
                f'{row.place}: the choices {shown(value)} are no JSON list. Write them as ["first", "second"].'
            ) from error
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        labels = value.get("label") or [None] * len(value["text"])
        value = [{"label": label, "text": text} for label, text in zip(labels, value["text"], strict=False)]
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        raise FemError(f"{row.place}: {column!r} must be a list of 2 to {len(LETTERS)} choices, not {shown(value)}.")
    texts = [item.get("text") if isinstance(item, dict) else item for item in value]
    labels = [item.get("label") if isinstance(item, dict) else None for item in value]
    texts = [str(text) if isinstance(text, (int, float)) else text for text in texts]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise FemError(f"{row.place}: a choice in {column!r} has no text: {shown(value)}. Mend the row.")
    named = [str(label).strip() for label in labels] if all(label is not None for label in labels) else None
    return named, tuple(" ".join(str(text).split()) for text in texts)


def letter_in(row: Row, answer: str, labels: list[str] | None, choices: tuple[str, ...]) -> str:
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
        f"{row.place}: the answer {shown(answer)} {trouble} the choices {shown(list(labels or choices))}. Give the "
        "letter, the choice's label or its text."
    )


def cap(problems: Sequence[Problem], most: int | None, seed: int) -> list[Problem]:
    """At most ``most`` problems, in an order that depends on the seed and the content alone."""
    return sorted(problems, key=lambda p: digest([seed, p.problem_id]))[:most]


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
