"""A run that a deployment does, wherever its worker is, while somebody here waits for its end.

Contract: a flow run of the same name and configuration that has not ended is waited for, as whoever asked for it may have
been killed; only without one is another started. The server may be away meanwhile.
"""

import asyncio
from typing import Any

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.deployments.flow_runs import arun_deployment
from prefect.exceptions import ObjectNotFound

from fem_core.config import RunConfig
from fem_core.errors import FemError
from flows import outage

LOOK_SECONDS = 5.0
"""How often it is asked whether the run has ended."""


async def through(deployment: str, config: RunConfig) -> None:
    """Have a deployment do a run, and wait for its end.

    Args:
        deployment: ``flow/name``.

    Raises:
        FemError: there is no such deployment, or the run did not complete.
    """
    asked = {"config": config.model_dump(mode="json")}
    async with get_client() as client:
        try:
            under_way = await _under_way(client, deployment, str(config.name), asked)
            flow_run = under_way or await arun_deployment(
                name=deployment, parameters=asked, flow_run_name=config.name, timeout=0
            )
        except ObjectNotFound as error:
            raise FemError(
                f"There is no deployment {deployment!r} on this Prefect server. Deploy the flow first, or leave "
                "deployment out to run here."
            ) from error
        ended = await _ended(client, flow_run)
    if ended.state is None or not ended.state.is_completed():
        said = "no state" if ended.state is None else f"{ended.state.name}. {ended.state.message or ''}".strip()
        raise FemError(f"The flow run of {config.name} ended as {said} Look at it in the Prefect UI.")


async def _under_way(client: PrefectClient, deployment: str, name: str, asked: dict[str, Any]) -> FlowRun | None:
    found = await client.read_flow_runs(
        deployment_filter=DeploymentFilter(
            id=DeploymentFilterId(any_=[(await client.read_deployment_by_name(deployment)).id])
        ),
        flow_run_filter=FlowRunFilter(
            name=FlowRunFilterName(any_=[name]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))),
        ),
    )
    return next((one for one in found if one.parameters == asked), None)


async def _ended(client: PrefectClient, flow_run: FlowRun) -> FlowRun:
    while True:
        try:
            flow_run = await client.read_flow_run(flow_run.id)
        except httpx.HTTPError as error:
            if not outage.is_away(error):
                raise
            get_run_logger().warning("The server does not say how %s is: %s", flow_run.name, type(error).__name__)
        else:
            if flow_run.state is not None and flow_run.state.is_final():
                return flow_run
        await asyncio.sleep(LOOK_SECONDS)
