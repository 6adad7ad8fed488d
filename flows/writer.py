"""A run has one writer: what keeps other processes of this machine, and other machines, off it while a flow works.

Contract: a process that comes second is refused, but for a flow run that was resumed or retried, which waits for its last
process to end. When the lease is lost, the flow ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from fem_core.errors import FemError
from fem_core.store.lease import Lease, LeaseLost, Taken, machine_id, only_process
from tasks import step

UPLOAD_SECONDS = 15.0
"""How long the end of a flow waits for an upload to stop, of the 30 s that a cancelled flow has."""

LOOK_SECONDS = 1.0
"""How often a flow run that waits for its run looks whether it is free."""


@contextlib.asynccontextmanager
async def alone(run: step.Run) -> AsyncIterator[None]:
    """Keep other processes of this machine off the run.

    Raises:
        FemError: another process has the run.
    """
    with contextlib.ExitStack() as held:

        async def take() -> None:
            held.enter_context(only_process(run.store, run.name, run.cache))

        await _patiently(take)
        yield


async def _patiently(take: Callable[[], Awaitable[None]]) -> None:
    """Take the run. A flow run that was resumed or retried waits for it: its last process may not have ended yet.

    Raises:
        Taken: another process has it, and this flow run runs for the first time.
    """
    told = False
    while True:
        try:
            return await take()
        except Taken:
            if not (told or await _again()):
                raise
        if not told:
            get_run_logger().info("Another process, maybe this flow run's last one, still has the run; waiting for it.")
            told = True
        await asyncio.sleep(LOOK_SECONDS)


async def _again() -> bool:
    """Whether this flow run has run before; being resumed does not count in ``run_count``."""
    async with get_client() as client:
        me = await client.read_flow_run(UUID(flow_run.id))
    return me.run_count > 1 or bool(me.empirical_policy.pause_keys)


@contextlib.asynccontextmanager
async def leased(run: step.Run) -> AsyncIterator[None]:
    """Keep other machines off the run; when the lease is lost, what runs inside is cancelled.

    Threads cannot be cancelled: one that uploads stops before its next file, and where it takes longer, the lease is left
    to run out, so that nobody else writes beside it.

    Raises:
        FemError: another process has the run.
    """
    lease = Lease(run.store, run.name, machine_id(run.cache))

    def waiting(seconds: float) -> None:
        note = (
            f"its last process may still be alive on another machine; waiting for a sign of it, {seconds:.0f} s at most"
        )
        step.noted("lease", note)

    await _patiently(lambda: step.in_store_thread(lease.acquire, waiting))
    inside = asyncio.current_task()
    lost: list[FemError] = []

    def still() -> None:
        if lost:
            raise lost[0]
        lease.check()

    run.still = still

    async def keep() -> None:
        while True:
            await asyncio.sleep(lease.every)
            try:
                await step.in_store_thread(lease.renew)
            except LeaseLost as error:
                lost.append(error)
                if inside is not None:
                    inside.cancel()
                return
            except Exception as error:  # noqa: BLE001 (whatever it was, ``renew`` says when it was for too long)
                said = str(error) if isinstance(error, FemError) else type(error).__name__
                get_run_logger().warning("The lease could not be renewed yet: %s", said)

    keeper = asyncio.create_task(keep())
    try:
        yield
    except asyncio.CancelledError:
        if lost:
            raise lost[0] from None
        raise
    finally:
        keeper.cancel()
        if not lost:
            lost.append(FemError(f"The flow of run {run.name!r} has ended, and nothing more is written."))
            if run.uploads:
                await asyncio.wait(run.uploads, timeout=UPLOAD_SECONDS)
            if not run.uploads:
                await step.in_store_thread(lease.release)
