"""One iteration's attempts, or predictions, while their indexes are open.

Contract: belongs to one thread. Conditions and orders are SQL of ``filters``, values are always bound.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fem_core.browse.index import Cursor
from fem_core.browse.rows import Attempt
from fem_core.browse.tables import leak, pieces, whole
from fem_core.filter.leak import Leaks
from fem_core.problems.problem import Problem, full_question
from fem_core.schemas import PROBLEMS

_EXPORTED = 8192
"""Positions looked at for one batch of an export, or fewer where texts are long."""

_HIDDEN = ("seed", "text_bytes")
"""Columns that nobody reads."""

_FIELDS = frozenset(field.name for field in fields(Attempt))


class Iteration:
    """See the module."""

    def __init__(
        self, k: int, kind: str, finder: Leaks, cursor: Cursor, index: str, problems: str | None, leaks: str | None
    ) -> None:
        """
        Args:
            finder: looks for leaks under the run's prompts.
            index, problems, leaks: the databases of the indexes; None for one that is not there or not needed.
        """
        self._k, self._kind, self._finder, self._cursor = k, kind, finder, cursor
        self.index, self._problems, self.leaks = index, problems, leaks

    @property
    def has_pieces(self) -> bool:
        """Whether there are texts in pieces."""
        return bool(self._one(f"SELECT count(*) FROM (SELECT 1 FROM {self.index}.pieces LIMIT 1)", []))

    def total(self, condition: str, values: Sequence[Any]) -> int:
        """How many there are."""
        return self._one(f"SELECT count(*) FROM {self.index}.attempts WHERE {condition}", values)

    def positions(self, condition: str, values: Sequence[Any], by: str, limit: int, offset: int) -> list[int]:
        """Where they are, in an order."""
        self._cursor.execute(
            f"SELECT position FROM {self.index}.attempts WHERE {condition} ORDER BY {by} LIMIT ? OFFSET ?",
            [*values, limit, offset],
        )
        return [row[0] for row in self._cursor.fetchall()]

    def at(self, positions: list[int]) -> list[Attempt]:
        """Those in these rows, in this order."""
        found = {row.position: row for row in self.rows("position IN (SELECT unnest(?::BIGINT[]))", [positions])}
        return [found[position] for position in positions if position in found]

    def rows(
        self, condition: str, values: Sequence[Any], problems: Mapping[str, Problem] | None = None
    ) -> list[Attempt]:
        """All of them, in any order.

        Args:
            problems: theirs, where the caller has them.
        """
        rows = _dicts(self._cursor, f"SELECT * FROM {self.index}.attempts WHERE {condition}", values)
        long = whole(self._cursor, self.index, [row["position"] for row in rows if row["text"] is None])
        rows = [row | {"text": long.get(row["position"], row["text"])} for row in rows]
        if problems is None:
            problems = self.known(row["problem_id"] for row in rows)
        return [shown(row, problems.get(row["problem_id"]), self._finder, self._k, self._kind) for row in rows]

    def counts(self, column: str, most: int) -> dict[Any, int]:
        """How many have each value of a column, the most common ones."""
        self._cursor.execute(
            f"SELECT {column}, count(*) AS n FROM {self.index}.attempts GROUP BY {column} ORDER BY n DESC, {column} LIMIT ?",
            [most],
        )
        return dict(self._cursor.fetchall())

    def known(self, ids: Iterable[str]) -> dict[str, Problem]:
        """The problems with these ids, as far as they are in the store."""
        if self._problems is None:
            return {}
        columns = ", ".join(f'"{name}"' for name in PROBLEMS.names)
        asked = f"SELECT {columns} FROM {self._problems}.problems WHERE problem_id IN (SELECT unnest(?::VARCHAR[]))"
        rows = _dicts(self._cursor, asked, [list(set(ids))])
        return {row["problem_id"]: Problem(**row | {"choices": _tuple(row["choices"])}) for row in rows}

    def batches(self, condition: str, values: Sequence[Any]) -> Iterator[pa.RecordBatch]:
        """All of them in the order of positions, with question and leak; an empty batch where there is none."""
        found = False
        for start, stop in pieces(self._cursor, self.index, condition, values, _EXPORTED):
            found = True
            yield self._exported(f"position >= ? AND position < ? AND {condition}", [start, stop, *values])
        if not found:
            yield self._exported("FALSE", [])

    def _exported(self, condition: str, values: Sequence[Any]) -> pa.RecordBatch:
        table = self._cursor.sql(
            f"SELECT * EXCLUDE (text_bytes) FROM {self.index}.attempts WHERE {condition} ORDER BY position",
            params=list(values),
        ).to_arrow_table()
        empty = table.filter(pc.is_null(table["text"]))["position"].to_pylist()
        if empty:
            long, rows = whole(self._cursor, self.index, empty), table.select(["position", "text"]).to_pylist()
            texts = pa.array([long.get(row["position"], row["text"]) for row in rows], pa.string())
            table = table.set_column(table.schema.get_field_index("text"), table.schema.field("text"), texts)
        problems = self.known(table["problem_id"].to_pylist())
        looked = table.select(["problem_id", "prompt_kind", "verdict", "text"]).to_pylist()
        found = [(row, problems.get(row["problem_id"])) for row in looked]
        questions = ["" if problem is None else full_question(problem) for _, problem in found]
        leaks = [leak(self._finder, row, problem) for row, problem in found]
        table = table.append_column("question", pa.array(questions, pa.string()))
        table = table.append_column("leak", pa.array(leaks, pa.int8()))
        return pa.RecordBatch.from_arrays([one.combine_chunks() for one in table.columns], schema=table.schema)

    def _one(self, sql: str, values: Sequence[Any]) -> int:
        return int(self._cursor.execute(sql, list(values)).fetchall()[0][0])


def shown(row: Mapping[str, Any], problem: Problem | None, finder: Leaks, k: int, kind: str) -> Attempt:
    """An attempt as people see it.

    Args:
        row: as the index has it.
    """
    own = {name: value for name, value in row.items() if name in _FIELDS}
    more = {name: value for name, value in row.items() if name not in own and name not in _HIDDEN}
    question = "" if problem is None else full_question(problem)
    return Attempt(**own, iteration=k, kind=kind, leak=leak(finder, row, problem), question=question, more=more)


def _dicts(cursor: Cursor, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    cursor.execute(sql, list(values))
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _tuple(choices: list[str] | None) -> tuple[str, ...] | None:
    return None if choices is None else tuple(choices)
