"""What ``make up`` installs on a machine: where it listens, two workers side by side, where secrets are, what a person does
in the Prefect UI, and its end.

One real installation for all tests: S3 store, Prefect server, deployments, worker, engines and trainers on a tiny model.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pyarrow.parquet as pq
import pytest
import s3fs
import yaml
from life import ENGINE, FEM, PREFECT, Life, config_of, install, until
from place import ROOT
from starlette.testclient import TestClient

from deployments.chromium import CHROMIUM, launched
from deployments.prefect_ui import BUSY, PrefectUI
from deployments.up import POOL, read_environment
from fem_core.browse.app import application
from fem_core.browse.library import Library

pytestmark = pytest.mark.slow

WAIT = 240.0
"""Seconds that something may take on a machine that does other things as well."""

TOKEN = "hf_nobody_may_see_this"
STORE = "s3://fem/runs"
RUNS = ("first", "second")
DEVICE = "device-of-the-second"


def installed(life: Life) -> Path:
    """The folder of the installation, apart from what the tests keep."""
    return life.folder / "up"


def make(life: Life, what: str, *more: str) -> str:
    """What ``make up`` and ``make down`` call; its output."""
    command = [sys.executable, "-m", "deployments.up", what, "--folder", str(installed(life)), *more]
    done = subprocess.run(
        command, cwd=ROOT, env=life.env, capture_output=True, text=True, timeout=2 * WAIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def command(life: Life, *words: str) -> str:
    """What a person types after ``source env``; its output."""
    done = subprocess.run(
        words, cwd=life.folder, env=life.env, capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    """The installation, whose worker does one run at a time."""
    life = install(tmp_path_factory.mktemp("installed") / "here")
    life.deployment = "fem"
    life.environment |= {"HF_TOKEN": TOKEN, "PREFECT_WORKER_QUERY_SECONDS": "5"}  # seldom, as SQLite has one writer
    with ExitStack() as ends:
        ends.callback(life.end)
        ends.callback(lambda: make(life, "down"))
        make(life, "up", "--limit", "1")
        life.environment |= read_environment(installed(life) / "env")
        life.port = urlsplit(life.environment["PREFECT_API_URL"]).port or 0
        yield life


@pytest.fixture(scope="module")
def both(life: Life) -> dict[str, str]:
    """Two runs that worked at the same time on two devices, each done by a worker of its own; flow runs by name."""
    command(life, PREFECT, "--no-prompt", "global-concurrency-limit", "create", DEVICE, "--limit", "1")
    life.environment["FEM_DEVICE"], first = DEVICE, life.environment["FEM_DEVICE"]
    start = (PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--limit", "1")
    life.worker = life.start("worker-2", *start)
    life.environment["FEM_DEVICE"] = first
    begun = {name: life.run(name, config=config_of(life, name, store=STORE, iterations=1)) for name in RUNS}
    until(lambda: devices(life) == {first, DEVICE}, WAIT, "an engine on each device at the same time")
    for run in begun.values():
        until(lambda run=run: life.state(run) == "Completed", WAIT, f"the end of {begun}")
    return begun


def devices(life: Life) -> set[str]:
    """On which engines work now."""
    return {one.environ()["FEM_DEVICE"] for one in life.children(ENGINE)}


def test_up_again_changes_nothing_and_all_of_it_is_for_this_machine_alone(life: Life) -> None:
    before = {one.pid for one in life.children("")}
    env = (installed(life) / "env").read_text()
    said = make(life, "up")
    assert {one.pid for one in life.children("")} == before and (installed(life) / "env").read_text() == env
    assert "starting" not in said and "does not run" not in said
    assert (installed(life) / "env").stat().st_mode & 0o777 == 0o600
    listening = [
        (one.name(), held.laddr.ip, held.laddr.port)
        for one in life.children("")
        for held in one.net_connections("inet")
        if held.status == psutil.CONN_LISTEN
    ]
    ports = {urlsplit(life.environment[name]).port for name in ("PREFECT_API_URL", "AWS_ENDPOINT_URL")}
    assert ports < {port for _, _, port in listening}
    assert [one for one in listening if one[1] not in ("127.0.0.1", "::1")] == []


def test_two_workers_do_two_runs_at_the_same_time(life: Life, both: dict[str, str]) -> None:
    copies = [one for one in Path(life.env["FEM_CACHE"]).iterdir() if re.fullmatch("[0-9a-f]{64}", one.name)]
    assert copies == [], "checkpoints of a store on S3 that no run needs any more"
    for name, run in both.items():
        assert not [line for line in life.logs(run) if "waiting for the device" in line]
        said = command(life, FEM, "audit", name, "--deep", "--store", STORE)
        assert f"Run {name} holds" in said.splitlines()[-1] and "derived again" in said


def test_no_secret_is_where_people_look(life: Life, both: dict[str, str]) -> None:
    """The same search finds the runs' names in each of the places."""
    secrets = [TOKEN, *(life.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))]
    for place, texts in (
        ("database", [one.read_bytes() for one in (installed(life) / "prefect").glob("*.db*")]),
        ("logs", [one.read_bytes() for one in logs(life)]),
        ("artifacts", [repr(life.artifacts(run)).encode() for run in both.values()]),
        ("objects", objects(life)),
        ("pages", pages(life)),
    ):
        seen = b"\n".join(texts)
        assert all(name.encode() in seen for name in RUNS), place
        assert [secret for secret in secrets if secret.encode() in seen] == [], place
    spoken = (installed(life) / "env").read_text()
    assert all(secret in spoken for secret in secrets[1:])


