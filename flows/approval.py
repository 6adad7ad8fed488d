"""Holds a run after an iteration until a person has read some of its rationales and resumes it in the Prefect UI.

Contract: the flow run is suspended: its process, the engine with it, ends and the lease is given back, however long the
person takes; Resume starts a process that goes on from the store. Asked once per iteration: not again when the run is
retried, since the next iteration has begun then.
"""

from collections.abc import Sequence

from prefect import get_run_logger
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment

from fem_core.errors import FemError
from fem_core.report import samples
from fem_core.report.page import code
from fem_core.report.summary import markdown, summarise
from fem_core.store import layout
from fem_core.store.store import Store
from tasks import step


class Approval(RunInput):
    """What a person may say on resuming."""

    note: str = ""
    """Goes to the run's log."""


def check(pause_after: Sequence[int], iterations: int) -> None:
    """Refuse what could not be done, before anything is.

    Raises:
        FemError: an iteration after which nothing is left to approve, or a run that nothing could start again.
    """
    for k in pause_after:
        if not 1 <= k < iterations:
            raise FemError(
                f"pause_after names iteration {k}, and a run of {iterations} can pause after 1 to {iterations - 1}. "
                "Name one of these."
            )
    if pause_after and not deployment.id:
        raise FemError(
            "pause_after needs a deployment, which starts the run again when it is resumed. Start the run from one, or "
            "leave pause_after out."
        )


async def ask(run: step.Run, k: int) -> None:
    """Suspend the flow run after iteration k, unless that was done or iteration k+1 has begun.

    Raises:
        Pause: Prefect's way to end the process of a suspended run.
    """
    if await step.in_store_thread(begun, run.store, run.name, k + 1):
        return
    form = Approval.with_initial_data(description=await step.in_store_thread(question, run.store, run.name, k))
    get_run_logger().info("Iteration %d waits for a person's approval: read its rationales, then press Resume.", k)
    answer = await asuspend_flow_run(wait_for_input=form, key=f"after-{k}")
    note = f": {answer.note}" if answer is not None and answer.note else "."
    get_run_logger().info("Iteration %d was approved%s", k, note)


def begun(store: Store, run: str, k: int) -> bool:
    """Whether anything of an iteration is in the store."""
    folder = layout.iteration(run, k, "attempts").rpartition("/")[0]
    return bool(store.root.children(folder))


def question(store: Store, run: str, k: int) -> str:
    """What the person reads above the form, as Markdown."""
    return "\n\n".join(
        [
            f"**Iteration {k} of run {code(run)} is done. Go on with iteration {k + 1}?**",
            markdown(summarise(store, run)),
            "Some of its draws, accepted ones first:",
            samples.markdown(samples.samples(store, run, k)),
            "To stop here instead, cancel the run; what is committed is kept.",
        ]
    )
