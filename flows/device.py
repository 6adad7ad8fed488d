"""One run per device: a global concurrency limit of Prefect's that a run holds while it works.

Contract: the worker's environment says which device it works on, ``FEM_DEVICE``; without it nothing is held. A run waits
until the device is free. The slot is a lease of a minute that the run renews: that of a run that was killed comes back
when the lease has run out. A server that is away for longer, or that forgets its leases, does not stop the run that works,
but its slot is lost for the rest of that run: Prefect logs "slots are no longer reserved", and another run may begin on the
same device.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from fem_core.errors import FemError

DEVICE = "FEM_DEVICE"
"""Environment variable that names the limit."""

LEASE = 60.0
"""Seconds that a slot outlives its holder; Prefect allows no less."""


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
    holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(flow_run.id))
    async with concurrency(
        name, lease_duration=LEASE, strict=True, raise_on_lease_renewal_failure=False, holder=holder
    ):
        yield


def _others(limit: int) -> str:
    return "another run works" if limit == 1 else f"{limit} other runs work"