def logs(life: Life) -> list[Path]:
    """Of the installation and of the second worker, which may have done either run."""
    return [*(installed(life) / "logs").iterdir(), life.folder / "worker-2.txt"]


def filesystem(life: Life) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key=life.environment["AWS_ACCESS_KEY_ID"],
        secret=life.environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=life.environment["AWS_ENDPOINT_URL"],
    )


def objects(life: Life) -> Iterator[bytes]:
    """All of the store, and what compressed tables hold."""
    store = filesystem(life)
    for name in store.find("fem"):
        yield store.cat_file(name)
        if name.endswith(".parquet"):
            with store.open(name) as file:
                yield repr(pq.read_table(file).to_pydict()).encode()


def pages(life: Life) -> Iterator[bytes]:
    """The rationale browser's pages that its own links lead to, but for those of single rationales and other filters."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in life.environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        library = Library(STORE, life.folder / "browsed")
        try:
            client = TestClient(application(library), base_url="http://127.0.0.1")
            todo, seen = ["/runs"], set[str]()
            while todo:
                address = todo.pop()
                seen.add(address)
                answer = client.get(address)
                assert answer.status_code == 200, address
                yield answer.content
                links = re.findall(r'href="(/[^"#?]*(?:\?kind=[a-z-]+)?)"', answer.text)
                todo += {one for one in links if one.count("/") <= 5} - seen - set(todo)
        finally:
            library.close()


in_chromium = pytest.mark.skipif(
    shutil.which(CHROMIUM) is None, reason=f"there is no {CHROMIUM}: apt-get install chromium"
)


@in_chromium
def test_a_person_starts_a_run_in_the_form_reads_its_draws_and_resumes_it(life: Life) -> None:
    id_ = deployed(life, "by-hand")
    with launched() as browser:
        ui = PrefectUI(browser.new_page(), life.api.removesuffix("/api"))
        ui.run_form(id_)
        for name, says in (
            ("Problems", "Where (x, y*) come from."),
            ("Iterations", "At least 0."),
            ("Top P", "More than 0, at most 1."),
            ("pause_after", "until a person resumes it in the Prefect UI"),
        ):
            ui.field(name).get_by_text(says).first.wait_for()
        ui.write("Iterations", "-1")
        refused = ui.submit()
        assert refused.status == 409
        ui.page.get_by_text("'config.iterations'. Failure reason: -1 is less than the minimum of 0").first.wait_for()
        assert life.ask("/flow_runs/filter", {"deployments": {"id": {"any_": [id_]}}}) == []

        ui.write("Iterations", "2")
        ui.write("pause_after", "1")
        run = str(ui.submit().json()["id"])
        until(lambda: life.state(run) == "Suspended", WAIT, "a run that asks")
        ui.flow_run(run, "Artifacts")
        ui.artifact(next(key for key in life.artifacts(run) if key.endswith("-draws-1")))
        ui.page.get_by_text("Which of these letters comes first").first.wait_for()
        ui.flow_run(run)
        ui.ask_resume()
        ui.page.get_by_text("Go on with iteration 2?").wait_for()
        ui.page.get_by_text("Which of these letters comes first").first.wait_for()
        ui.page.route("**/resume", lambda route: route.fulfill(status=BUSY), times=1)
        answer = ui.resume("they read well")
        assert answer.ok and answer.json()["status"] == "ACCEPT", answer.text()
    until(lambda: life.state(run) == "Completed", WAIT, "the end of a run that was resumed")
    assert any("after-1 was approved: they read well" in line for line in life.logs(run))


@in_chromium
def test_a_person_sees_a_schedule_cancels_a_run_looks_at_it_and_retries_it(life: Life) -> None:
    schedule = ("--cron", "0 2 1 1 *", "--timezone", "Europe/Berlin")
    training = {"epochs": 30, "batch_size": 4, "micro_batch_size": 4, "precision": "fp32", "save_minutes": 0.01}
    id_ = deployed(life, "watched", *schedule, iterations=1, train=training)
    with launched() as browser:
        ui = PrefectUI(browser.new_page(), life.api.removesuffix("/api"))
        ui.deployment(id_)
        ui.page.get_by_text("At 02:00 AM").first.wait_for()
        ui.run_form(id_)
        run = str(ui.submit().json()["id"])
        until(lambda: any("train · 1: 1" in key for key in life.artifacts(run)), WAIT, "steps of a training")
        ui.flow_run(run)
        drawn = draws(life, "watched-")
        answer = ui.cancel()
        assert answer.ok and answer.json()["status"] == "ACCEPT", answer.text()
        until(lambda: not life.working(), 30, "the end of flow, engine and trainer")
        until(lambda: life.state(run) == "Cancelled", WAIT, "the worker's word on it")
        assert life.tasks(run)["train · 1"] != ["Completed"]
        ui.flow_run(run, "Artifacts")
        assert re.match(r"train · 1: \d+ of \d+ steps, .* per ", ui.progress("train · 1"))
        ui.artifact(next(key for key in life.artifacts(run) if key.endswith("-curves")))
        curves = ui.page.locator("img").last
        curves.wait_for()
        assert curves.evaluate("image => image.naturalWidth") > 500
        ui.flow_run(run)
        answer = ui.retry()
        assert answer.ok and answer.json()["status"] == "ACCEPT", answer.text()
    until(lambda: life.state(run) == "Completed", WAIT, "the end of a run that was cancelled and retried")
    assert drawn and draws(life, "watched-") == drawn
    assert any("sample · 1: already done" in line for line in life.logs(run))


def draws(life: Life, run: str) -> dict[str, Any]:
    """Files of a run's attempts, by the beginning of its name, and when each was written."""
    found = filesystem(life).find(STORE, detail=True)
    return {name: one["LastModified"] for name, one in found.items() if run in name and "/attempts/part-" in name}


def deployed(life: Life, name: str, *more: str, **changes: Any) -> str:
    """Id of a deployment of a tiny run, which ``fem deploy`` has made from a file."""
    file = life.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config_of(life, name, **changes)))
    command(life, FEM, "deploy", str(file), "--store", STORE, "--folder", str(installed(life)), *more)
    return str(life.ask(f"/deployments/name/fem/{name}", method="GET")["id"])


def test_down_leaves_no_process(life: Life) -> None:
    life.kill_worker()
    said = make(life, "down")
    assert said.count("ended") == 3
    assert [one.cmdline() for one in life.children("")] == []
