"""Who may write a run: one process at a time, whatever machine it is on.

Contract: a lease is a row of small objects ``runs/<run>/lease/<number>.json``, made with create-if-absent; the highest
number counts. Its holder renews it by making the next one, so a holder that was taken for dead finds out at its next
renewal and stops. A lease is taken over when its holder is known to be dead (it ran on this machine and has left its
lock) or has not renewed for ``seconds``, measured here: clocks of two machines are compared only by more than
``CLOCKS``. Manifests would be safe without it (first writer wins); the lease keeps two runs from drawing the same
problems twice and from writing into one checkpoint.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from fem_core.digest import digest
from fem_core.errors import FemError
from fem_core.store import layout
from fem_core.store.store import Store

SECONDS = float(os.environ.get("FEM_LEASE_SECONDS", "180"))
"""How long a lease holds without renewal; longer than a run waits for a store that is away."""
CLOCKS = 600.0
"""By how many seconds the clocks of two machines may differ."""


def _now() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Taken(FemError):
    """Another process works on the run."""


class LeaseLost(FemError):
    """Another process has taken the run over."""


class Lease:
    """One process's right to write one run."""

    def __init__(self, store: Store, run: str, machine: str, *, seconds: float = SECONDS) -> None:
        """
        Args:
            machine: ``machine_id`` of this machine; the caller holds the run's lock on it.
        """
        self._store = store
        self._folder = layout.lease(run)
        self._run = run
        self._machine = machine
        self._seconds = seconds
        self._holder = uuid4().hex
        self._number = 0
        self._renewed = 0.0

    @property
    def every(self) -> float:
        """Seconds between renewals."""
        return self._seconds / 6

    def acquire(self, waiting: Callable[[float], None] = lambda seconds: None) -> None:
        """Take the run; where its last holder may be alive, wait until it renews (then leave) or falls silent.

        Args:
            waiting: is told how many seconds this may take at most.

        Raises:
            Taken: another process is working on the run.
        """
        number, held = self._newest()
        if held is not None and held["machine"] != self._machine and time.time() < held["until"] + CLOCKS:
            waiting(self._seconds)
            self._watch(number)
        if not self._take(number + 1):
            raise self._taken()

    def renew(self) -> None:
        """Prolong the lease.

        Raises:
            LeaseLost: another process has the run now, or may have: the store was away for longer than the lease.
        """
        self.check()
        if not self._take(self._number + 1):
            raise self._lost("has")

    def check(self) -> None:
        """See, without asking the store, that the lease has not run out.

        Raises:
            LeaseLost: another process may have the run now.
        """
        if _now() - self._renewed > self._seconds:
            raise self._lost("may have")

    def release(self) -> None:
        """Give the run back. A lease that cannot be removed runs out by itself."""
        with suppress(Exception):
            self._store.root.remove(self._path(self._number))

    def _watch(self, number: int) -> None:
        """Return when lease ``number`` was not renewed for its whole time."""
        deadline = time.monotonic() + self._seconds
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self.every))
            newest, held = self._newest()
            if held is None:
                return  # its holder has given it back
            if newest != number:
                raise self._taken()

    def _take(self, number: int) -> bool:
        now = time.time()
        record = {"holder": self._holder, "machine": self._machine, "until": now + self._seconds}
        made = self._store.root.create(self._path(number), json.dumps(record).encode())
        if not made and self._newest()[1] != record:  # the answer to our own request may have been lost
            return False
        numbers = self._numbers()
        if max(numbers, default=number) > number:  # we have slept through another's renewals, which removed ours
            self._remove(number)
            return False
        self._number, self._renewed = number, _now()
        for older in numbers:
            if older < number:
                self._remove(older)
        return True

    def _remove(self, number: int) -> None:
        with suppress(FileNotFoundError):
            self._store.root.remove(self._path(number))

    def _newest(self) -> tuple[int, dict[str, Any] | None]:
        for number in reversed(self._numbers()):
            try:
                held: dict[str, Any] = json.loads(self._store.root.read(self._path(number)))
            except FileNotFoundError:
                continue  # renewed or given back meanwhile
            return number, held
        return 0, None

    def _numbers(self) -> list[int]:
        names = self._store.root.children(self._folder)  # with other writers' unfinished files
        return sorted(int(name[:9]) for name in names if re.fullmatch(r"\d{9}\.json", name))

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:09d}.json"

    def _lost(self, has: str) -> LeaseLost:
        return LeaseLost(
            f"Another process {has} taken over run {self._run!r}, as this one did not reach the store for "
            f"{_now() - self._renewed:.0f} s. What is committed is kept; let the other one finish, or run again."
        )

    def _taken(self) -> Taken:
        return Taken(
            f"Another process works on run {self._run!r} in {self._store.url}: it has just renewed its lease. Let it "
            "finish, or write to another run or store."
        )


@contextmanager
def only_process(store: Store, run: str, cache: Path) -> Iterator[None]:
    """Keep other processes of this machine off the run; the lock goes with the process, however that ends.

    Raises:
        Taken: another process works on this run.
    """
    locks = cache / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{digest([store.url, run])[:32]}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise Taken(
            f"Another process works on run {run!r} in {store.url}. Let it finish, or write to another run or store."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def held(store: Store, run: str, cache: Path, waiting: Callable[[float], None]) -> Iterator[Callable[[], None]]:
    """Lock and lease of a run, renewed by a thread, for what writes it without a flow.

    Args:
        waiting: as for ``Lease.acquire``.

    Yields:
        What to call now and then: it raises ``LeaseLost`` when another process has the run.

    Raises:
        Taken: another process works on this run.
    """
    with only_process(store, run, cache):
        lease, lost, done = Lease(store, run, machine_id(cache)), list[LeaseLost](), threading.Event()
        lease.acquire(waiting)

        def keep() -> None:
            while not lost and not done.wait(lease.every):
                try:
                    lease.renew()
                except LeaseLost as error:
                    lost.append(error)
                except Exception:  # noqa: BLE001 (whatever it was, ``renew`` says when it was for too long)
                    continue

        def still() -> None:
            if lost:
                raise lost[0]

        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            yield still
        finally:
            done.set()
            keeper.join()
            if not lost:
                lease.release()


def machine_id(cache: Path) -> str:
    """What tells this machine, as long as it is up, from others: neither a host's name nor an address.

    Args:
        cache: the folder that also holds the locks of runs.
    """
    file = cache / "machine-id"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        new = cache / f"machine-id.{uuid4().hex}"
        new.write_text(uuid4().hex)
        with suppress(FileExistsError):
            os.link(new, file)
        new.unlink()
    boot = Path("/proc/sys/kernel/random/boot_id")
    return digest([file.read_text(), boot.read_text() if boot.is_file() else ""])[:32]
