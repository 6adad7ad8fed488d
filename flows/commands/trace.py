"""`fem trace`: what trained a checkpoint."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from flows.commands.options import DEFAULT_STORE, StoreUrl

if TYPE_CHECKING:
    from fem_core.audit.trace import Counts

TABLE_ROWS = 50
"""Rows that the table shows when nobody says how many."""


def trace(
    checkpoint: str,
    *,
    store: StoreUrl = None,
    format: Literal["table", "json", "csv"] = "table",
    limit: int | None = None,
) -> None:
    """Say which problems and attempts, drawn by which model, hinted or not, trained a checkpoint.

    Follows the checkpoint to all those that it started from. The counts per iteration are of all rows, whatever the
    limit; with csv they go to stderr.

    Parameters
    ----------
    checkpoint
        ``demo@3`` for that of iteration 3, or its path in the store.
    store
        Folder or URL of the store; ./fem-store by default.
    format
        A table, one JSON object, or CSV.
    limit
        Rows to show; 50 in a table and all elsewhere by default.
    """
    from fem_core.audit.lineage import find
    from fem_core.audit.trace import iterations
    from fem_core.audit.trace import trace as traced
    from fem_core.store.store import Store

    opened = Store.open(store or DEFAULT_STORE, check=False)
    manifest = find(opened, checkpoint)
    counts: list[Counts] = []
    rows = traced(opened, iterations(opened, manifest), counts)
    if format == "table":
        _table(rows, counts, TABLE_ROWS if limit is None else limit)
    elif format == "csv":
        _csv(rows, counts, limit)
    else:
        _json(rows, counts, limit, {"checkpoint": manifest.artifact, "digest": manifest.digest})


def _table(rows: Iterator[dict[str, Any]], counts: "list[Counts]", limit: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for header in ("iteration", "problem", "attempt", "prompt", "drawn by", "weights", "seed", "question"):
        table.add_column(header, no_wrap=True, justify="right" if header in ("attempt", "seed") else "left")
    for row in islice(rows, limit):
        shown = row | {"drawn_by_digest": row["drawn_by_digest"][:12]}
        table.add_row(*(Text(str(value)) for value in shown.values()))
    more = sum(1 for _ in rows)
    Console(width=max(Console().width, 220), highlight=False).print(table)
    if more:
        print(f"… and {more} more rows; --limit or --format csv shows them.")
    print("\n" + "\n".join(_counted(counts)))


def _csv(rows: Iterator[dict[str, Any]], counts: "list[Counts]", limit: int | None) -> None:
    """A question that begins like a formula gets a leading apostrophe, or a spreadsheet would run it."""
    from fem_core.audit.trace import COLUMNS

    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in islice(rows, limit):
        question = row["question"]
        writer.writerow(row | {"question": f"'{question}" if question.startswith(("=", "+", "-", "@")) else question})
    for _ in rows:
        pass
    print("\n".join(_counted(counts)), file=sys.stderr)


def _json(rows: Iterator[dict[str, Any]], counts: "list[Counts]", limit: int | None, head: dict[str, str]) -> None:
    print(json.dumps(head)[:-1] + ', "rows": [', end="")
    for i, row in enumerate(islice(rows, limit)):
        print(("," if i else "") + "\n" + json.dumps(row), end="")
    for _ in rows:
        pass
    print('\n], "iterations": ' + json.dumps([asdict(count) for count in counts]) + "}")


def _counted(counts: "list[Counts]") -> list[str]:
    if not counts:
        return ["This is the base model: no training row made it."]
    return [
        f"iteration {one.iteration}: {one.rows} rows of {one.problems} problems, "
        + (
            f"{one.kinds.get('plain', 0)} plain and {one.kinds.get('hinted', 0)} hinted, "
            f"drawn by {one.drawn_by} ({one.drawn_by_digest[:12]})"
            if one.drawn_by
            else "given, not drawn"
        )
        for one in counts
    ]
