"""What breaks, what the Prefect UI then shows, and what brings the run back: the table of docs/operations.md.

A real server, real workers, real engines and trainers on a tiny model. All tests share one installation; what is done in
the UI is done through its API. Each test says which rows of the table it does.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from life import DEPLOY, ENGINE, FEM, LOW, TRAINER, Life, config_of, install, until
from made_run import made_config
from place import digests, speaking_to
from prefect import flow
from prefect.runtime import flow_run

from deployments.s3 import BUCKET, S3Server
from fem_core.store.store import Store
from flows import worker
from flows.server import ZOMBIES
from tasks import metrics, step

pytestmark = pytest.mark.slow

WAIT = 240.0
"""Seconds that something may take on a machine that does other things as well."""


SOON = 45.0
"""Seconds that processes have to end: 30, and what it takes to look."""


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
    """A step raises, the flow's process is killed, cancelled, paused; then the machine goes, and only the store helps."""
    folder = life.folder / "store/runs/clicks"
    obstacle = folder / "iteration=001/verdicts"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where a folder should be")
    run = life.run("clicks", config=config_of(life, "clicks"), pause_after=[1])

    reaches(life, run, "Failed")
    state = life.ask(f"/flow_runs/{run}", method="GET")["state"]
    assert "FileExistsError" in state["message"] and str(obstacle) in state["message"]
    assert life.tasks(run)["filter · 1"] == ["Failed"]
    before = committed(folder)
    obstacle.unlink()

    until(lambda: not life.working(), WAIT, "the end of all processes")
    retry(life, run)
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
    reaches(life, run, "Suspended")
    until(lambda: not life.working(), SOON, "the end of all processes")
    kept(before, folder)
    before = committed(folder)
    assert "iteration=001/scores/_manifest.json" in before
    keyset = life.ask(f"/flow_runs/{run}", method="GET")["state"]["state_details"]["run_input_keyset"]
    said = life.ask(f"/flow_runs/{run}/input/{keyset['description']}", method="GET")
    assert "Go on with iteration 2?" in said and "| accepted | plain | Which of these letters comes first" in said
    life.ask(f"/flow_runs/{run}/resume", {"run_input": {"note": "they read well"}})
    until(lambda: "Running" in life.tasks(run).get("sample · 2", []), WAIT, "sample · 2")
    until(lambda: any("approved: they read well" in line for line in life.logs(run)), WAIT, "the note in the log")
    assert life.state(run) == "Running"

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


def test_what_nobody_is_there_to_tell(life: Life) -> None:
    """Worker and flow are killed; the store is away for a minute, while the automation notices."""
    quick = {"iterations": 0, "scheme": {"name": "none"}}
    shorten(life, ZOMBIES, seconds=60)
    dead = life.run("dead", config=config_of(life, "dead", **quick))
    until(lambda: "Running" in life.tasks(dead).get("evaluate · 0", []), WAIT, "a step")
    life.kill_worker()
    life.kill(*life.working())
    assert life.state(dead) == "Running", "nobody has told the server yet"
    before = committed(life.folder / "store/runs/dead")

    with s3(life) as server:
        life.start_worker()
        config = config_of(life, "away", **quick) | {"store": f"s3://{BUCKET}/life"}
        away = life.run("away", config=config)
        until(lambda: "Running" in life.tasks(away).get("evaluate · 0", []), WAIT, "a step")
        server.kill()
        time.sleep(60)
        server.start()
        reaches(life, away, "Completed")
        assert life.tasks(away)["evaluate · 0"] == ["Completed"]

    reaches(life, dead, "Crashed")
    state = life.ask(f"/flow_runs/{dead}", method="GET")["state"]
    assert "No sign of life" in state["message"]
    retry(life, dead)
    reaches(life, dead, "Completed")
    kept(before, life.folder / "store/runs/dead")


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
