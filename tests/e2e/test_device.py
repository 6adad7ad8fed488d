"""One run per device: what a worker's runs wait for."""

import asyncio
import time
from pathlib import Path

import pytest
from place import ask
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from fem_core.errors import FemError
from flows import device

pytestmark = pytest.mark.slow


@flow(name="works")
async def works(seconds: float) -> tuple[float, float]:
    """When it had the device, from and to."""
    async with device.held():
        begun = time.monotonic()
        await asyncio.sleep(seconds)
        return begun, time.monotonic()


def test_runs_on_one_device_are_done_one_after_the_other(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def two() -> list[tuple[float, float]]:
        return sorted(await asyncio.gather(works(1.5), works(1.5)))

    with temporary_settings({PREFECT_API_URL: prefect_server}):
        (_, ended), (begun, _) = asyncio.run(two())
        assert begun < ended, "without FEM_DEVICE they do not wait"
        monkeypatch.setenv("FEM_DEVICE", "the-only-one")
        with pytest.raises(
            FemError,
            match=r"has no concurrency limit of that name\. Create it: prefect .* create the-only-one --limit 1",
        ):
            asyncio.run(works(0))
        ask(prefect_server, "/v2/concurrency_limits/", {"name": "the-only-one", "limit": 1})
        (_, ended), (begun, _) = asyncio.run(two())
        assert begun >= ended
