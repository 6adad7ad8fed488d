"""One run per device: a global concurrency limit of Prefect's that a run holds while it works.

Contract: the worker's environment says which device it works on, ``FEM_DEVICE``; without it nothing is held. A run waits
until the device is free, also through an outage of the server, and leaves at once when it is cancelled. The slot is a lease
of a minute that the run renews: that of a run that was killed comes back when the lease has run out. A server that is away
for longer, or that forgets its leases, does not stop the run that works, but its slot is lost for the rest of that run:
Prefect logs "slots are no longer reserved", and another run may begin on the same device.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError, concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from fem_core.errors import FemError
from flows import outage

DEVICE = "FEM_DEVICE"
"""Environment variable that names the limit."""

LEASE = 60.0
"""Seconds that a slot outlives its holder; Prefect allows no less."""

LOOK_SECONDS = 5.0
"""How often a run that waits for the device looks whether it is free."""


@asynccontextmanager
async def held() -> AsyncIterator[None]:
    """Hold this worker's device.

    Raises:
        FemError: the server has no such limit.
    """
    name = os.environ.get(DEVICE)
    if not name:
        yield
        return
    async with get_client() as client:
        try:
            limit = await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound as error:
            raise FemError(
                f"{DEVICE} is {name!r}, and the Prefect server has no concurrency limit of that name. Create it: "
                f"prefect global-concurrency-limit create {name} --limit 1"
            ) from error
    if limit.active_slots >= limit.limit:
        get_run_logger().info("waiting for the device %s, on which %s", name, _others(limit.limit))
    async with AsyncExitStack() as stack:
        while not await _taken(name, stack):
            await asyncio.sleep(LOOK_SECONDS)
        yield


async def _taken(name: str, stack: AsyncExitStack) -> bool:
    """Try once to hold the device until the stack is left; not where it is taken, or where the server is away or busy.

    Prefect's own wait goes on in a thread that a cancelled run's process would wait for.
    """
    slot = concurrency(
        name,
        max_retries=0,
        lease_duration=LEASE,
        strict=True,
        raise_on_lease_renewal_failure=False,
        holder=ConcurrencyLeaseHolder(type="flow_run", id=UUID(flow_run.id)),
    )
    try:
        await stack.enter_async_context(slot)
    except ConcurrencySlotAcquisitionError as error:
        why = error.__cause__
        taken = isinstance(why, httpx.HTTPStatusError) and why.response.status_code == httpx.codes.LOCKED
        if not (taken or outage.is_away(why)):
            raise
        get_run_logger().debug("The device %s is not to be had yet: %s", name, why)
        return False
    return True


def _others(limit: int) -> str:
    return "another run works" if limit == 1 else f"{limit} other runs work"
