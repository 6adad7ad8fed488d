"""Holds a run until a person has read some of its rationales and resumes it in the Prefect UI: after an iteration that was
named, or before it trains on what looks wrong.

Contract: the flow run is suspended: its process, the engine with it, ends and the lease is given back, however long the
person takes; Resume starts a process that goes on from the store. What was approved is not asked again when the flow run
is retried, nor in another flow run that finds the step behind the question done.
"""

from collections.abc import Sequence

from prefect import get_run_logger
from prefect.exceptions import Pause
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import acreate_flow_run_input, adelete_flow_run_input, aread_flow_run_input
from prefect.input.run_input import keyset_from_base_key
from prefect.runtime import deployment
from pydantic import Field

from fem_core.errors import FemError
from fem_core.report import samples
from fem_core.report.page import code
from fem_core.report.summary import markdown, summarise
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from tasks import metrics, step

LOW_PERCENT = 5
"""Utilization, per cent, below which a run that holds asks."""

FALLS = 2
"""How many times in a row accuracy falls before it asks."""


class Approval(RunInput):
    """What a person may say on resuming."""

    note: str = Field("", description="Goes to the run's log.")


def check(pause_after: Sequence[int], iterations: int, *, hold: bool = False) -> None:
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
    if (pause_after or hold) and not deployment.id:
        name = "pause_after" if pause_after else "hold"
        raise FemError(
            f"{name} needs a deployment, which starts the run again when it is resumed. Start the run from one, or leave "
            f"{name} out."
        )


async def ask(run: step.Run, k: int) -> None:
    """Suspend the flow run after iteration k, unless that was done or iteration k+1 has begun.

    Raises:
        Pause: Prefect's way to end the process of a suspended run.
    """
    if await step.in_store_thread(begun, run.store, run.name, k + 1):
        return
    what = f"Iteration {k} of run {code(run.name)} is done. Go on with iteration {k + 1}?"
    await _ask(f"after-{k}", await step.in_store_thread(question, run.store, run.name, k, what))


async def hold(run: step.Run, k: int, rationales: Manifest) -> None:
    """Suspend the flow run before it trains on these rationales if something looks wrong, unless that was done.

    Raises:
        Pause: as for ``ask``.
    """
    if await step.in_store_thread(run.store.manifest, layout.iteration(run.name, k, "checkpoint")) is not None:
        return
    found = doubts(rationales.stats["utilization"], await step.in_store_thread(metrics.accuracies, run, k))
    if found:
        what = f"Run {code(run.name)} is about to train iteration {k}. {' '.join(found)} Go on all the same?"
        await _ask(f"hold-{k}", await step.in_store_thread(question, run.store, run.name, k, what))


def doubts(utilization: float, accuracies: Sequence[float]) -> list[str]:
    """Why a person should look, a sentence each.

    Args:
        utilization: of the iteration that is sampled.
        accuracies: of the iterations before it.
    """
    found = []
    if 100 * utilization < LOW_PERCENT:
        found.append(f"Its utilization is {100 * utilization:.2f} %, below {LOW_PERCENT} %.")
    if (falls := metrics.falls(accuracies)) >= FALLS:
        values = " to ".join(f"{value:.3f}" for value in accuracies[-falls - 1 :])
        found.append(f"Accuracy fell {falls} times in a row, from {values}.")
    return found


async def _ask(key: str, text: str) -> None:
    """Suspend the flow run until a person has said yes to this; what was said yes to is not asked again.

    Args:
        key: names the question within the flow run.
    """
    approved = f"{key}-approved"
    if await aread_flow_run_input(key=approved):
        return
    inputs = keyset_from_base_key(f"suspended-{key}")
    said = await aread_flow_run_input(key=inputs["response"]) or {}
    for left in inputs.values():  # Prefect does not write over those of a process that died after it was resumed
        if await aread_flow_run_input(key=left) is not None:
            await adelete_flow_run_input(key=left)
    try:
        await asuspend_flow_run(wait_for_input=Approval.with_initial_data(description=text), key=key)
    except Pause:
        get_run_logger().info("This run waits for a person's approval (%s): read its page, then press Resume.", key)
        raise
    await acreate_flow_run_input(key=approved, value=True)
    note = Approval(**said).note
    get_run_logger().info("%s was approved%s", key, f": {note}" if note else ".")


def begun(store: Store, run: str, k: int) -> bool:
    """Whether anything of an iteration is in the store."""
    folder = layout.iteration(run, k, "attempts").rpartition("/")[0]
    return bool(store.root.children(folder))


def question(store: Store, run: str, k: int, what: str) -> str:
    """What the person reads above the form, as Markdown.

    Args:
        k: the iteration whose draws are shown.
        what: the question itself.
    """
    return "\n\n".join(
        [
            f"**{what}**",
            markdown(summarise(store, run)),
            "Some of its draws, accepted ones first:",
            samples.markdown(samples.samples(store, run, k)),
            "To stop here instead, cancel the run; what is committed is kept.",
        ]
    )
