"""What the server that `make up` starts does otherwise than Prefect's own."""

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import pytest

from deployments.server import close_cursors_that_fail


@asynccontextmanager
async def connected(file: Path) -> AsyncIterator[aiosqlite.Connection]:
    """As Prefect has its connections."""
    async with aiosqlite.connect(file, isolation_level=None) as connection:
        for pragma in ("journal_mode = WAL", "busy_timeout = 30000"):
            await connection.execute(f"PRAGMA {pragma}")
        yield connection


def test_an_error_that_is_freed_while_a_writer_waits_does_not_hold_up_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection fails, is used again by a writer that waits for another one, and then the error is freed."""
    monkeypatch.setattr(aiosqlite.Cursor, "_execute", aiosqlite.Cursor._execute)
    close_cursors_that_fail()

    async def sequence(one: aiosqlite.Connection, other: aiosqlite.Connection) -> list[int]:
        await one.execute("CREATE TABLE t (x)")
        await other.execute("BEGIN DEFERRED")
        await other.execute_fetchall("SELECT * FROM t")
        await one.execute("INSERT INTO t VALUES (1)")
        failed = await other.cursor()
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            await failed.execute("INSERT INTO t VALUES (2)")
        await other.rollback()

        await one.execute("BEGIN IMMEDIATE")
        await one.execute("INSERT INTO t VALUES (3)")
        writes = asyncio.create_task(other.execute("INSERT INTO t VALUES (4)"))
        await asyncio.sleep(0.5)  # it has begun to wait
        del failed
        gc.collect()
        await one.commit()
        await writes
        return [x for (x,) in await one.execute_fetchall("SELECT x FROM t")]

    async def both() -> list[int]:
        file = tmp_path / "server.db"
        async with connected(file) as one, connected(file) as other:
            return await sequence(one, other)

    assert asyncio.run(both()) == [1, 3, 4]
