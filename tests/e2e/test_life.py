"""What breaks, what the Prefect UI then shows, and what brings the run back: the table of docs/operations.md.

A real server, real workers, real engines and trainers on a tiny model. All tests share one installation; what is done in
the UI is done through its API. Each test says which rows of the table it does.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from life import DEPLOY, DEVICE, ENGINE, FEM, LOW, ON_DEVICE, POOL, TRAINER, Life, config_of, install, until
from made_run import made_config
from place import digests, speaking_to
from prefect import flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from deployments.s3 import BUCKET, S3Server
from fem_core.config_files import parse_config
from fem_core.store.store import Store
from flows import device, worker
from flows.commands.deploy import Overlap, deployment_of
from flows.server import ZOMBIES
from tasks import metrics, step

pytestmark = pytest.mark.slow

WAIT = 240.0
"""Seconds that something may take on a machine that does other things as well."""


SOON = 45.0
"""Seconds that processes have to end: 30, and what it takes to look."""

BEGUN = ("Pending", "Submitting", "Running")
"""States of a run that has its deployment's place."""

QUICK: dict[str, Any] = {"iterations": 0, "scheme": {"name": "none"}}
"""A configuration that only scores the base model."""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """Server, deployment and one worker."""
    life = install(tmp_path_factory.mktemp("life") / "here")
    try:
        life.start_server()
        subprocess.run([sys.executable, "-c", DEPLOY], env=life.env, cwd=life.folder, check=True, timeout=WAIT)
        life.start_worker()
        yield life
    finally:
        life.end()
        for name in ("server", "worker"):
            print(f"--- {name}\n{life.said(name)}")


def reaches(life: Life, run: str, *names: str) -> str:
    """Wait for one of these states."""

    def now() -> str | None:
        shown = life.state(run)
        return shown if shown in names else None

    return str(until(now, WAIT, f"{' or '.join(names)} of a run that is {life.state(run)}"))


def retry(life: Life, run: str) -> None:
    """Press Retry until the run runs: pressed while the worker still reports the last process, it is undone."""

    def runs() -> bool:
        shown = life.state(run)
        if shown in ("Failed", "Crashed", "Cancelled"):
            life.retry(run)
        return shown == "Running"

    until(runs, WAIT, f"a retry of a run that is {life.state(run)}")


def asked(life: Life, run: str) -> str:
    """What a run asks that is suspended; its processes have ended."""
    reaches(life, run, "Suspended")
    until(lambda: not life.working(), SOON, "the end of all processes")
    keyset = life.ask(f"/flow_runs/{run}", method="GET")["state"]["state_details"]["run_input_keyset"]
    return str(life.ask(f"/flow_runs/{run}/input/{keyset['description']}", method="GET"))


