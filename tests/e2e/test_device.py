"""A run that waits for its device, on a real Prefect server: through a server's errors, and to its end when it is cancelled."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from place import ROOT, ask, speaking_to, until
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from fem_core.errors import FemError
from flows import device

pytestmark = pytest.mark.slow

DEVICE = "one-of-test-device"

WAITS = """
import asyncio, os
from prefect import flow
from flows import device

@flow(name="waits")
async def waits() -> None:
    async with device.held():
        print("has it", flush=True)

asyncio.run(waits())
"""


@pytest.fixture
def api(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server, which has the device that this process works on."""
    monkeypatch.setenv(device.DEVICE, DEVICE)
    monkeypatch.setattr(device, "LOOK_SECONDS", 0.2)
    body = {"name": DEVICE, "limit": 1, "active": True}
    if all(one["name"] != DEVICE for one in ask(prefect_server, "/v2/concurrency_limits/filter")):
        ask(prefect_server, "/v2/concurrency_limits/", body)
    return prefect_server


def test_a_run_waits_through_errors_of_the_server(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = PrefectClient.increment_concurrency_slots_with_lease
    request = httpx.Request("POST", api)
    errors: list[Exception] = [
        httpx.ConnectError("nobody there", request=request),
        PrefectHTTPStatusError("busy", request=request, response=httpx.Response(503, request=request)),
    ]

    async def fails_first(client: PrefectClient, **what: Any) -> httpx.Response:
        if errors:
            raise errors.pop(0)
        return await asks(client, **what)

    monkeypatch.setattr(PrefectClient, "increment_concurrency_slots_with_lease", fails_first)

    @flow(name="waits")
    async def waits() -> int:
        async with device.held():
            return len(errors)

    with speaking_to(api):
        assert asyncio.run(waits()) == 0


def test_a_run_without_a_limit_of_its_devices_name_says_how_to_make_one(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(device.DEVICE, "unheard-of")

    @flow(name="waits")
    async def waits() -> None:
        async with device.held():
            raise AssertionError("it has a device that is not there")

    with speaking_to(api), pytest.raises(FemError, match="global-concurrency-limit create unheard-of --limit 1"):
        asyncio.run(waits())


def test_a_waiting_runs_process_ends_when_it_is_told_to(api: str) -> None:
    """Within Prefect's 30 s of grace; after them the worker kills it."""
    env = {**os.environ, "PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}

    @flow(name="holds")
    async def holds() -> list[str]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(device.held())
            waits = subprocess.Popen([sys.executable, "-c", WAITS], env=env, stderr=subprocess.PIPE, text=True)
            assert waits.stderr is not None
            said = []
            for line in waits.stderr:
                said.append(line)
                if "waiting for the device" in line:
                    break
            await asyncio.sleep(2)  # so that it has asked for the slot
            waits.send_signal(signal.SIGTERM)
            try:
                until(lambda: waits.poll() is not None, 25, "the end of a run that waits")
            finally:
                waits.kill()
                waits.wait()
            return said

    with speaking_to(api):
        assert f"waiting for the device {DEVICE}, on which another run works" in asyncio.run(holds())[-1]
