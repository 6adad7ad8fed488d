"""A run that a deployment does, on a real Prefect server; its worker is played through the API."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import httpx
import pytest
from made_run import made_config
from place import ask, speaking_to
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.logging import disable_run_logger

from fem_core.errors import FemError
from flows import deployed
from flows.deployed import through

pytestmark = pytest.mark.slow

CONFIG = made_config(name="deployed")


@flow(name="plays-fem")
def plays(config: dict[str, Any]) -> None:
    """Never run."""


@pytest.fixture
def deployment(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(deployed, "LOOK_SECONDS", 0.2)
    with speaking_to(prefect_server):
        plays.to_deployment("here").apply()
    return "plays-fem/here"


def runs(api: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(api, "/flow_runs/filter", {"flows": {"name": {"any_": ["plays-fem"]}}})
    return found


async def ends(api: str, waits: Coroutine[Any, Any, None], state: str) -> None:
    """Set the run that is waited for to this state, once it is there."""
    waiting = asyncio.create_task(waits)
    while not (open_ := [one for one in runs(api) if one["state_type"] == "SCHEDULED"]) and not waiting.done():
        await asyncio.sleep(0.2)
    await asyncio.sleep(1)
    assert not waiting.done()
    for one in open_:
        ask(api, f"/flow_runs/{one['id']}/set_state", {"state": {"type": state}, "force": True})
    await waiting


def test_a_run_is_waited_for_by_who_comes_second_and_through_an_outage(
    prefect_server: str, deployment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, errors = PrefectClient.read_flow_run, [httpx.ConnectError("nobody there")]

    async def fails_first(client: PrefectClient, id_: Any) -> Any:
        if errors:
            raise errors.pop()
        return await reads(client, id_)

    monkeypatch.setattr(PrefectClient, "read_flow_run", fails_first)

    async def twice() -> None:
        killed = asyncio.create_task(through(deployment, CONFIG))
        while not runs(prefect_server):
            await asyncio.sleep(0.2)
        killed.cancel()
        await asyncio.wait([killed])
        await ends(prefect_server, through(deployment, CONFIG), "COMPLETED")

    with speaking_to(prefect_server), disable_run_logger():
        asyncio.run(twice())
        (one,) = runs(prefect_server)
        assert one["name"] == "deployed" and one["parameters"]["config"]["name"] == "deployed" and not errors

        with pytest.raises(FemError, match=r"The flow run of deployed ended as Crashed.* Look at it in the Prefect UI"):
            asyncio.run(ends(prefect_server, through(deployment, CONFIG), "CRASHED"))
        assert len(runs(prefect_server)) == 2, "the first one had ended"

        with pytest.raises(FemError, match=r"There is no deployment 'plays-fem/nowhere'"):
            asyncio.run(through("plays-fem/nowhere", CONFIG))
