"""A recurring audit of a store as one Prefect flow: the runs that have changed since they last held.

Contract: changes nothing in a run. A run that does not hold fails the flow run, after all others are audited, and is
audited again each time until it holds. What was found is a table on the flow run's page.
"""

from typing import Any, Literal

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State

from fem_core.audit.audit import audit as examine
from fem_core.audit.changed import held_before, mark, remember
from fem_core.audit.findings import Audit
from fem_core.config import S3Config
from fem_core.model import default_cache
from fem_core.store import layout
from fem_core.store.deletion import deleted_at
from fem_core.store.patience import WORKING
from fem_core.store.store import Store
from flows import worker
from flows.commands.audit import summary
from flows.credentials import reach
from flows.ending import sentence
from tasks import step

AS_THE_ENVIRONMENT_SAYS = S3Config()


class RunsDoNotHold(Exception):
    """Some runs are not what their records say; the message names the first broken link of each."""


@flow(name="audit", validate_parameters=True)
async def audit(
    store: str = "./fem-store", s3: S3Config = AS_THE_ENVIRONMENT_SAYS, deep: bool = False, everything: bool = False
) -> dict[str, Any] | State[Any]:
    """Check the runs of a store against their records: every file, every link.

    Args:
        store: Folder or URL of the store.
        s3: How an S3 store is reached.
        deep: Do the deterministic steps again, too: prompts, verdicts, rationales, scores.
        everything: Audit all runs, also those that have not changed since they last held.

    Returns:
        How many runs were audited, and how many had not changed; where the audit was cancelled, that state.

    Raises:
        RunsDoNotHold: after all runs are audited.
    """
    worker.outlive()
    async with worker.heeded():
        return await _audit(store, s3, deep=deep, everything=everything)
    return worker.cancelled()


async def _audit(store: str, s3: S3Config, *, deep: bool, everything: bool) -> dict[str, Any]:
    await reach(s3)
    opened = await step.in_store_thread(Store.open, store, check=False, patience=WORKING)
    came, same = await examined(opened, deep=deep, everything=everything)
    await acreate_markdown_artifact(_table(came, same), key="fem-audit", description=f"Audit of {opened.url}")
    broken = {name: what for name, what in came.items() if not (isinstance(what, Audit) and what.holds)}
    if broken:
        raise RunsDoNotHold(" ".join(_said(name, what) for name, what in broken.items()))
    return {"audited": len(came), "unchanged": same}


async def examined(store: Store, *, deep: bool, everything: bool) -> tuple[dict[str, Audit | Exception], int]:
    """What came of each run that had to be looked at, by name, and how many had not changed."""
    came: dict[str, Audit | Exception] = {}
    same = 0
    for run in await step.in_store_thread(store.root.children, layout.RUNS):
        if run.startswith("."):
            continue
        what = await _one(store, run, deep, everything)
        if what == "unchanged":
            same += 1
        elif what is not None:
            came[run] = what
    return came, same


async def _one(store: Store, run: str, deep: bool, everything: bool) -> Audit | Exception | Literal["unchanged"] | None:
    """None where there is no run of that name, or a deleted one."""
    try:
        if await step.in_store_thread(store.run, run) is None:
            return None
        if await step.in_store_thread(deleted_at, store, run) is not None:
            return None
        now = await step.in_store_thread(mark, store, run)
        if not everything and await step.in_store_thread(held_before, store, run, now, deep=deep):
            return "unchanged"
        result = await step.in_store_thread(examine, store, run, deep=deep, cache=default_cache())
        if result.holds:
            await step.in_store_thread(remember, store, run, now, deep=deep)
    except Exception as error:  # noqa: BLE001 (told at the end; no other run's audit depends on this one)
        step.noted(run, f"could not be audited: {sentence(error)}")
        return error
    step.ended(run, summary(result))
    return result


def _said(run: str, what: Audit | Exception) -> str:
    return summary(what) if isinstance(what, Audit) else f"Run {run} could not be audited: {sentence(what)}."


def _table(came: dict[str, Audit | Exception], same: int) -> str:
    lines = [f"{len(came)} runs audited, {same} unchanged since they last held.", ""]
    if came:
        lines += ["| run | audit |", "|---|---|"]
    for name, what in came.items():
        text = " ".join(_said(name, what).split()).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {name} | {text} |")
    return "\n".join(lines)
