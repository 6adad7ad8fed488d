"""The automations that hold a run for a person when its figures look wrong (tasks/metrics.py sends those).

Contract: as for flows/server.py, what is there stays as people have set it. ``fem deploy`` makes them.
"""

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.client.orchestration import PrefectClient
from prefect.events import ResourceSpecification
from prefect.events.actions import SuspendFlowRun

from tasks.metrics import FILTERED, RESOURCE, SCORED

LOW_PERCENT = 5
"""Utilization, per cent, below which a run waits for a person."""

FALLS = 2
"""How many times in a row accuracy falls before a run waits."""


def automations() -> list[AutomationCore]:
    """All of them."""
    below = [str(percent) for percent in range(LOW_PERCENT)]
    return [
        _hold(f"fem: hold a run with a utilization below {LOW_PERCENT} %", FILTERED, "fem.utilization-percent", below),
        _hold(
            f"fem: hold a run whose accuracy fell {FALLS} times in a row", SCORED, "fem.accuracy-falls", [str(FALLS)]
        ),
    ]


async def hold(client: PrefectClient) -> list[str]:
    """Make those that the server has not; their names."""
    made = []
    for one in automations():
        if not await client.read_automations_by_name(one.name):
            await client.create_automation(one)
            made.append(one.name)
    return made


def _hold(name: str, event: str, label: str, values: list[str]) -> AutomationCore:
    return AutomationCore(
        name=name,
        description="The run stops before its next step. Look at its page, then press Resume, or Cancel.",
        trigger=EventTrigger(
            expect={event},
            match=ResourceSpecification({"prefect.resource.id": f"{RESOURCE}.*", label: values}),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[SuspendFlowRun()],
    )
