"""Prefect's server, so that it goes on answering on SQLite: what ``make up`` and the containers start.

``python -m deployments.server start …`` takes what ``prefect server start`` takes. Two things differ on SQLite; with
PostgreSQL there are none.

A transaction takes the lock for writing when it begins. Prefect's own take it with their first write, and SQLite refuses it
at once ("database is locked") where another has written since they read: on a busy machine a request may fail so each time
that it is tried.

A cursor is closed where it has failed. Python 3.11 keeps the failed statement with its cursor. Freed later by the event
loop's thread, it waits for what its connection does by then; where that waits for another writer, which waits for the event
loop, the server answers nobody for a minute.
"""

import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
from prefect.server.database import configurations
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction


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


def lock_before_reading() -> None:
    """Have Prefect's transactions on SQLite wait for the lock when they begin, up to the 60 s of its busy timeout.

    What is begun within one, such as a session that reads, begins as SQLite does by itself: it must not wait for the lock
    that the one around it has.
    """

    @asynccontextmanager
    async def begin(
        _: configurations.AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncIterator[AsyncSessionTransaction]:
        async with session.begin() as transaction:
            before = configurations.SQLITE_BEGIN_MODE.set("IMMEDIATE")
            try:
                await session.connection()
            finally:
                configurations.SQLITE_BEGIN_MODE.reset(before)
            yield transaction

    configurations.AioSqliteConfiguration.begin_transaction = begin  # type: ignore[method-assign,assignment]


def main() -> None:
    """Do what ``prefect server`` does."""
    close_cursors_that_fail()
    lock_before_reading()
    from prefect.cli import app

    sys.argv = ["prefect", "--no-prompt", "server", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
