"""What the indexes hold: the attempts of an iteration joined with their final verdicts, which of them leak, the problems.

Contract: every row of the artifact is a row here, at the position it has in the store; what is added is derived from the
verdicts, the problems and the run's prompts. Files are verified before they are read, a few at a time, so memory follows
the size of a part file and of the verdicts. DuckDB holds some thousand values of a column at a time, so a text of more
than ``PIECE`` characters is kept in pieces in a table of its own. Leaks take the longest to look for, so they have an
index of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fem_core.browse.index import Cursor
from fem_core.filter.leak import Leaks
from fem_core.filter.verdict import ACCEPTED, LEAKED
from fem_core.problems.answers import parse_answer
from fem_core.problems.problem import Problem
from fem_core.sample.given import GIVEN
from fem_core.schemas import ATTEMPTS, PROBLEMS, VERDICTS
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

VERSION = 2
"""Raised when the same artifacts would be indexed otherwise."""


OWN = ("position", "verdict", "reason", "label", "leak", "question", "iteration", "kind", "more", "text_bytes")
"""Names that are ours: other columns of an artifact with such a name are not shown."""

PIECE = 8192
"""Characters of a text that lies in one piece."""

OVERLAP = 512
"""Characters that a piece has in common with the one after it, so that every word of a search lies whole in one."""

_CHUNK = 50_000
"""Positions at a time while leaks are looked for."""

_MOST_TEXT = 16 * 2**20
"""Bytes of text that are objects of Python or Arrow at a time: a rationale may have a hundred thousand."""


def problems(store: Store, manifest: Manifest, cursor: Cursor, database: str) -> None:
    """``problems``: the columns of ``schemas.PROBLEMS``."""
    columns = ", ".join(f'"{name}"' for name in PROBLEMS.names)
    with _registered(cursor, part=_reader(store, manifest, PROBLEMS)):
        cursor.execute(f"CREATE TABLE {database}.problems AS SELECT {columns} FROM part")


def attempts(
    store: Store,
    manifest: Manifest,
    verdicts: Manifest | None,
    problems: Manifest | None,
    cursor: Cursor,
    database: str,
) -> None:
    """``attempts``: the artifact's columns, and position, verdict, reason, label and text_bytes. Where the text is null, it
    is in ``pieces``: position, piece (from 0) and text, as ``cut`` makes them.

    Args:
        verdicts: the final ones; None where no filter has decided.
    """
    decided = VERDICTS.empty_table() if verdicts is None else store.read_table(verdicts, VERDICTS.names)
    named = ["problem_id", "answer"]
    labels = PROBLEMS.empty_table().select(named) if problems is None else store.read_table(problems, named)
    keys = _keys(decided)

    def judged(table: pa.Table) -> pa.Table:
        found = pc.index_in(_keys(table), value_set=keys)
        known = pc.index_in(table["problem_id"], value_set=labels["problem_id"].combine_chunks())
        sizes = pc.binary_length(table["text"]).cast(pa.int64())
        short = pc.less_equal(pc.utf8_length(table["text"]), PIECE)
        table = table.set_column(
            table.schema.get_field_index("text"), "text", pc.if_else(short, table["text"], pa.scalar(None, pa.string()))
        )
        own = {
            "text_bytes": sizes,
            "verdict": pc.coalesce(decided["verdict"].take(found), table["verdict"]),
            "reason": pc.fill_null(decided["reason"].take(found), ""),
            "label": pc.fill_null(labels["answer"].take(known), ""),
        }
        shown = table.select([name for name in table.column_names if name == "position" or name not in OWN])
        return pa.Table.from_arrays([*own.values(), *shown.columns], names=[*own, *shown.column_names])

    with _registered(cursor, part=_reader(store, manifest, ATTEMPTS, judged)):
        cursor.execute(f"CREATE TABLE {database}.attempts AS SELECT * FROM part")
    cursor.execute(f"CREATE TABLE {database}.pieces (position BIGINT, piece INTEGER, text VARCHAR)")
    if cursor.execute(f"SELECT count(*) FROM {database}.attempts WHERE text IS NULL").fetchall() != [(0,)]:
        with _registered(cursor, part=_reader(store, manifest, ATTEMPTS, _pieces)):
            cursor.execute(f"INSERT INTO {database}.pieces SELECT * FROM part")


def cut(text: str) -> list[str]:
    """The pieces of a long text."""
    return [text[at : at + PIECE + OVERLAP] for at in range(0, len(text), PIECE)]


def joined(pieces: Sequence[str]) -> str:
    """The text that ``cut`` was given."""
    return "".join([*(piece[:PIECE] for piece in pieces[:-1]), *pieces[-1:]])


def whole(cursor: Cursor, index: str, positions: Sequence[int]) -> dict[int, str]:
    """The long ones among the texts in these rows."""
    if not positions:
        return {}
    cursor.execute(
        f"SELECT position, list(text ORDER BY piece) FROM {index}.pieces "
        "WHERE position IN (SELECT unnest(?::BIGINT[])) GROUP BY position",
        [list(positions)],
    )
    return {position: joined(pieces) for position, pieces in cursor.fetchall()}


def _pieces(table: pa.Table) -> pa.Table:
    """The pieces of the long texts of a table."""
    long = table.filter(pc.greater(pc.utf8_length(table["text"]), PIECE)).select(["position", "text"]).to_pylist()
    rows = [
        {"position": row["position"], "piece": n, "text": text}
        for row in long
        for n, text in enumerate(cut(row["text"]))
    ]
    schema = pa.schema([("position", pa.int64()), ("piece", pa.int32()), ("text", pa.string())])
    return pa.Table.from_pylist(rows, schema=schema)


def _keys(table: pa.Table) -> pa.Array:
    """What tells a row of attempts, or of verdicts, from the others."""
    return pc.binary_join_element_wise(table["problem_id"], table["attempt"].cast(pa.string()), ".").combine_chunks()


def leaks(
    index: str, known: Callable[[Iterable[str]], dict[str, Problem]], finder: Leaks, cursor: Cursor, database: str
) -> None:
    """``leaks``: position and leak score of the attempts of an index that are looked at.

    Args:
        index: its database.
        known: the problems with these ids.
    """
    cursor.execute(f"CREATE TABLE {database}.leaks (position BIGINT, leak TINYINT)")
    looked_at = "prompt_kind != ? AND verdict IN (?, ?)"
    values = [GIVEN, ACCEPTED, LEAKED]
    for start, stop in pieces(cursor, index, looked_at, values, _CHUNK):
        found = cursor.execute(
            f"SELECT position, prompt_kind, text, verdict, problem_id FROM {index}.attempts "
            f"WHERE position >= ? AND position < ? AND {looked_at}",
            [start, stop, *values],
        )
        names = ("position", "prompt_kind", "text", "verdict", "problem_id")
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        long = whole(cursor, index, [row["position"] for row in rows if row["text"] is None])
        rows = [row | {"text": long.get(row["position"], row["text"])} for row in rows]
        problems = known({row["problem_id"] for row in rows})
        scores = {
            "position": pa.array([row["position"] for row in rows], pa.int64()),
            "leak": pa.array([leak(finder, row, problems.get(row["problem_id"])) for row in rows], pa.int8()),
        }
        with _registered(cursor, part=pa.table(scores)):
            cursor.execute(f"INSERT INTO {database}.leaks SELECT position, leak FROM part WHERE leak IS NOT NULL")


def pieces(
    cursor: Cursor, index: str, condition: str, values: Sequence[Any], positions: int
) -> Iterator[tuple[int, int]]:
    """Where to cut an index so that what is read at once is small: ranges of positions, in order, without their ends.

    Rows between two ranges do not fit the condition. A range has at most ``_MOST_TEXT`` bytes of text, or one row.
    """
    last = cursor.execute(f"SELECT coalesce(max(position), -1) FROM {index}.attempts").fetchall()[0][0]
    for start in range(0, last + 1, positions):
        sizes = cursor.execute(
            f"SELECT position, text_bytes FROM {index}.attempts WHERE position >= ? AND position < ? AND {condition} "
            "ORDER BY position",
            [start, start + positions, *values],
        ).fetchall()
        held = 0
        for position, size in sizes:
            if held and held + size > _MOST_TEXT:
                yield start, position
                start, held = position, 0
            held += size
        if sizes:
            yield start, sizes[-1][0] + 1


def leak(finder: Leaks, row: Mapping[str, Any], problem: Problem | None) -> int | None:
    """1 where a rationale leaks, 0 where it does not; None for what is not looked at. The same are looked at as by the
    filter: all that is right and was drawn, whatever the prompt.

    Args:
        row: prompt_kind, text and the final verdict of an attempt.
    """
    if row["prompt_kind"] == GIVEN or row["verdict"] not in (ACCEPTED, LEAKED):
        return None
    parsed = None if problem is None else parse_answer(row["text"], problem)
    if problem is None or parsed is None:
        return None
    return int(finder.find(row["text"][: parsed.start], problem) is not None)


def _reader(
    store: Store, manifest: Manifest, schema: pa.Schema, change: Callable[[pa.Table], pa.Table] = lambda table: table
) -> pa.RecordBatchReader:
    """The artifact's rows with their positions, a file at a time; with ``schema`` where it has no file.

    Args:
        change: is applied to the table of each file.
    """
    tables = store.iter_tables(manifest)
    first = next(tables, schema.empty_table())
    places = count()

    def numbered(table: pa.Table) -> pa.Table:
        plain = table.drop_columns([name for name in table.column_names if name == "position"])
        return change(plain.append_column("position", pa.array(islice(places, len(table)), pa.int64())))

    whole = numbered(first)
    batches = (
        batch for table in chain([whole], map(numbered, tables)) for batch in table.cast(whole.schema).to_batches()
    )
    return pa.RecordBatchReader.from_batches(whole.schema, batches)


@contextmanager
def _registered(cursor: Cursor, **tables: pa.Table | pa.RecordBatchReader) -> Iterator[None]:
    """Arrow tables under these names, for a query."""
    for name, table in tables.items():
        cursor.register(name, table)
    try:
        yield
    finally:
        for name in tables:
            cursor.unregister(name)
