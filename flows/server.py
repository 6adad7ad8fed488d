"""What a Prefect server has to hold before runs can be started from it: a work pool, the limit of a device, and the
automation that finds runs whose processes are all gone.

Contract: each function leaves what is there as people have set it, so all may be called again at any time.
"""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from fem_core.errors import FemError
from flows.commands.options import PoolType
from flows.worker import STOPPED

POOLS = Path(__file__).resolve().parents[1] / "deployments" / "pools"
"""The job templates of the pools that start containers."""

ZOMBIES = "fem: a run without a sign of life has crashed"
"""Name of the automation."""

BEATS = 4
"""Heartbeats that a run may miss."""

SELDOM = 180
"""Seconds between the heartbeats of a flow that nobody told otherwise. The automation waits for those, too, since any
flow run on the server may be one: a run is taken for dead after 12 minutes."""

_ENDS = (
    "Completed",
    "Failed",
    "Cancelled",
    "Cancelling",
    "Crashed",
    "Paused",
    "Suspended",
    "AwaitingRetry",
    "Scheduled",
)


async def work_pool(client: PrefectClient, name: str, type_: PoolType, folder: Path) -> bool:
    """The pool that deployments send their runs to; whether it had to be made.

    Args:
        folder: where runs of a ``process`` pool work, so that relative paths in their parameters mean something.

    Raises:
        FemError: there is one of another type.
    """
    try:
        there = await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=name, type=type_, base_job_template=template(type_, folder)))
        return True
    if there.type != type_:
        raise FemError(
            f"The work pool {name!r} on this server has the type {there.type}, not {type_}. Name another with --pool, or "
            f"take it with --pool-type {there.type}."
        )
    return False


def template(type_: PoolType, folder: Path) -> dict[str, Any]:
    """The base job template of a pool."""
    if type_ != "process":
        held: dict[str, Any] = json.loads((POOLS / f"{type_}.json").read_text(encoding="utf-8"))
        return held
    made = ProcessWorker.get_default_base_job_template()
    made["variables"]["properties"]["working_dir"]["default"] = str(folder)
    return made


async def device(client: PrefectClient, name: str, runs: int = 1) -> bool:
    """The limit of runs at a time on a device (flows/device.py); whether it had to be made."""
    try:
        await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=runs))
        return True
    return False


async def zombies(client: PrefectClient) -> bool:
    """The automation that marks a run as crashed whose process and worker are both gone; whether it had to be made.

    Heartbeats may come more often than ``SELDOM``, whatever ``PREFECT_FLOWS_HEARTBEAT_FREQUENCY`` is elsewhere; where
    they come less often, it has to be set here as well.
    """
    if await client.read_automations_by_name(ZOMBIES):
        return False
    every = max(get_current_settings().flows.heartbeat_frequency or SELDOM, SELDOM)
    beat = "prefect.flow-run.heartbeat"
    automation = AutomationCore(
        name=ZOMBIES,
        description=f"No heartbeat for {BEATS * every} s: neither the run's process nor its worker is there any more.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            after={beat},
            expect={beat, STOPPED, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=BEATS * every),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message="No sign of life from the run's process. What is committed is kept: Retry continues from there.",
            )
        ],
    )
    await client.create_automation(automation)
    return True
