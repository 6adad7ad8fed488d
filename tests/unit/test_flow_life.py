"""What flows do about workers that die, and the question that a person is asked between iterations."""

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from made_run import made_config, make_run
from prefect.logging import disable_run_logger

from fem_core.errors import FemError
from fem_core.store.lease import Lease, Taken
from fem_core.store.store import Store
from flows import approval, writer
from tasks import step

TALKS = """
import sys
from prefect.logging.configuration import setup_logging
from prefect.logging import get_logger
from flows import worker
setup_logging()
log = get_logger("fem")
if sys.argv[1] == "outlives":
    worker.outlive()
sys.stdin.read()
for n in range(3):
    log.warning("line %d", n)
open(sys.argv[2], "w").write("went on")
"""


@pytest.mark.parametrize("how", ["outlives", "as it is"])
def test_a_log_that_nobody_reads_does_not_end_a_flow(tmp_path: Path, how: str) -> None:
    """The worker reads it through a pipe. Where the second case goes on as well, ``outlive`` is not needed any more."""
    mark = tmp_path / "mark"
    child = subprocess.Popen(
        [sys.executable, "-c", TALKS, how, str(mark)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdout.close()
    child.stdin.close()
    child.wait(120)
    assert mark.exists() == (how == "outlives")


def test_a_pause_that_cannot_be_is_refused_before_anything_is_done() -> None:
    approval.check((), 5)
    for k in (0, 3):
        with pytest.raises(FemError, match=f"pause_after names iteration {k}, .* 1 to 2. Name one of these."):
            approval.check((1, k), 3)
    with pytest.raises(FemError, match=r"^pause_after needs a deployment, .* or leave pause_after out\.$"):
        approval.check((1,), 3)
    with pytest.raises(FemError, match=r"^hold needs a deployment, .* or leave hold out\.$"):
        approval.check((), 3, hold=True)


def test_a_person_is_asked_with_the_draws_in_sight(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, iterations=1)
    asked = approval.question(store, "made", 1, "Go on?")
    assert asked.startswith("**Go on?**") and "| accepted |" in asked and "| 1 | " in asked
    assert approval.begun(store, "made", 1) and not approval.begun(store, "made", 2)


def test_a_person_is_asked_when_little_is_used_or_accuracy_keeps_falling() -> None:
    assert approval.doubts(0.05, [0.2, 0.5, 0.4]) == approval.doubts(1.0, []) == []
    low, falling = approval.doubts(0.0499, [0.2, 0.5, 0.4, 0.3])
    assert low == "Its utilization is 4.99 %, below 5 %."
    assert falling == "Accuracy fell 2 times in a row, from 0.500 to 0.400 to 0.300."


def test_a_lease_that_could_not_be_renewed_once_is_renewed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rights that were gone for a moment, or a disk that was full, end neither the run nor its lease."""
    monkeypatch.setitem(Lease.__init__.__kwdefaults__, "seconds", 1.5)  # type: ignore[arg-type]
    store = Store.open(str(tmp_path / "store"))
    run = step.Run("run", made_config(), store, tmp_path / "cache")
    renew, errors = Lease.renew, [FemError("may not be written with your rights"), OSError(28, "no space left")]

    def fails_first(lease: Lease) -> None:
        if errors:
            raise errors.pop(0)
        renew(lease)

    monkeypatch.setattr(Lease, "renew", fails_first)

    async def works() -> None:
        async with writer.leased(run):
            await asyncio.sleep(3)
            other = Lease(store, "run", "another machine", seconds=1.5)
            with pytest.raises(Taken, match="it has just renewed its lease"):
                await asyncio.to_thread(other.acquire)

    with disable_run_logger():
        asyncio.run(works())


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_an_upload_that_outlives_its_cancelled_flow_meets_no_other_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, at_once: bool
) -> None:
    """It ends before its next file, and where it does not end soon the lease is left to run out; also where a signal ends
    the event loop, which cancels all tasks at once."""
    monkeypatch.setattr(writer, "UPLOAD_SECONDS", 1.0)
    store = Store.open(str(tmp_path / "store"))
    run = step.Run("run", made_config(), store, tmp_path / "cache")
    (tmp_path / "checkpoint").mkdir()
    for name in "ab":
        (tmp_path / "checkpoint" / name).write_text(name)
    put, began, ended = store.root.put, threading.Event(), threading.Event()

    def slow(path: str, source: Path) -> None:
        began.set()
        time.sleep(seconds)
        put(path, source)
        ended.set()

    monkeypatch.setattr(store.root, "put", slow)
    checkpoint, lease = "runs/run/iteration=001/checkpoint", "runs/run/lease"
    unheard: list[dict[str, Any]] = []

    async def works() -> None:
        async with writer.leased(run):
            await run.put(checkpoint, tmp_path / "checkpoint")

    async def cancelled() -> list[str]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        flow = asyncio.create_task(works())
        await asyncio.to_thread(began.wait)
        for task in asyncio.all_tasks() - {asyncio.current_task()} if at_once else (flow,):
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flow
        return store.root.children(lease)

    with disable_run_logger():
        left = asyncio.run(cancelled())
    assert bool(left) == (seconds > 1) and not unheard
    assert ended.wait(10)
    time.sleep(0.2)
    assert list(store.root.files(checkpoint)) == ["a"]
