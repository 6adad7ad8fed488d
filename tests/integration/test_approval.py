"""A flow run that waits for a person, on a real Prefect server: what is asked again, and what a run waits for."""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from made_run import made_config, make_run
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.input.actions import adelete_flow_run_input
from prefect.states import AwaitingRetry
from prefect.testing.utilities import prefect_test_harness

from fem_core.store import layout, lease
from fem_core.store.lease import Lease, LeaseLost, Taken, only_process
from fem_core.store.store import Store
from flows import approval
from flows.writer import alone, leased
from tasks import step

CRASH = "the process dies here"

LEASE = 2.0
"""Seconds that a lease outlives its holder, in place of three minutes."""


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def run(tmp_path: Path) -> step.Run:
    """Two of three iterations are sampled, and the first is trained."""
    store = Store.open(str(tmp_path / "store"))
    config = made_config(iterations=3)
    make_run(store, config, iterations=2)
    shutil.rmtree(tmp_path / "store" / layout.iteration("made", 2, "checkpoint"))
    return step.Run("made", config, store, tmp_path / "cache")


Body = Callable[[], Awaitable[Any]]


async def deployed(body: Body) -> tuple[Any, UUID]:
    """A flow run of a deployment, as a worker gets it."""

    @flow(name="asks")
    async def asks() -> None:
        await body()

    async with get_client() as client:
        deployment = await client.create_deployment(await client.create_flow(asks), "asks")
        return asks, (await client.create_flow_run_from_deployment(deployment)).id


async def process(asks: Any, run: UUID) -> str:
    """What a worker's process does with a flow run; the name of the state that it leaves."""
    async with get_client() as client:
        with contextlib.suppress(Pause):
            await run_flow_async(asks, flow_run=await client.read_flow_run(run), return_type="state")
        return str((await client.read_flow_run(run)).state.name)  # type: ignore[union-attr]


async def resume(run: UUID, note: str = "") -> None:
    async with get_client() as client:
        await client.resume_flow_run(run, run_input={"note": note} if note else {})


async def retry(run: UUID) -> None:
    """Without ``force``, so that the server forgets which suspensions there were."""
    async with get_client() as client:
        await client.set_flow_run_state(run, AwaitingRetry())


def test_a_question_is_asked_until_it_is_answered_and_then_not_again(
    prefect_server: None, run: step.Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rationales = run.store.manifest(layout.iteration("made", 2, "rationales"))
    assert rationales is not None
    few = rationales.model_copy(update={"stats": {**rationales.stats, "utilization": 0.01}})

    async def body() -> None:
        for k in (1, 2):  # the first is trained
            await approval.hold(run, k, few)
            await approval.ask(run, k)
        raise RuntimeError(CRASH)

    async def sequence() -> None:
        asks, id_ = await deployed(body)
        assert await process(asks, id_) == "Suspended"
        await resume(id_, "well")
        assert await process(asks, id_) == "Suspended"
        assert "hold-2 was approved: well" in caplog.text
        await resume(id_)
        assert await process(asks, id_) == "Failed"
        assert "after-2 was approved." in caplog.text
        await retry(id_)
        assert await process(asks, id_) == "Failed", "what was approved is not asked again"
        await adelete_flow_run_input(key="hold-2-approved", flow_run_id=id_)  # as if it had died just before
        await retry(id_)
        assert await process(asks, id_) == "Suspended"
        await resume(id_)
        assert await process(asks, id_) == "Failed"
        assert CRASH in caplog.text

    asyncio.run(sequence())


async def retried(asks: Any, id_: UUID, caplog: pytest.LogCaptureFixture) -> "asyncio.Task[str]":
    """A process with the retry of a flow run, as soon as it says that it waits."""
    await retry(id_)
    waiting = asyncio.create_task(process(asks, id_))
    while "waiting for it" not in caplog.text:
        assert not waiting.done()
        await asyncio.sleep(0.1)
    return waiting


def test_a_flow_run_waits_for_its_last_process_and_a_new_one_is_refused(
    prefect_server: None, run: step.Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last one may have left the server's sight, by Resume or Retry, and not yet ended."""
    caplog.set_level(logging.INFO)
    begun: list[str] = []

    async def body() -> None:
        try:
            async with alone(run):
                begun.append("alone")
        except Taken:
            begun.append("refused")
            raise

    async def sequence() -> None:
        asks, id_ = await deployed(body)
        assert await process(asks, id_) == "Failed" and begun == ["refused"]
        waiting = await retried(asks, id_, caplog)
        held.__exit__(None, None, None)
        assert await waiting == "Completed" and begun == ["refused", "alone"]

    held = only_process(run.store, run.name, run.cache)
    held.__enter__()
    asyncio.run(sequence())


def test_a_retried_run_waits_until_another_machines_lease_has_run_out(
    prefect_server: None, run: step.Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new flow run is refused while the other machine renews its lease; a retried one waits until that falls silent."""
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(Lease.__init__.__kwdefaults__, "seconds", LEASE)  # type: ignore[arg-type]
    other, works, begun = Lease(run.store, run.name, "another machine", seconds=600), [True], list[str]()

    def look(seconds: float) -> None:
        if works:
            other.renew()
        time.sleep(seconds)

    monkeypatch.setattr(lease, "time", SimpleNamespace(**vars(time) | {"sleep": look}))

    async def body() -> None:
        try:
            async with leased(run):
                with pytest.raises(LeaseLost):
                    other.renew()
                begun.append("leased")
        except Taken:
            begun.append("refused")
            raise

    async def sequence() -> None:
        other.acquire()
        asks, id_ = await deployed(body)
        assert await process(asks, id_) == "Failed" and begun == ["refused"]
        waiting = await retried(asks, id_, caplog)
        works.clear()
        assert await waiting == "Completed" and begun == ["refused", "leased"]

    asyncio.run(sequence())
    assert f"waiting for a sign of it, {LEASE:.0f} s at most" in caplog.text
