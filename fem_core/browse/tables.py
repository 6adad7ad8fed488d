"""What the indexes hold: the attempts of an iteration joined with their final verdicts, and the problems.

Contract: every row of the artifact is a row here, at the position it has in the store; what is added is derived from the
verdicts, the problems and the run's prompts. Files are verified before they are read, one at a time, so memory follows
the size of a part file and of the verdicts.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from fem_core.browse.index import Cursor, quoted_name
from fem_core.config import PromptsConfig
from fem_core.filter.leak import Leaks
from fem_core.filter.verdict import ACCEPTED, LEAKED
from fem_core.problems.answers import parse_answer
from fem_core.problems.problem import Problem, from_table, full_question
from fem_core.schemas import ATTEMPTS, VERDICTS
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

VERSION = 1
"""Raised when the same artifacts would be indexed otherwise."""

HINTED = "hinted"
"""The prompt kind that can leak."""

OWN = ("position", "verdict", "reason", "label", "leak", "question", "iteration", "kind", "more")
"""Names that are ours: other columns of an artifact with such a name are not shown."""


def problems(store: Store, manifest: Manifest, cursor: Cursor, database: str) -> None:
    """``problems``: position, problem_id, question (with its choices) and label, y*."""
    cursor.execute(
        f"CREATE TABLE {database}.problems (position BIGINT, problem_id VARCHAR, question VARCHAR, label VARCHAR)"
    )
    start = 0
    for table in store.iter_tables(manifest):
        found = from_table(table)
        rows = pa.table(
            {
                "position": pa.array(range(start, start + len(found)), pa.int64()),
                "problem_id": pa.array([one.problem_id for one in found], pa.string()),
                "question": pa.array([full_question(one) for one in found], pa.string()),
                "label": pa.array([one.answer for one in found], pa.string()),
            }
        )
        with _registered(cursor, part=rows):
            cursor.execute(f"INSERT INTO {database}.problems SELECT * FROM part")
        start += len(found)


def attempts(
    store: Store,
    manifest: Manifest,
    verdicts: Manifest | None,
    problems: Manifest | None,
    config: Mapping[str, Any],
    cursor: Cursor,
    database: str,
) -> None:
    """``attempts``: the artifact's columns, and position, verdict, reason, label and leak.

    Args:
        verdicts: the final ones; None where no filter has decided.
        config: the run's configuration, for its prompts.
    """
    known = {} if problems is None else {one.problem_id: one for one in from_table(store.read_table(problems))}
    beside = {
        "decided": VERDICTS.empty_table() if verdicts is None else store.read_table(verdicts, VERDICTS.names),
        "labels": pa.table(
            {
                "problem_id": pa.array(list(known), pa.string()),
                "label": pa.array([one.answer for one in known.values()], pa.string()),
            }
        ),
    }
    leaks = Leaks(PromptsConfig.model_validate(config["prompts"]))
    start, parts = 0, store.iter_tables(manifest) if manifest.files else iter([ATTEMPTS.empty_table()])
    for n, table in enumerate(parts):
        positions = pa.array(range(start, start + len(table)), pa.int64())
        shown = table.drop_columns([name for name in OWN if name in table.column_names and name != "verdict"])
        with _registered(cursor, part=shown.append_column("position", positions), **beside):
            names = ("position", "prompt_kind", "text", "verdict", "problem_id")
            found = [dict(zip(names, row, strict=True)) for row in cursor.execute(_LOOKED_AT).fetchall()]
            looked = {
                "position": pa.array([row["position"] for row in found], pa.int64()),
                "leak": pa.array([leak(leaks, row, known.get(row["problem_id"])) for row in found], pa.int8()),
            }
            columns = ", ".join(f"p.{quoted_name(name)}" for name in shown.column_names if name != "verdict")
            with _registered(cursor, looked=pa.table(looked)):
                target = f"INSERT INTO {database}.attempts BY NAME" if n else f"CREATE TABLE {database}.attempts AS"
                cursor.execute(f"{target} SELECT {_JUDGED}, {columns} {_FROM} ORDER BY p.position")
        start += len(table)


_DECIDED = "part p LEFT JOIN decided d ON d.problem_id = p.problem_id AND d.attempt = p.attempt"
_FROM = (
    f"FROM {_DECIDED} LEFT JOIN labels l ON l.problem_id = p.problem_id LEFT JOIN looked k ON k.position = p.position"
)
_JUDGED = (
    "p.position AS position, coalesce(d.verdict, p.verdict) AS verdict, coalesce(d.reason, '') AS reason, "
    "coalesce(l.label, '') AS label, k.leak AS leak"
)
_LOOKED_AT = (
    "SELECT p.position, p.prompt_kind, p.text, coalesce(d.verdict, p.verdict) AS verdict, p.problem_id "
    f"FROM {_DECIDED} WHERE p.prompt_kind = '{HINTED}' AND coalesce(d.verdict, p.verdict) IN ('{ACCEPTED}', '{LEAKED}')"
)


def leak(leaks: Leaks, row: Mapping[str, Any], problem: Problem | None) -> int | None:
    """1 where a rationale leaks, 0 where it does not; None for what is not looked at.

    Args:
        row: prompt_kind, text and the final verdict of an attempt.
    """
    if row["prompt_kind"] != HINTED or row["verdict"] not in (ACCEPTED, LEAKED):
        return None
    parsed = None if problem is None else parse_answer(row["text"], problem)
    if problem is None or parsed is None:
        return None
    return int(leaks.find(row["text"][: parsed.start], problem) is not None)


@contextmanager
def _registered(cursor: Cursor, **tables: pa.Table) -> Iterator[None]:
    """Arrow tables under these names, for a query."""
    for name, table in tables.items():
        cursor.register(name, table)
    try:
        yield
    finally:
        for name in tables:
            cursor.unregister(name)
