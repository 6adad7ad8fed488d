"""Indexes of a store's tables in a cache beside the reader, so that a page costs milliseconds however large its table.

Contract: an index is a DuckDB file made once from verified bytes and named by the digests of what it was made from, so
it is never out of date, is shared by every store that holds the same content, and may be deleted at any time. Nothing of
it is in the store. DuckDB reaches this folder and nothing else: no other file, no network, no extension.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import duckdb

from fem_core.digest import digest
from fem_core.errors import FemError
from fem_core.store.root import TEMPORARY

_MEMORY = "320MiB"
"""What DuckDB may hold; above it, it spills into the folder."""

_GROUP = 20_480
"""Rows that are compressed together, and have minima and maxima together: of long texts, DuckDB's 122,880 take much memory."""

_ATTACHED = 256
"""Indexes kept open."""

_SUFFIX = ".duckdb"

_ABANDONED = 86_400.0
"""Seconds after which what a process began to make here is taken for left behind: it was killed."""

Cursor: TypeAlias = duckdb.DuckDBPyConnection
Fill = Callable[[Cursor, str], None]
"""Makes the tables of an index: gets a cursor, and the name of the database to make them in."""


class Indexes:
    """The indexes in one folder. Safe from several threads; several processes may share the folder."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """
        Args:
            most_bytes: on the disk; above it, the indexes that were not used for longest go.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.resolve()
        self._most = most_bytes
        self._sweep()
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}
        self._attached: OrderedDict[str, int] = OrderedDict()  # users of each, least recently used first
        self._duckdb = duckdb.connect(":memory:")
        place = _quoted(str(self._folder))
        for setting in (
            f"memory_limit = '{_MEMORY}'",
            f"threads = {min(os.cpu_count() or 1, 4)}",
            f"temp_directory = {_quoted(str(self._folder / f'{TEMPORARY}{uuid4().hex}'))}",
            "python_enable_replacements = false",
            f"allowed_directories = [{place}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            self._duckdb.execute(f"SET {setting}")

    def has(self, *made_from: object) -> bool:
        """Whether the index is there."""
        return self._file(_name(made_from)).is_file()

    @contextmanager
    def opened(self, fill: Fill, *made_from: object) -> Iterator[tuple[Cursor, str]]:
        """A cursor, and the name of the index's database on it; made by ``fill`` where it is not there.

        Args:
            made_from: plain values that say what the index is made from, digests above all.

        Raises:
            FemError: it cannot be made.
        """
        name = _name(made_from)
        with self._told(name):
            self._attach(name, fill)
        cursor = self._duckdb.cursor()
        try:
            with self._told(name):
                yield cursor, quoted_name(name)
        finally:
            cursor.close()
            with self._lock:
                self._attached[name] -= 1

    def close(self) -> None:
        """Give everything back. The files stay."""
        self._duckdb.close()

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise FemError(
                f"The index {self._file(name)} cannot be read ({_first_line(error)}). Delete it: it will be made again."
            ) from error

    def _attach(self, name: str, fill: Fill) -> None:
        with self._lock:
            making = self._making.setdefault(name, threading.Lock())
        with making:
            with self._lock:
                if name in self._attached:
                    self._attached[name] += 1
                    self._attached.move_to_end(name)
                    return
            file = self._file(name)
            if not file.is_file():
                self._make(name, fill)
            try:
                self._open(name)
            except duckdb.Error:  # cut off by a crash, or of another version of DuckDB
                file.unlink(missing_ok=True)
                self._make(name, fill)
                self._open(name)
            with self._lock:
                self._attached[name] = 1
                idle = [other for other, users in self._attached.items() if not users]
                for other in idle[: max(0, len(self._attached) - _ATTACHED)]:
                    del self._attached[other]
                    self._duckdb.cursor().execute(f"DETACH {quoted_name(other)}")

    def _open(self, name: str) -> None:
        with suppress(OSError):
            os.utime(self._file(name))
        self._duckdb.cursor().execute(f"ATTACH {_quoted(str(self._file(name)))} AS {quoted_name(name)} (READ_ONLY)")

    def _make(self, name: str, fill: Fill) -> None:
        """Under another name, then renamed: it appears whole or not at all."""
        temporary = self._folder / f"{TEMPORARY}{uuid4().hex}{_SUFFIX}"
        database, cursor = f"new{uuid4().hex}", self._duckdb.cursor()
        try:
            cursor.execute(f"ATTACH {_quoted(str(temporary))} AS {quoted_name(database)} (ROW_GROUP_SIZE {_GROUP})")
            try:
                fill(cursor, quoted_name(database))
            finally:
                cursor.execute(f"DETACH {quoted_name(database)}")
            self._make_room(temporary.stat().st_size)
            os.rename(temporary, self._file(name))
        except duckdb.Error as error:
            raise FemError(
                f"The tables cannot be indexed in {self._folder} ({_first_line(error)}). Check them with fem audit, and "
                "that the disk has room."
            ) from error
        finally:
            cursor.close()
            for left in (temporary, temporary.with_name(f"{temporary.name}.wal")):
                left.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what processes that were killed have left half made. Folders stay: others may spill into theirs again."""
        for pattern in (f"{TEMPORARY}*{_SUFFIX}*", f"{TEMPORARY}*/*.tmp"):
            for left in self._folder.glob(pattern):
                with suppress(OSError):
                    if time.time() - left.stat().st_mtime > _ABANDONED:
                        left.unlink()

    def _make_room(self, coming: int) -> None:
        """An index that is in use is not readable by its name any more, and by its readers until they let go."""
        there = []
        for file in self._folder.glob(f"*{_SUFFIX}"):
            if not file.name.startswith(TEMPORARY):
                with suppress(FileNotFoundError):
                    there.append((file.stat().st_mtime, file.stat().st_size, file))
        left = self._most - coming - sum(size for _, size, _ in there)
        for _, size, file in sorted(there):
            if left >= 0:
                return
            file.unlink(missing_ok=True)
            left += size

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"


def _name(made_from: tuple[object, ...]) -> str:
    return digest(list(made_from))[:40]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def quoted_name(text: str) -> str:
    """A name in SQL, whatever is in it."""
    return '"' + text.replace('"', '""') + '"'


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
