"""What is kept for a moment so that many readers do not ask the store for the same again.

Contract: safe from several threads. Records never change, so what is remembered of them is at worst no longer there.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from fem_core.errors import StoreAway
from fem_core.store import layout
from fem_core.store.manifest import Manifest, RunRecord
from fem_core.store.root import Root
from fem_core.store.store import Store

_FRESH = 20.0
"""Seconds for which a record is not read again. It never changes, but its folder may be moved away."""

_SHARED = 1.0
"""Seconds for which readers share what a run's page and the list of runs show."""


class RememberingStore(Store):
    """A store that does not read a record again at once."""

    def __init__(self, root: Root) -> None:
        super().__init__(root)
        self._records: dict[str, tuple[float, Manifest | RunRecord]] = {}

    def manifest(self, artifact: str) -> Manifest | None:
        """As the store has it, or had it a moment ago."""
        found = self._remembered(
            f"{artifact}/{layout.MANIFEST}", lambda: super(RememberingStore, self).manifest(artifact)
        )
        return found if isinstance(found, Manifest) else None

    def run(self, name: str) -> RunRecord | None:
        """As the store has it, or had it a moment ago."""
        found = self._remembered(layout.run_json(name), lambda: super(RememberingStore, self).run(name))
        return found if isinstance(found, RunRecord) else None

    def _remembered(self, path: str, read: Callable[[], Manifest | RunRecord | None]) -> Manifest | RunRecord | None:
        known = self._records.get(path)
        if known is not None and time.monotonic() - known[0] < _FRESH:
            return known[1]
        found = read()
        if found is None:
            self._records.pop(path, None)
        else:
            if known is not None and known[1] == found:
                found = known[1]  # one object, whoever holds it
            self._records[path] = (time.monotonic(), found)
        return found


class Shared:
    """Values that are made anew when they are older than ``_SHARED``; who asks meanwhile waits for the one being made.

    A store that is away is shared as well: else each who waits would wait for it again, one after the other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[object, threading.Lock] = {}
        self._values: dict[object, tuple[float, Any]] = {}

    def get(self, of: object, make: Callable[[], Any]) -> Any:
        """The value. Raises what ``make`` raises."""
        with self._lock:
            lock = self._locks.setdefault(of, threading.Lock())
        with lock:
            known = self._values.get(of)
            if known is None or time.monotonic() - known[0] >= _SHARED:
                try:
                    made = make()
                except StoreAway as error:
                    made = error
                known = self._values[of] = (time.monotonic(), made)
            if isinstance(known[1], StoreAway):
                raise StoreAway(str(known[1]))
            return known[1]


class Once:
    """Values that several threads need, each made by the first of them."""

    def __init__(self) -> None:
        self._lock, self._values = threading.Lock(), dict[object, Any]()

    def get(self, of: object, make: Callable[[], Any]) -> Any:
        """The value, made where it is not there."""
        with self._lock:
            if of not in self._values:
                self._values[of] = make()
            return self._values[of]
