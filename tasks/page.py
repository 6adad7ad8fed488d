"""What a flow run's page in the Prefect UI shows: a summary, the curves, and draws of each iteration to read.

Contract: one artifact of each kind per flow run (of the draws: per iteration), changed in place as the run goes on and
when it is retried, so that the page stays short. Made from the store; what cannot be shown is a warning in the run's
log and never ends the run.
"""

import base64
import platform
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.runtime import flow_run

from fem_core.report import samples
from fem_core.report.curves import curves
from fem_core.report.diagnosis import answers
from fem_core.report.page import Surroundings, page
from fem_core.report.signatures import lines, signatures
from fem_core.report.summary import Summary, summarise
from tasks import announce, step

MEND = "look at the Prefect server's log; fem show has the same"


async def show(run: step.Run, k: int | None = None) -> None:
    """Bring the page up to date.

    Args:
        k: an iteration whose draws can be shown now.
    """

    async def all_of_it() -> None:
        summary = await step.in_store_thread(summarise, run.store, run.name)
        await put(run.name, "markdown", await step.in_store_thread(words, run, summary), f"Run {run.name}")
        if any(row.scores or row.filtered for row in summary.rows):
            picture = await step.in_store_thread(curves, summary, "png")
            url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
            await put(f"{run.name}-curves", "image", url, "Accuracy, utilization and rationale length by iteration")
        if k is not None:
            found = await step.in_store_thread(samples.samples, run.store, run.name, k)
            await put(
                f"{run.name}-draws-{k}",
                "markdown",
                samples.markdown(found),
                f"Some draws of iteration {k}, accepted and rejected",
            )

    await announce.tell("The run's page", MEND, all_of_it)


def words(run: step.Run, summary: Summary) -> str:
    """The summary's Markdown."""
    warnings = lines(signatures(summary, answers(run.store, run.name)))
    around = Surroundings(run.store.url, str(step.engine_log(run.cache, run.name)), platform.node())
    return page(summary, warnings, around)


async def put(name: str, kind: str, data: str, description: str) -> None:
    """Make or change this flow run's artifact of that name."""
    key, mine = artifact_key(name), UUID(flow_run.id)
    where = ArtifactFilter(key=ArtifactFilterKey(any_=[key]), flow_run_id=ArtifactFilterFlowRunId(any_=[mine]))
    async with get_client() as client:
        there = await client.read_artifacts(artifact_filter=where)
        if there:
            await client.update_artifact(there[0].id, ArtifactUpdate(data=data, description=description))
        else:
            new = ArtifactCreate(type=kind, key=key, description=description, data=data, flow_run_id=mine)
            await client.create_artifact(new)


def artifact_key(name: str) -> str:
    """Prefect's artifact keys hold lowercase letters, digits and dashes only."""
    return "fem-" + "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower())
