"""One process at a time writes a run, on one machine or several."""

import threading
import time
from pathlib import Path

import pytest

from fem_core.errors import FemError
from fem_core.store.lease import CLOCKS, Lease, LeaseLost, machine_id
from fem_core.store.store import Store


def lease(store: Store, machine: str, seconds: float = 30.0) -> Lease:
    return Lease(store, "demo", machine, seconds=seconds)


def test_of_many_that_begin_at_once_one_gets_the_run(real_store: Store) -> None:
    barrier, got = threading.Barrier(8), []

    def begin(n: int) -> None:
        one = lease(real_store, f"machine {n}", seconds=9.0)
        barrier.wait()
        try:
            one.acquire()
            got.append(one)
            for _ in range(8):
                time.sleep(0.3)
                one.renew()
        except FemError:
            pass

    threads = [threading.Thread(target=begin, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_holder_that_renews_keeps_others_off(real_store: Store) -> None:
    holder = lease(real_store, "a", seconds=6.0)
    holder.acquire()
    told: list[float] = []
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(holder.every):
            holder.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(FemError, match=r"Another process works on run 'demo'.*Let it finish"):
            lease(real_store, "b", seconds=6.0).acquire(told.append)
    finally:
        stop.set()
        thread.join()
    assert told == [6.0]


def test_a_silent_holder_is_replaced_and_finds_out(real_store: Store) -> None:
    dead = lease(real_store, "a", seconds=2.0)
    dead.acquire()
    heir = lease(real_store, "b", seconds=2.0)
    began = time.monotonic()
    heir.acquire()
    assert time.monotonic() - began >= 2.0
    with pytest.raises(LeaseLost, match="taken over run 'demo'"):
        dead.renew()
    heir.renew()


def test_a_holder_that_was_overtaken_before_its_time_finds_out_too(real_store: Store) -> None:
    first = lease(real_store, "a")
    first.acquire()
    lease(real_store, "a").acquire()
    with pytest.raises(LeaseLost, match="has taken over"):
        first.renew()


def test_a_holder_that_slept_through_its_heirs_renewals_finds_out_too(real_store: Store) -> None:
    """Its clock has stood still, and the heir has removed the numbers that it tries."""
    sleeps = lease(real_store, "a")
    sleeps.acquire()
    heir = lease(real_store, "b", seconds=1.0)
    heir.acquire()
    for _ in range(3):
        heir.renew()
    with pytest.raises(LeaseLost, match="has taken over"):
        sleeps.renew()
    heir.renew()
    assert real_store.root.children("runs/demo/lease") == ["000000006.json"]


def test_a_process_that_died_on_this_machine_is_not_waited_for(real_store: Store) -> None:
    lease(real_store, "a").acquire()
    told: list[float] = []
    lease(real_store, "a").acquire(told.append)
    assert told == []


def test_a_lease_that_ran_out_long_ago_is_not_waited_for(real_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease(real_store, "a").acquire()
    told: list[float] = []
    later = time.time() + CLOCKS + 31
    monkeypatch.setattr("fem_core.store.lease.time.time", lambda: later)
    lease(real_store, "b").acquire(told.append)
    assert told == []


def test_a_lease_that_was_given_back_leaves_nothing(real_store: Store) -> None:
    one = lease(real_store, "a")
    one.acquire()
    one.renew()
    assert real_store.root.children("runs/demo/lease") == ["000000002.json"]
    one.release()
    assert real_store.root.children("runs/demo/lease") == []
    assert real_store.runs() == [] and real_store.artifacts("demo") == []


def test_the_machine_is_told_by_its_cache_and_not_by_its_name(tmp_path: Path) -> None:
    assert machine_id(tmp_path / "a") == machine_id(tmp_path / "a") != machine_id(tmp_path / "b")