def rare(life: Life) -> dict[str, Any]:
    """Problems of which the model solves one in 32: too few to train on without being asked."""
    rows = [json.loads(line) for line in (life.folder / "letters.jsonl").read_text().splitlines()]
    for name, part in (
        ("rare", [row | {"answer": "B" if n else "A"} for n, row in enumerate(rows[:32])]),
        ("test", rows[32:]),
    ):
        (life.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    shape = {"source": "table", "answer_kind": "choice", "choices": "choices"}
    return shape | {"path": str(life.folder / "rare.jsonl"), "test_path": str(life.folder / "test.jsonl")}


def committed(folder: Path) -> dict[str, str]:
    """What may not change any more."""
    keep = ("run.json", "_manifest.json", ".parquet", ".safetensors")
    return {
        name: value
        for name, value in digests(folder).items()
        if name.endswith(keep) and not name.startswith("lease/") and "/trainer/" not in name
    }


def kept(before: dict[str, str], folder: Path) -> None:
    now = committed(folder)
    assert before and {name: now.get(name) for name in before} == before


def test_what_a_run_mends_itself(life: Life) -> None:
    """Engine dies, trainer dies, server restarted, worker killed: nobody has to do anything."""
    run = life.run("mends", config=config_of(life, "mends", iterations=1))
    engine = until(lambda: life.children(ENGINE), WAIT, "an engine")
    life.kill(*engine)
    until(lambda: "AwaitingRetry" in str(life.tasks(run)), WAIT, "a task that waits for its next try")
    assert life.state(run) == "Running"
    assert life.server is not None and life.worker is not None
    life.server.kill()
    life.server.wait()
    parts = life.folder / "store/runs/mends/iteration=001/attempts"
    until(lambda: list(parts.glob("part-*")), WAIT, "draws without a server")
    life.start_server()
    trainer = until(lambda: life.children(TRAINER), WAIT, "a trainer")
    life.kill_worker()
    life.kill(*trainer)
    reaches(life, run, "Completed")
    life.start_worker()

    tasks = life.tasks(run)
    assert tasks["sample · 1"] == tasks["train · 1"] == tasks["evaluate · 1"] == ["Completed"]
    page = life.artifacts(run)
    assert page["fem-mends-curves"]["data"].startswith("data:image/png;base64,")
    summary = page["fem-mends"]["data"]
    assert "finished: all of 1 iterations are trained and scored" in summary and "| 1 | 0." in summary
    assert "| accepted | plain | Which of these letters comes first" in page["fem-mends-draws-1"]["data"]
    progress = [name for name in page if name.startswith("train · 1: ")]
    assert any("per minute" in name or "per second" in name for name in progress)
    events = life.ask("/events/filter", {"filter": {"event": {"prefix": ["fem.iteration."]}}})["events"]
    (filtered,) = [one for one in events if one["event"] == "fem.iteration.filtered"]
    used = filtered["payload"]["utilization"]
    assert filtered["resource"]["fem.utilization-percent"] == str(int(100 * used)) and used > 0
    assert f"prefect.flow-run.{run}" in {one["prefect.resource.id"] for one in filtered["related"]}


def test_a_run_without_a_worker_is_heard_and_ends_when_it_is_cancelled(life: Life) -> None:
    """Cancelled in the UI, started in a terminal; and an iteration's figures set off an automation."""
    run = step.Run("thin", made_config(name="thin"), Store.open(str(life.folder / "store")), life.folder)

    @flow(name="no-worker")
    async def sleeper() -> Any:
        await metrics.filtered(run, 1, {"problems": 100, "accepted": 4, "utilization": 0.04})
        async with worker.heeded():
            life.set_state(flow_run.id, "CANCELLING", "Cancelling")
            await asyncio.sleep(WAIT)
            raise AssertionError("nothing ended it")
        return worker.cancelled()

    with speaking_to(life.api):
        state = asyncio.run(sleeper(return_state=True))
    assert state.is_cancelled() and "What is committed is kept" in str(state.message)
    assert life.state(str(state.state_details.flow_run_id)) == "Cancelled"

    def triggered() -> list[str]:
        found = life.ask("/events/filter", {"filter": {"event": {"prefix": ["prefect.automation.triggered"]}}})
        return [one["resource"]["prefect.resource.name"] for one in found["events"]]

    until(lambda: LOW in triggered(), WAIT, "an automation")


def test_what_one_click_brings_back(life: Life) -> None:
    """A step raises, the run asks a person, the flow's process is killed, cancelled, asks again; then the machine goes, and
    only the store helps."""
    folder = life.folder / "store/runs/clicks"
    obstacle = folder / "iteration=001/verdicts"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where a folder should be")
    run = life.run("clicks", config=config_of(life, "clicks", problems=rare(life)), pause_after=[1], hold=True)

    reaches(life, run, "Failed")
    state = life.ask(f"/flow_runs/{run}", method="GET")["state"]
    assert "FileExistsError" in state["message"] and str(obstacle) in state["message"]
    assert life.tasks(run)["filter · 1"] == ["Failed"]
    before = committed(folder)
    obstacle.unlink()

    until(lambda: not life.working(), WAIT, "the end of all processes")
    retry(life, run)
    said = asked(life, run)
    assert "about to train iteration 1. Its utilization is 3.12 %, below 5 %. Go on all the same?" in said
    kept(before, folder)
    before = committed(folder)
    life.ask(f"/flow_runs/{run}/resume")
    until(lambda: life.children(TRAINER), WAIT, "a trainer")
    life.kill(*life.flow())
    reaches(life, run, "Crashed")
    until(lambda: not life.working(), SOON, "the end of engine and trainer")
    kept(before, folder)
    before = committed(folder)

    retry(life, run)
    until(lambda: life.children(TRAINER), WAIT, "a trainer")
    life.set_state(run, "CANCELLING", "Cancelling")
    until(lambda: not life.working(), SOON, "the end of all processes")
    reaches(life, run, "Cancelled")
    kept(before, folder)
    before = committed(folder)

    retry(life, run)
    said = asked(life, run)
    kept(before, folder)
    before = committed(folder)
    assert "iteration=001/scores/_manifest.json" in before
    assert "Go on with iteration 2?" in said and "| accepted | plain | Which of these letters comes first" in said
    life.ask(f"/flow_runs/{run}/resume", {"run_input": {"note": "they read well"}})
    until(lambda: "Running" in life.tasks(run).get("sample · 2", []), WAIT, "sample · 2")
    until(lambda: any("approved: they read well" in line for line in life.logs(run)), WAIT, "the note in the log")
    assert life.state(run) == "Running"
    assert life.ask(f"/flow_runs/{run}/input/hold-1-approved", method="GET") is True
    stops = life.ask("/events/filter", {"filter": {"event": {"name": [worker.STOPPED]}}})["events"]
    assert [one["resource"]["prefect.resource.id"] for one in stops] == [f"prefect.flow-run.{run}"] * 2

    assert life.server is not None
    life.kill_worker()
    life.server.kill()
    life.kill(*life.working())
    life.start_server()
    assert life.state(run) in ("Running", "Crashed"), "nobody tells the server but, after a while, the automation"
    resumed = subprocess.run(
        [FEM, "resume", "clicks", "--store", str(life.folder / "store")],
        env=life.env,
        cwd=life.folder,
        capture_output=True,
        text=True,
        timeout=2 * WAIT,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    kept(before, folder)
    assert (folder / "iteration=002/scores/_manifest.json").is_file()
    life.start_worker()


def test_a_schedule_that_fires_while_a_run_is_unfinished_waits_or_is_skipped(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `fem deploy --overlap` says. The runs wait for a device, so that none starts an engine."""
    monkeypatch.setenv(device.DEVICE, DEVICE)
    config = parse_config(config_of(life, "unnamed", **QUICK))
    with at_work(life) as has_it:
        until(has_it.is_set, WAIT, "a run on the device")
        for overlap in ("queue", "skip"):
            made = deployment_of(config, overlap, "* * * * * */15", "UTC", overlap, POOL)
            made.job_variables = ON_DEVICE
            made.apply()

        def unfinished(overlap: Overlap) -> set[str]:
            found = fired(life, overlap, *BEGUN)
            assert len(found) <= 1
            return set(found)

        def second(overlap: Overlap, name: str) -> list[str]:
            return fired(life, overlap, name) if unfinished(overlap) else []

        until(lambda: second("queue", "AwaitingConcurrencySlot"), WAIT, "a run that waits")
        skipped = until(lambda: second("skip", "Cancelled"), WAIT, "a run that is skipped")
        state = life.ask(f"/flow_runs/{skipped[0]}", method="GET")["state"]
        assert state["message"] == "Deployment concurrency limit reached."
        for overlap in ("queue", "skip"):
            made = life.ask(f"/deployments/name/fem/{overlap}", method="GET")
            life.ask(f"/deployments/{made['id']}/pause_deployment")

        (first,) = until(lambda: fired(life, "queue", "Running"), WAIT, "a run of the schedule")
        until(lambda: any("waiting for the device" in line for line in life.logs(first)), WAIT, "what it waits for")
        assert re.fullmatch(r"queue-\d{8}-\d{6}-[0-9a-f]{8}", life.ask(f"/flow_runs/{first}", method="GET")["name"])
        life.set_state(first, "CANCELLING", "Cancelling")
        reaches(life, first, "Cancelled")
        last = until(lambda: fired(life, "queue", "Running"), WAIT, "the run that has waited")
        assert last != [first]
        last += until(lambda: fired(life, "skip", "Running"), WAIT, "a run of the other schedule")
        for run in fired(life, "queue", "AwaitingConcurrencySlot"):
            life.set_state(run, "CANCELLED", "Cancelled")
        for run in last:
            life.set_state(run, "CANCELLING", "Cancelling")
        until(lambda: not life.working(), SOON, "the end of all processes")


def test_what_nobody_is_there_to_tell(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker and flow are killed; the store is away for a minute, while the automation notices, and while the device that
    the killed run had comes back."""
    monkeypatch.setenv(device.DEVICE, DEVICE)
    shorten(life, ZOMBIES, seconds=60)
    with at_work(life) as has_it:
        until(has_it.is_set, WAIT, "a run on the device")
        dead = life.run("dead", ON_DEVICE, config=config_of(life, "dead", **QUICK))
        waits = f"waiting for the device {DEVICE}, on which another run works"
        until(lambda: any(waits in line for line in life.logs(dead)), WAIT, "a run that waits for the device")
        assert life.tasks(dead) == {}
    until(lambda: "Running" in life.tasks(dead).get("evaluate · 0", []), WAIT, "a step")
    life.kill_worker()
    life.kill(*life.working())
    assert life.state(dead) == "Running", "nobody has told the server yet"
    assert life.ask(f"/v2/concurrency_limits/{DEVICE}", method="GET")["active_slots"] == 1
    before = committed(life.folder / "store/runs/dead")

    with s3(life) as server, at_work(life) as has_it:
        life.start_worker()
        config = config_of(life, "away", **QUICK) | {"store": f"s3://{BUCKET}/life"}
        away = life.run("away", config=config)
        until(lambda: "Running" in life.tasks(away).get("evaluate · 0", []), WAIT, "a step")
        server.kill()
        time.sleep(60)
        server.start()
        reaches(life, away, "Completed")
        assert life.tasks(away)["evaluate · 0"] == ["Completed"]
        until(has_it.is_set, WAIT, "the device of the run that was killed")

    reaches(life, dead, "Crashed")
    state = life.ask(f"/flow_runs/{dead}", method="GET")["state"]
    assert "No sign of life" in state["message"]
    retry(life, dead)
    reaches(life, dead, "Completed")
    kept(before, life.folder / "store/runs/dead")


def fired(life: Life, overlap: Overlap, *states: str) -> list[str]:
    """Runs that the schedule has started, in these states, the first ones first."""
    asks = {
        "deployments": {"name": {"any_": [overlap]}},
        "flow_runs": {"state": {"name": {"any_": list(states)}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    found = life.ask("/flow_runs/filter", asks)
    assert all(one["auto_scheduled"] for one in found)
    return [one["id"] for one in found]


@contextlib.contextmanager
def at_work(life: Life) -> Iterator[threading.Event]:
    """A flow run of this process that waits for the device and, from when the event is set, has it to the end."""
    has_it, done = threading.Event(), threading.Event()

    @flow(name="at-work")
    async def works() -> None:
        async with device.held():
            has_it.set()
            while not done.is_set():
                await asyncio.sleep(0.2)

    often = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30})  # as the automation wants it
    with speaking_to(life.api), often, ThreadPoolExecutor(1) as thread:
        ends = thread.submit(copy_context().run, lambda: asyncio.run(works()))
        try:
            yield has_it
        finally:
            done.set()
            ends.result(WAIT)


def shorten(life: Life, name: str, seconds: int) -> None:
    """Change an automation as its form in the UI does."""
    body = {"automations": {"name": {"any_": [name]}}}
    (one,) = life.ask("/automations/filter", body)
    one["trigger"]["within"] = seconds
    life.ask(f"/automations/{one['id']}", {key: one[key] for key in ("name", "trigger", "actions")}, method="PUT")


@contextlib.contextmanager
def s3(life: Life) -> Iterator[S3Server]:
    """An S3 server that what is started from now on knows."""
    server = S3Server(life.folder / "s3")
    server.start()
    life.environment |= server.environment
    try:
        yield server
    finally:
        server.kill()
