"""Tells Prefect a run's figures as events, so that automations can act on them.

Contract: one event per committed artifact, none when a step is found done. Automations compare labels and no numbers, so
the labels count: ``fem.utilization-percent`` is the whole percent below, ``fem.accuracy-falls`` how many times in a row
accuracy fell. The payload has the figures themselves. What cannot be sent is a warning.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from prefect.events import emit_event

from fem_core.store import layout
from fem_core.store.manifest import Manifest
from tasks import announce, step

FILTERED = "fem.iteration.filtered"
SCORED = "fem.iteration.scored"
RESOURCE = "fem.run"
"""How the id of a run as a resource begins; its name follows."""

_FILTERED_FIGURES = ("problems", "attempts", "accepted", "utilization", "mean_rationale_tokens", "verdicts")
_SCORED_FIGURES = ("n", "correct", "accuracy", "low", "high", "unparsable", "truncated", "majority_baseline")


async def filtered(run: step.Run, k: int, stats: dict[str, Any]) -> None:
    """Iteration k has its rationales."""
    labels = {"fem.utilization-percent": str(int(100 * stats["utilization"]))}
    await _emit(FILTERED, run, k, labels, {name: stats[name] for name in _FILTERED_FIGURES if name in stats})


async def scored(run: step.Run, k: int, stats: dict[str, Any]) -> None:
    """Iteration k is scored with the training prompt."""

    async def tell() -> None:
        earlier = await step.in_store_thread(accuracies, run, k)
        labels = {"fem.accuracy-falls": str(falls([*earlier, stats["accuracy"]]))}
        await _emit(SCORED, run, k, labels, {name: stats[name] for name in _SCORED_FIGURES if name in stats})

    await announce.tell(f"The event of iteration {k}'s scores", announce.SERVER, tell)


def falls(accuracies: Sequence[float]) -> int:
    """How many times in a row the last values fell: 2 for 0.5, 0.7, 0.6, 0.4."""
    count = 0
    for before, after in reversed(list(pairwise(accuracies))):
        if after >= before:
            break
        count += 1
    return count


def accuracies(run: step.Run, k: int) -> list[float]:
    """Of the iterations before k that are scored."""
    found: list[Manifest | None] = [run.store.manifest(layout.iteration(run.name, j, "scores")) for j in range(k)]
    return [manifest.stats["accuracy"] for manifest in found if manifest is not None]


async def _emit(event: str, run: step.Run, k: int, labels: dict[str, str], payload: dict[str, Any]) -> None:
    resource = {
        "prefect.resource.id": f"{RESOURCE}.{run.name}",
        "prefect.resource.name": run.name,
        "fem.iteration": str(k),
        **labels,
    }
    await announce.tell(
        f"The event {event} of iteration {k}",
        announce.SERVER,
        lambda: emit_event(event, resource=resource, payload={"iteration": k, "store": run.store.url, **payload}),
    )
