"""What a flow does for itself where its worker cannot: live on without it, end when it is cancelled, and say when it has
stopped for a person.

Contract: a worker that is there has the first say. One that is gone, that lost sight of the server for a while, or that
never was (``fem run``) neither takes the flow with it nor leaves a cancelled run working.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import Pause
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.runtime import flow_run
from prefect.states import Cancelled

from tasks import announce

LOOK_SECONDS = 5.0
"""How often a flow looks whether it was cancelled."""

WORKER_SECONDS = 10.0
"""How long its worker has to end it, from when it has seen so."""


STOPPED = "fem.run.stopped"
"""The event of a flow that is suspended and has come to its end: the last sign of life until it is resumed."""

KEPT = "Cancelled. What is committed is kept: Retry continues from there, and so does fem resume for a run."


def cancelled() -> State[Any]:
    """What a flow ends as when it has ended itself."""
    return Cancelled(message=KEPT)


@contextlib.asynccontextmanager
async def heeded() -> AsyncIterator[None]:
    """End what runs inside some seconds after the flow run is cancelled in the UI; the caller then returns.

    Where the flow run is suspended, heartbeats go on while what runs inside ends. The event ``STOPPED`` comes after them,
    so that nobody waits for more.
    """
    inside, told = asyncio.current_task(), False

    async def look() -> None:
        nonlocal told
        seen: float | None = None
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                async with get_client() as client:
                    state = (await client.read_flow_run(UUID(flow_run.id))).state
            except Exception as error:  # noqa: BLE001 (a server that is away must not end the run)
                get_run_logger().debug("The flow run's state could not be read: %s", type(error).__name__)
                continue
            if state is None or not (state.is_cancelling() or state.is_cancelled()):
                seen = None
            elif seen is None:
                seen = time.monotonic()
            elif time.monotonic() - seen >= WORKER_SECONDS and inside is not None:
                told = True
                inside.cancel()
                return

    looking = asyncio.create_task(look())
    try:
        yield
    except asyncio.CancelledError:
        if not told or inside is None:
            raise
        inside.uncancel()
        get_run_logger().warning(KEPT)
    except Pause:
        me = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"}
        await announce.tell("The event of the stop", announce.SERVER, lambda: emit_event(STOPPED, resource=me))
        raise
    finally:
        looking.cancel()


def outlive() -> None:
    """Let the log go nowhere when the worker, which reads it through a pipe, is killed; it would end this process."""
    for handler in _handlers():
        if isinstance(handler, PrefectConsoleHandler):
            console = handler.console

            def fall_silent(console: object = console) -> None:
                console.quiet = True  # type: ignore[attr-defined]

            console.on_broken_pipe = fall_silent  # type: ignore[method-assign]


def _handlers() -> Iterable[logging.Handler]:
    known = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    return [handler for one in known if isinstance(one, logging.Logger) for handler in one.handlers]
