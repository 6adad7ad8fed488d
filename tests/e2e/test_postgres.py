"""The team's installation: a Prefect server on PostgreSQL, as deployments/containers/compose.yaml has it."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from place import ROOT, ask, until

from deployments.health import answers
from deployments.up import server_command, worker_command

pytestmark = pytest.mark.slow

COMPOSE = yaml.safe_load((ROOT / "deployments" / "containers" / "compose.yaml").read_text())
PASSWORD = "only-for-this-test"
BERLIN = ZoneInfo("Europe/Berlin")
OFTEN = """
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType
from flows.audit import audit

RunnerDeployment.from_flow(
    audit, "often", cron="* * * * * */10", work_pool_name="fem", entrypoint_type=EntrypointType.MODULE_PATH
).apply()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def alive(command: list[str], log: Path, **options: Any) -> Iterator[None]:
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, **options)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server on loopback, as compose.yaml tells it to Prefect."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed; Debian: apt-get install postgresql")
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    as_postgres: list[str] = []
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        as_postgres = ["runuser", "-u", "postgres", "--"]
    port = free_port()
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    setup = [
        *as_postgres,
        str(found[-1] / "initdb"),
        "-D",
        str(folder / "data"),
        "-U",
        "prefect",
        "-A",
        "scram-sha-256",
    ]
    subprocess.run([*setup, "--no-sync", f"--pwfile={folder / 'password'}"], check=True, capture_output=True, cwd="/")
    serve = [*as_postgres, str(found[-1] / "postgres"), "-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port)]
    ready = [str(found[-1] / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
    log = tmp_path_factory.mktemp("postgres") / "log"
    try:
        with alive([*serve, "-k", str(folder), "-F"], log, cwd="/"):
            until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, 60, "PostgreSQL")
            subprocess.run(
                [str(found[-1] / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect"],
                env={**os.environ, "PGPASSWORD": PASSWORD},
                check=True,
            )
            url = COMPOSE["services"]["server"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
            yield url.replace("${POSTGRES_PASSWORD}", PASSWORD).replace("postgres:5432", f"127.0.0.1:{port}")
    finally:
        shutil.rmtree(folder)


def test_a_deployment_runs_and_a_schedule_fires_on_a_server_with_postgresql(database: str, tmp_path: Path) -> None:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    shared = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": api}
    env = {**os.environ, **shared, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    theirs = {**env, "PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    logs = [tmp_path / "server.log", tmp_path / "worker.log"]
    with ExitStack() as running:
        running.enter_context(alive(server_command("127.0.0.1", port), logs[0], env=theirs))
        until(lambda: answers(f"{api}/health"), 180, f"the server: {logs[0].read_text()[-2000:]}")
        deploy = [sys.executable, *COMPOSE["services"]["deploy"]["command"][1:4], "--store", str(tmp_path / "store")]
        deploy += ["--timezone", "Europe/Berlin"]
        done = subprocess.run([*deploy, "--folder", str(tmp_path)], env=env, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        health = {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": str(free_port())}
        running.enter_context(alive(worker_command(), logs[1], env={**env, **health}, cwd=tmp_path))
        until(lambda: answers(f"http://127.0.0.1:{health['PREFECT_WORKER_WEBSERVER_PORT']}/health"), 120, "the worker")
        check = [sys.executable, "-m", "deployments.health"]
        assert subprocess.run([*check, f"{api}/health"], cwd=ROOT, check=False).returncode == 0
        assert subprocess.run([*check, f"http://127.0.0.1:{free_port()}/"], cwd=ROOT, check=False).returncode == 1
        (deployment,) = ask(api, "/deployments/filter", {"deployments": {"name": {"any_": ["audit"]}}})
        run = ask(api, f"/deployments/{deployment['id']}/create_flow_run")
        asked = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        ended = until(lambda: _ended(api, asked), 180, "the end of the audit")
        assert ended["state_type"] == "COMPLETED", json.dumps(ended["state"])
        asked = {
            "flow_runs": {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
        }
        planned = until(lambda: ask(api, "/flow_runs/filter", asked), 90, "a night's audit")
        times = {datetime.fromisoformat(one["expected_start_time"]).astimezone(BERLIN).time() for one in planned}
        assert times == {time(3, 30)} and all(one["auto_scheduled"] for one in planned)
        subprocess.run([sys.executable, "-c", OFTEN], env=env, cwd=ROOT, check=True, capture_output=True)
        fired = {
            "deployments": {"name": {"any_": ["often"]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        (first, *_) = until(lambda: ask(api, "/flow_runs/filter", fired), 180, "a firing")
        assert first["auto_scheduled"]
    assert not (tmp_path / "prefect" / "prefect.db").exists(), "nothing is in SQLite"


def _ended(api: str, asked: dict[str, Any]) -> dict[str, Any] | None:
    (found,) = ask(api, "/flow_runs/filter", asked)
    return dict(found) if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None
