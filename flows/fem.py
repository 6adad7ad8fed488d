"""The EM loop as one Prefect flow: prepare, then per iteration sample, filter, train, evaluate.

Contract: the parameters are the whole input; the store holds the whole output, so running it again with the same
parameters continues where the store ends. All steps are tasks of this one flow (a retried parent would rerun the
finished tasks of subflows). Evaluation of theta^(k) and sampling of iteration k+1 share one engine and run together.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from fem_core.config import RunConfig
from fem_core.errors import FemError
from fem_core.model import default_cache
from fem_core.sample.client import EngineHost
from fem_core.sample.job import host_settings
from fem_core.sample.spawn import HostProcess, spawn
from fem_core.store import fork, layout
from fem_core.store.manifest import Manifest
from fem_core.store.patience import WORKING
from fem_core.store.store import Store
from flows import approval, device, worker, writer
from flows.credentials import provide
from flows.naming import flow_run_name, run_name
from tasks import page, step
from tasks.bound import bound
from tasks.evaluate import evaluate
from tasks.filter import filter_
from tasks.prepare import Prepared, prepare
from tasks.report import report
from tasks.sample import sample
from tasks.train import dismiss, train

AHEAD: ContextVar[HostProcess | None] = ContextVar("ahead", default=None)
"""An engine host that was started before the flow, for its first engine."""


@flow(name="fem", flow_run_name=flow_run_name, validate_parameters=True)
async def fem(config: RunConfig, pause_after: tuple[int, ...] = (), hold: bool = False) -> dict[str, Any] | State[Any]:
    """Run filtered EM (arXiv 2512.20169) for ``config.iterations`` iterations.

    Args:
        config: The whole run. Fields that are left out have the values of docs/configuration.md.
        pause_after: Iterations after which the run is suspended until a person resumes it in the Prefect UI.
        hold: Whether the run is suspended likewise before it trains on less than 5 % of its problems, or after accuracy has
            fallen twice in a row.

    Returns:
        The run's name and the digest of its last checkpoint; where the run was cancelled, that state.
    """
    approval.check(pause_after, config.iterations, hold=hold)
    worker.outlive()
    async with worker.heeded():
        return await _run(config, pause_after, hold)
    return worker.cancelled()


async def _run(config: RunConfig, pause_after: Collection[int], hold: bool) -> dict[str, Any]:
    await provide(config)
    store = await step.in_store_thread(Store.open, config.store, patience=WORKING)
    run = step.Run(name=run_name(config), config=config, store=store, cache=default_cache())
    async with writer.alone(run), device.held(), writer.leased(run):
        prepared = await prepare(run)
        async with _host(run, prepared):
            try:
                checkpoint = await _iterate(run, prepared, pause_after, hold)
            finally:
                await dismiss(run)
        await report(run)
        await page.show(run)
    return {"run": run.name, "checkpoint": checkpoint.artifact, "digest": checkpoint.digest}


async def _iterate(run: step.Run, prepared: Prepared, pause_after: Collection[int], hold: bool) -> Manifest:
    """theta^(0) to theta^(K); a fork has the first of them from its parent, and scores them anew where it asks otherwise."""
    config, prompts = run.config, run.config.prompts
    checkpoint = prepared.model
    parent = fork.parent_of(run.record)
    scoring = _scoring(run, 0, prepared, checkpoint)
    if config.evaluate.exemplar_baseline and prompts.sample_exemplars != prompts.train_exemplars:
        scoring.append(evaluate(run, 0, prepared.train, prepared.test, checkpoint, prompts.sample_exemplars))
    for k in range(1, config.iterations + 1):
        if parent is not None and k <= parent.iteration:
            await _together(*scoring)  # one after the other: each has weights of its own
            await run.forget(checkpoint)
            checkpoint = await step.in_store_thread(inherited, run.store, run.name, k)
            scoring = _scoring(run, k, prepared, checkpoint)
            continue
        rationales, *_ = await _together(_expect(run, k, prepared.train, checkpoint), *scoring, page.show(run))
        if hold:
            await approval.hold(run, k, rationales)
        start = prepared.model if config.train.init == "base" else checkpoint
        trained, *_ = await _together(train(run, k, rationales, start), page.show(run, k))
        await run.forget(checkpoint)
        checkpoint = trained
        scoring = _scoring(run, k, prepared, checkpoint)
        if k in pause_after:
            await _together(*scoring)
            scoring = []
            await page.show(run)
            await approval.ask(run, k)
    await _together(*scoring)
    await run.forget(checkpoint)
    return checkpoint


def _scoring(run: step.Run, k: int, prepared: Prepared, checkpoint: Manifest) -> list[Coroutine[Any, Any, Manifest]]:
    """What is measured of theta^(k), to be done side by side."""
    config = run.config
    scoring = [evaluate(run, k, prepared.train, prepared.test, checkpoint, config.prompts.train_exemplars)]
    if config.evaluate.bound is not None:
        scoring.append(bound(run, k, prepared.train, checkpoint))
    return scoring


def inherited(store: Store, name: str, k: int) -> Manifest:
    """The checkpoint of an iteration that a fork stands on; ``prepare`` has committed the reference."""
    checkpoint = store.manifest(layout.iteration(name, k, "checkpoint"))
    if checkpoint is None:
        raise RuntimeError(f"iteration {k} of run {name} was not inherited")
    return checkpoint


async def _expect(run: step.Run, k: int, problems: Manifest, checkpoint: Manifest) -> Manifest:
    """The E-step of iteration k: rationales drawn with theta^(k-1)."""
    attempts = await sample(run, k, problems, checkpoint)
    return await filter_(run, k, problems, attempts)


async def _together(*steps: Coroutine[Any, Any, Manifest | None]) -> list[Manifest]:
    """Await steps, and what is shown of them, side by side; when one fails, let the others finish, so that their work is kept.

    Of several failures, what the user can mend is told first: the others may only follow from it.
    """
    results = await asyncio.gather(*steps, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in sorted(failures, key=lambda failure: not isinstance(failure, FemError)):
        raise failure
    return [result for result in results if isinstance(result, Manifest)]


@contextlib.asynccontextmanager
async def _host(run: step.Run, prepared: Prepared) -> AsyncIterator[None]:
    """The engine host of a run, started by the first job that needs it and ended with the flow."""
    if run.model is None:
        raise RuntimeError("the run is not prepared")
    settings = host_settings(run.config, run.model, prepared.prompts.stats["longest_sequence"])
    async with EngineHost(settings, step.engine_log(run.cache, run.name), AHEAD.get()) as host:
        run.host = host
        yield


@contextlib.contextmanager
def engine_ahead(name: str) -> Iterator[None]:
    """Have a run's engine host import what it needs while Prefect and the run get ready."""
    process = spawn(step.engine_log(default_cache(), name))
    AHEAD.set(process)
    try:
        yield
    finally:
        AHEAD.set(None)
        process.end()
