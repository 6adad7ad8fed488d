"""A comparison as one Prefect flow: each of its runs by the flow ``fem``, here or through a deployment, then the report.

Contract: the store holds all that counts, so the same parameters again do only what is missing. A run that fails stops
no other. Of runs with the same problems, base model and seed each begins as a fork, at iteration 0, of the one before it
that is most like it, so what has the same step key (problems, base model, its scores, perhaps draws) is referred to and not
made again.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from pydantic import Field

from fem_core.compare.cells import Cell, beside, cells
from fem_core.compare.comparison import Comparison
from fem_core.compare.report import markdown, write
from fem_core.compare.results import DELETED, FINISHED, Results, results, state
from fem_core.config import RunConfig
from fem_core.store import fork, layout
from fem_core.store.deletion import deleted_at
from fem_core.store.patience import WORKING
from fem_core.store.store import Store
from flows import worker
from flows.credentials import provide
from flows.deployed import through
from flows.ending import sentence
from flows.fem import fem
from flows.plan import begin
from tasks import step
from tasks.page import artifact_key
from tasks.prepare import run_record

Did = Callable[[RunConfig], Awaitable[Any]]
"""Does one run to its end."""


class RunsFailed(Exception):
    """Some runs of a comparison failed; the others are done. ``failures`` says why, by run."""

    def __init__(self, failures: dict[str, BaseException]) -> None:
        self.failures = failures
        super().__init__("; ".join(f"{name}: {sentence(error)}" for name, error in failures.items()))


@flow(name="compare", flow_run_name="{comparison.name}", validate_parameters=True)
async def compare(
    comparison: Comparison, concurrency: Annotated[int, Field(ge=1)] | None = None
) -> dict[str, Any] | State[Any]:
    """Do the runs of a comparison that are not finished, and report on all.

    Args:
        concurrency: runs at a time; the comparison's own number by default.

    Returns:
        State by run, and where the report lies; where the comparison was cancelled, that state.

    Raises:
        RunsFailed: after all others are done and reported.
    """
    worker.outlive()
    async with worker.heeded():
        return await _compare(comparison, concurrency)
    return worker.cancelled()


async def _compare(comparison: Comparison, concurrency: int | None) -> dict[str, Any]:
    found = cells(comparison)
    await provide(found[0].config)
    store = await step.in_store_thread(Store.open, found[0].config.store, patience=WORKING)
    did = fem if comparison.deployment is None else partial(through, comparison.deployment)
    failures: dict[str, BaseException] = {}
    first = beside(found)
    at_a_time = concurrency or comparison.concurrency

    async def one(cell: Cell) -> None:
        try:
            place = f"run {found.index(cell) + 1} of {len(found)}"
            await _run(store, cell, first[cell.name], did, place, alone=at_a_time == 1)
        except Exception as error:  # noqa: BLE001 (told at the end; no other run depends on this one)
            get_run_logger().exception("%s failed", cell.name)
            step.noted(cell.name, f"failed: {sentence(error)}")
            failures[cell.name] = error

    await in_order(found, at_a_time, one)
    place, came = await step.in_store_thread(report, store, comparison, found)
    await acreate_markdown_artifact(
        markdown(came), key=artifact_key(comparison.name), description=f"Comparison {comparison.name}"
    )
    if failures:
        raise RunsFailed(failures)
    return {"report": place, "runs": dict(came.states)}


async def in_order(found: Sequence[Cell], at_a_time: int, one: Callable[[Cell], Awaitable[None]]) -> None:
    """Call ``one`` for every run, in order and so many at a time; a run waits for the end of the one that it begins beside."""
    first, waiting, ended, changed = beside(found), list(found), set[str](), asyncio.Condition()

    def ready() -> Cell | None:
        return next((cell for cell in waiting if first[cell.name].name in (cell.name, *ended)), None)

    async def work() -> None:
        while True:
            async with changed:
                await changed.wait_for(lambda: not waiting or ready() is not None)
                if (cell := ready()) is None:
                    return
                waiting.remove(cell)
            await one(cell)
            async with changed:
                ended.add(cell.name)
                changed.notify_all()

    await asyncio.gather(*(work() for _ in range(at_a_time)))


def report(store: Store, comparison: Comparison, found: Sequence[Cell]) -> tuple[str, Results]:
    """Read what the runs came to, and write the report; where it lies, and what it says."""
    came = results(store, comparison, found)
    return write(store, came), came


async def _run(store: Store, cell: Cell, first: Cell, did: Did, place: str, *, alone: bool = True) -> None:
    so_far = await step.in_store_thread(state, store, cell)
    # Scores alone do: a run that ended at its report is begun again, and makes that.
    if so_far == FINISHED and await step.in_store_thread(store.manifest, layout.report(cell.name)) is not None:
        step.ended(cell.name, "already done")
        return
    if so_far == DELETED:
        step.noted(cell.name, f"marked deleted, so it is left out; fem delete {cell.name} --undo brings it back")
        return
    step.LISTENER.get().noted(cell.name, place)
    await step.in_store_thread(begin_beside, store, cell, first, check=did is fem)
    with contextlib.nullcontext() if alone else step.named(cell.name):
        await did(cell.config)


def begin_beside(store: Store, cell: Cell, first: Cell, *, check: bool = True) -> None:
    """Begin a run as a fork of the one that it begins beside, where that one is there and is what the comparison says.

    Args:
        check: as the run itself would, with its base model; False where the model need not be on this machine.

    Raises:
        FemError: the run cannot be done; it has not begun then.
    """
    theirs = store.run(first.name)
    if cell.name == first.name or store.run(cell.name) is not None or theirs is None:
        return
    if theirs.digest == first.config.digest() and deleted_at(store, first.name) is None:
        parent = fork.begin(store, first.name, None)
        if check:
            begin(cell.config, store, parent)
        else:
            store.create_run(run_record(cell.name, cell.config, parent))
