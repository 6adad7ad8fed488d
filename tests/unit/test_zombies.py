"""The automation that takes silent runs for dead, in the part of Prefect's server that decides whether it fires."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.exceptions import Pause

from flows import worker

FIRES = """
import asyncio, json, sys
from datetime import timedelta
from unittest.mock import patch
from uuid import uuid4

import prefect.types._datetime as clock
from prefect.server.database import provide_database_interface
from prefect.server.events import triggers
from prefect.server.events.models.automations import create_automation
from prefect.server.events.schemas.automations import Automation, EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from flows import server

class Client:
    async def read_automations_by_name(self, name):
        return []

    async def create_automation(self, made):
        self.made = made

async def main():
    await provide_database_interface().create_db()
    client = Client()
    await server.zombies(client)
    said = Automation.model_validate({**client.made.model_dump(mode="json"), "id": str(uuid4())})
    async with triggers.automations_session(begin_transaction=True) as session:
        automation = await create_automation(session, said)
    triggers.load_automation(automation)
    now, fired = clock.now("UTC"), set()

    async def act(firing):
        fired.update(firing.triggering_labels.values())

    def at(seconds):
        return now + timedelta(seconds=seconds)

    (trigger,) = automation.triggers_of_type(EventTrigger)
    with patch.object(triggers, "act", act):
        for run, events in json.loads(sys.argv[1]).items():
            for seconds, name in events:
                resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
                event = ReceivedEvent(id=uuid4(), occurred=at(seconds), received=now, event=name, resource=resource)
                await triggers.reactive_evaluation(event)
        for seconds in json.loads(sys.argv[2]):
            await triggers.proactive_evaluation(trigger, at(seconds))
            print(json.dumps([seconds, sorted(one.rpartition(".")[2] for one in fired)]))

asyncio.run(main())
"""

BEAT, SUSPENDED = "prefect.flow-run.heartbeat", "prefect.flow-run.Suspended"


def test_silent_runs_are_dead_and_suspended_ones_are_not(tmp_path: Path) -> None:
    events = {
        "dead": [(0, BEAT)],
        "suspended": [(0, BEAT), (50, SUSPENDED), (60, BEAT), (65, worker.STOPPED)],
        "killed-while-it-ended": [(0, BEAT), (50, SUSPENDED), (60, BEAT)],
    }
    env = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{tmp_path}/server.db",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    env.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", FIRES, json.dumps(events), "[4, 185, 800]"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [4, []],
        [185, []],  # the next heartbeat may come as late, where nobody has set how often they come
        [800, ["dead", "killed-while-it-ended"]],
    ]


def test_a_suspended_flow_says_when_it_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "one")
    monkeypatch.setattr(worker, "emit_event", lambda name, resource: said.append((name, resource)))

    async def suspended() -> None:
        async with worker.heeded():
            raise Pause

    with pytest.raises(Pause):
        asyncio.run(suspended())
    assert said == [(worker.STOPPED, {"prefect.resource.id": "prefect.flow-run.one"})]
