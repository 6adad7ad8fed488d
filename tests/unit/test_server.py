"""What the server that `make up` starts does otherwise than Prefect's own."""

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.server import close_cursors_that_fail, lock_before_reading


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


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AioSqliteConfiguration:
    """Prefect's way to a database on SQLite, as the server that `make up` starts changes it."""
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    lock_before_reading()
    return AioSqliteConfiguration(f"sqlite+aiosqlite:///{tmp_path / 'server.db'}")


@asynccontextmanager
async def sessions(database: AioSqliteConfiguration, number: int) -> AsyncIterator[list[AsyncSession]]:
    """Sessions on a table that counts."""
    engine = await database.engine()
    made = [await database.session(engine) for _ in range(number)]
    async with database.begin_transaction(made[0]):
        await made[0].execute(sa.text("CREATE TABLE t (x)"))
        await made[0].execute(sa.text("INSERT INTO t VALUES (0)"))
    yield made
    for session in made:
        await session.close()
    await engine.dispose()


async def count(database: AioSqliteConfiguration, session: AsyncSession) -> int:
    """Read, think and write, as a request does."""
    async with database.begin_transaction(session):
        (x,) = (await session.execute(sa.text("SELECT x FROM t"))).one()
        await asyncio.sleep(0.1)
        await session.execute(sa.text("UPDATE t SET x = :x"), {"x": x + 1})
    return int(x)


def test_requests_that_read_before_they_write_wait_for_each_other(database: AioSqliteConfiguration) -> None:
    async def all_at_once() -> list[int]:
        async with sessions(database, 8) as made:
            return await asyncio.gather(*(count(database, session) for session in made))

    assert sorted(asyncio.run(all_at_once())) == list(range(8))


def test_what_is_read_within_a_transaction_does_not_wait_for_its_lock(database: AioSqliteConfiguration) -> None:
    async def nested() -> list[int]:
        async with sessions(database, 2) as (writes, reads):
            async with database.begin_transaction(writes):
                await writes.execute(sa.text("UPDATE t SET x = 7"))
                async with asyncio.timeout(10):
                    before = (await reads.execute(sa.text("SELECT x FROM t"))).scalar_one()
                await reads.rollback()
            return [before, (await reads.execute(sa.text("SELECT x FROM t"))).scalar_one()]

    assert asyncio.run(nested()) == [0, 7]
