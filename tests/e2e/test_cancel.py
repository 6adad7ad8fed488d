"""Comparisons and audits that nobody's worker does end when they are cancelled in the UI, as runs do."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from made_run import made_config
from place import ask, speaking_to
from prefect.runtime import flow_run

import flows.audit
import flows.compare
from fem_core.compare.comparison import Comparison
from flows import worker

pytestmark = pytest.mark.slow

COMPARISON = Comparison.model_validate(
    {
        "name": "cancelled",
        "base": made_config().model_dump(mode="json", exclude={"name"}),
        "arms": [{"name": "rs", "set": {"scheme.name": "rs"}}],
    }
)


@pytest.mark.parametrize(
    ("module", "works", "starts"),
    [
        (flows.compare, "_compare", lambda: flows.compare.compare(COMPARISON, return_state=True)),
        (flows.audit, "_audit", lambda: flows.audit.audit("./nowhere", return_state=True)),
    ],
    ids=["compare", "audit"],
)
def test_what_is_cancelled_ends(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch, module: Any, works: str, starts: Callable[[], Any]
) -> None:
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(worker, "WORKER_SECONDS", 0.5)

    async def is_cancelled(*_: Any, **__: Any) -> None:
        state = {"type": "CANCELLING", "name": "Cancelling"}
        ask(prefect_server, f"/flow_runs/{flow_run.id}/set_state", {"state": state, "force": True})
        await asyncio.sleep(60)
        raise AssertionError("nothing ended it")

    monkeypatch.setattr(module, works, is_cancelled)
    with speaking_to(prefect_server):
        state = asyncio.run(starts())
    assert state.is_cancelled() and "What is committed is kept" in str(state.message)
