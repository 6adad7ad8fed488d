"""Tells other systems what a run makes: OpenLineage events, and asset events on the Prefect server.

Contract: the store is the record, so what cannot be told is a warning in the run's log and never ends a step. Without
OPENLINEAGE_URL, OPENLINEAGE_CONFIG or OPENLINEAGE__TRANSPORT… in the environment no OpenLineage event is made and its
client is not imported.
"""

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.assets import Asset
from prefect.client.schemas.objects import State, TaskRun
from prefect.events import emit_event
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger
from prefect.runtime import flow_run, task_run
from prefect.tasks import Task
from prefect.types.names import RESTRICTED_ASSET_CHARACTERS

from fem_core.audit import openlineage
from fem_core.audit.ledger import in_store
from fem_core.audit.openlineage import Act
from fem_core.errors import FemError
from fem_core.store.manifest import InputRef, Manifest
from fem_core.store.store import Store
from fem_core.train.state import KIND as PASSING

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

    from tasks.step import Work

SERVER = "look at the Prefect server's log"
"""How what the Prefect server did not take is mended."""

CLOSE_SECONDS = 10.0
"""How long the client may take to hand over what it has queued."""

_open: dict[str, dict[str, Act]] = {}
"""By task run: the acts that have begun and not ended, by their run id. An empty one has ended all that it began."""


def wanted() -> bool:
    """Whether the environment asks for OpenLineage events."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    names = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")
    return any(os.environ.get(name) for name in names) or any(
        name.startswith("OPENLINEAGE__TRANSPORT") for name in os.environ
    )


async def began(store: Store, todo: "Work") -> None:
    """An artifact is not there, and its step begins to make it."""
    if not wanted():
        return
    ids = {"task_run": task_run.id, "flow_run": flow_run.id}
    act = openlineage.act(
        todo.step, todo.kind, todo.key, _namespace(), **{k: str(v) if v else None for k, v in ids.items()}
    )
    await _begin(str(task_run.id or ""), act, _now(), store, todo.inputs)


async def committed(store: Store, manifest: Manifest, counts: Manifest) -> None:
    """A manifest was handed to the store.

    Args:
        counts: what the store has now: this very manifest, or that of another process which was first.
    """
    if manifest.kind == PASSING:
        return
    first = counts is manifest
    if first and task_run.id:
        await tell(
            f"The asset event of {manifest.artifact}",
            SERVER,
            lambda: _materialized(store, manifest),
        )
    if not wanted():
        return
    act = openlineage.act_of(manifest, _namespace())
    task = manifest.prefect.get("task_run", "")
    await _begin(task, act, manifest.started, store, manifest.inputs)
    _open[task].pop(act.run_id, None)
    if first:
        await _send(act, lambda: [openlineage.complete(act, manifest, store.url, _manifests(store, manifest.inputs))])
    else:
        await _send(act, lambda: [openlineage.superseded(act, _now())])


async def failed(task: "Task[..., Any]", run: TaskRun, state: "State[Any]") -> None:
    """A hook for ``on_failure``: what the task run began has failed, and so has a step that never came to begin."""
    if not wanted():
        return
    begun = _open.pop(str(run.id), None)
    message, now = _message(state), _now()
    if begun is None:
        act = openlineage.act(
            task.name,
            "",
            "",
            _namespace(),
            task_run=str(run.id),
            flow_run=str(run.flow_run_id) if run.flow_run_id else None,
        )
        since = run.start_time.isoformat() if run.start_time else now
        await _send(act, lambda: [openlineage.start(act, since, "", (), {}), openlineage.fail(act, now, message)])
        return
    for act in begun.values():
        await _send(act, lambda act=act: [openlineage.fail(act, now, message)])  # type: ignore[misc]


def asset_key(store_url: str, artifact: str) -> str:
    """An artifact's URI as Prefect allows it in an asset key: a few characters of a folder's name become ``_``."""
    uri = f"{openlineage.place(store_url)}/{artifact}"
    return "".join("_" if c in RESTRICTED_ASSET_CHARACTERS else c for c in uri)


def _materialized(store: Store, manifest: Manifest) -> None:
    """The events that Prefect's ``@materialize`` emits, for a key that is known only now."""
    key = Asset(key=asset_key(store.url, manifest.artifact)).key
    above = [asset_key(store.url, ref.artifact) for ref in manifest.inputs if in_store(ref.artifact)]
    for upstream in above:
        emit_event("prefect.asset.referenced", resource={"prefect.resource.id": upstream}, related=[])
    emit_event(
        "prefect.asset.materialization.succeeded",
        resource={"prefect.resource.id": key, "prefect.resource.name": manifest.artifact},
        related=[
            *({"prefect.resource.id": upstream, "prefect.resource.role": "asset"} for upstream in above),
            {"prefect.resource.id": "fem", "prefect.resource.role": "asset-materialized-by"},
        ],
        payload={"kind": manifest.kind, "digest": manifest.digest, "step_key": manifest.step.key},
    )


async def _begin(task: str, act: Act, when: str, store: Store, inputs: Sequence[InputRef]) -> None:
    """START, once per act."""
    acts = _open.setdefault(task, {})
    if act.run_id in acts:
        return
    acts[act.run_id] = act
    await _send(act, lambda: [openlineage.start(act, when, store.url, inputs, _manifests(store, inputs))])


async def _send(act: Act, events: "Callable[[], list[RunEvent]]") -> None:
    def emit() -> None:
        from openlineage.client import OpenLineageClient

        client = OpenLineageClient()
        for event in events():
            client.emit(event)
        if not client.close(CLOSE_SECONDS):
            raise TimeoutError

    mend = "check the OPENLINEAGE_* variables and the server they name"
    await tell(f"The OpenLineage event of {act.job}", mend, lambda: asyncio.to_thread(emit))


async def tell(what: str, mend: str, telling: Callable[[], Any]) -> bool:
    """Do it, and say whether it went well; what goes wrong is named by its type alone, as messages of clients may carry
    credentials."""
    try:
        if asyncio.iscoroutine(found := telling()):
            await found
    except Exception as error:  # noqa: BLE001 (what others hear must not decide what becomes of the work)
        _log().warning("%s could not be sent (%s). The run goes on; %s.", what, type(error).__name__, mend)
        return False
    return True


def _manifests(store: Store, inputs: Sequence[InputRef]) -> dict[str, Manifest]:
    found = {ref.artifact: store.manifest(ref.artifact) for ref in inputs if in_store(ref.artifact)}
    return {artifact: manifest for artifact, manifest in found.items() if manifest is not None}


def _message(state: "State[Any]") -> str:
    error = getattr(state.data, "result", state.data)  # the exception, or Prefect's record of it
    if isinstance(error, BaseException):
        text = str(error) if isinstance(error, FemError) else f"{type(error).__name__}: {error}"
    else:
        text = state.message or "failed"
    return re.sub(r"://[^/\s@]+@", "://", text)


def _log() -> Any:
    """The run's log; Prefect calls hooks outside of a run."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("fem")


def _namespace() -> str:
    return os.environ.get("OPENLINEAGE_NAMESPACE") or openlineage.NAMESPACE


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
