"""Prefect's server, so that it goes on answering on SQLite: what ``make up`` and the containers start.

``python -m deployments.server start …`` takes what ``prefect server start`` takes. Python 3.11 keeps a statement that has
failed ("database is locked") with its cursor. Freed later by the event loop's thread, it waits for what its connection
does by then; where that waits for another writer, which waits for the event loop, the server answers nobody for a minute.
So a cursor is closed where it has failed.
"""

import sqlite3
import sys
from collections.abc import Callable
from typing import Any

import aiosqlite


def close_cursors_that_fail() -> None:
    """Have aiosqlite close a cursor that has failed, in the thread of its connection, before others get that."""
    run = aiosqlite.Cursor._execute

    async def run_or_close(cursor: aiosqlite.Cursor, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return await run(cursor, call, *args, **kwargs)
        except sqlite3.Error:
            await run(cursor, cursor._cursor.close)
            raise

    aiosqlite.Cursor._execute = run_or_close  # type: ignore[method-assign]


def main() -> None:
    """Do what ``prefect server`` does."""
    close_cursors_that_fail()
    from prefect.cli import app

    sys.argv = ["prefect", "--no-prompt", "server", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
