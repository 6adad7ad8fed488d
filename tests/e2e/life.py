"""An installation to break: a Prefect server that can be killed and started again, workers, a deployment, a tiny model.

Contract: all processes are ended by their own ids. What the UI does is done through the API as the UI does it.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import place
import psutil
from place import ROOT

from benchmarks.tiny_model import answering_llama, letters
from deployments.up import server_command
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model

PREFECT = str(Path(sys.executable).with_name("prefect"))
FEM = str(Path(sys.executable).with_name("fem"))
ENGINE, TRAINER = "fem_core.sample.host", "fem_core.train.sft"
POOL, DEPLOYMENT, DEVICE = "here", "life", "the-only-one"

LOW = "a team's own: little is used"

DEPLOY = f"""
import asyncio
from pathlib import Path
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType
from prefect.automations import AutomationCore, EventTrigger
from prefect.events.actions import DoNothing
from flows import server
from flows.fem import fem

LOW = AutomationCore(
    name={LOW!r},
    trigger=EventTrigger(
        expect={{"fem.iteration.filtered"}},
        match={{"prefect.resource.id": "fem.run.*", "fem.utilization-percent": ["0", "1", "2", "3", "4"]}},
        posture="Reactive",
        threshold=1,
    ),
    actions=[DoNothing()],
)

async def prepare():
    async with get_client() as client:
        await server.work_pool(client, {POOL!r}, "process", Path("."))
        await server.zombies(client)
        await server.device(client, {DEVICE!r})
        await client.create_automation(LOW)

asyncio.run(prepare())
entry = EntrypointType.MODULE_PATH
RunnerDeployment.from_flow(fem, {DEPLOYMENT!r}, work_pool_name={POOL!r}, entrypoint_type=entry).apply()
"""


until = partial(place.until, every=0.3)
"""Polls seldom enough not to slow down what is waited for."""


@dataclass
class Life:
    """The installation; its folder holds everything."""

    folder: Path
    port: int
    server: "subprocess.Popen[bytes] | None" = None
    worker: "subprocess.Popen[bytes] | None" = None
    environment: dict[str, str] = field(default_factory=dict)
    """More of it, for what is started from now on."""
    deployment: str = DEPLOYMENT
    """Which one of the flow ``fem``."""

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "FEM_CACHE": str(self.folder / "cache"),
            "FEM_DEVICE": "",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            **self.environment,
        }

    def start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        """Start a process with its output in ``<name>.txt``."""
        with (self.folder / f"{name}.txt").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def start_server(self) -> None:
        """Start the server, or start it again on the same database."""
        self.server = self.start("server", *server_command("127.0.0.1", self.port), "--no-ui")
        until(self.healthy, 240, "a server")

    def healthy(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.api}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def start_worker(self) -> None:
        self.worker = self.start("worker", PREFECT, "worker", "start", "--pool", POOL, "--type", "process")

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text(errors="replace")[-4000:]

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """The Prefect API, asked again where the server is busy, as its own clients do.

        A server on SQLite may wait 60 s for another's write before it answers: this waits longer for it.
        """
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(f"{self.api}{path}", data, {"Content-Type": "application/json"}, method=method)
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(request, timeout=90) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:
                    raise
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def run(self, name: str, variables: dict[str, Any] | None = None, **parameters: Any) -> str:
        """What "Run" in the UI does: a flow run of the deployment; its id.

        Args:
            variables: of the job; the UI's form has them, too.
        """
        deployment = self.ask(f"/deployments/name/fem/{self.deployment}", method="GET")
        body = {"parameters": parameters, "name": name, "job_variables": variables or {}}
        return str(self.ask(f"/deployments/{deployment['id']}/create_flow_run", body)["id"])

    def state(self, run: str) -> str:
        """As the UI shows it."""
        return str(self.ask(f"/flow_runs/{run}", method="GET")["state"]["name"])

    def set_state(self, run: str, type_: str, name: str, **more: Any) -> None:
        self.ask(f"/flow_runs/{run}/set_state", {"state": {"type": type_, "name": name, **more}, "force": True})

    def retry(self, run: str) -> None:
        """What the button does."""
        self.set_state(run, "SCHEDULED", "AwaitingRetry", message="Retry from the UI")

    def tasks(self, run: str) -> dict[str, list[str]]:
        """States of a flow run's task runs by name."""
        found: dict[str, list[str]] = {}
        body = {"flow_runs": {"id": {"any_": [run]}}, "limit": 200}
        for one in self.ask("/task_runs/filter", body):
            found.setdefault(one["name"], []).append(one["state_name"])
        return found

    def logs(self, run: str) -> list[str]:
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_ASC"}
        return [f"{one['level']} {one['message']}" for one in self.ask("/logs/filter", body)]

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """By key; progress artifacts, which have none, by their description."""
        body = {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return {one["key"] or one["description"]: one for one in self.ask("/artifacts/filter", body)}

    def children(self, marker: str) -> list[psutil.Process]:
        """Processes of this installation with the marker in their command line, orphans too."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            try:
                if any(marker in word for word in process.info["cmdline"] or []) and self._ours(process):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def _ours(self, process: psutil.Process) -> bool:
        return process.environ().get("FEM_CACHE") == self.env["FEM_CACHE"]

    def flow(self) -> list[psutil.Process]:
        """The processes that run flows, however Prefect starts them."""
        return [one for how in ("prefect.engine", "prefect.flow_engine", "spawn_main") for one in self.children(how)]

    def working(self) -> list[psutil.Process]:
        """Flows, engines and trainers."""
        return self.flow() + self.children(ENGINE) + self.children(TRAINER)

    def kill(self, *processes: psutil.Process) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 20)

    def kill_worker(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()

    def end(self) -> None:
        """End everything that was started, and what that has started."""
        for process in (self.worker, self.server):
            if process is not None:
                process.kill()
                process.wait()
        self.kill(*self.children(""))


def install(folder: Path) -> Life:
    """Everything but a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    questions = letters(folder, 40)
    answering_llama(packaged_model(default_cache()), folder / "model", questions)
    return Life(folder, port)


ON_DEVICE = {"env": {"FEM_DEVICE": DEVICE}}
"""Variables of a job on the device."""


def config_of(life: Life, name: str, **changes: Any) -> dict[str, Any]:
    """A run of half a minute."""
    return {
        "name": name,
        "iterations": 2,
        "store": str(life.folder / "store"),
        "problems": {
            "source": "table",
            "path": str(life.folder / "letters.jsonl"),
            "answer_kind": "choice",
            "choices": "choices",
            "test": 8,
        },
        "model": {"source": str(life.folder / "model")},
        "scheme": {"name": "rs", "budget": 3},
        "sample": {
            "max_tokens": 32,
            "problems_per_part": 4,
            "engine": {"dtype": "float32", "kv_cache_gib": 0.5, "max_num_seqs": 1},
        },
        "train": {"epochs": 2, "batch_size": 4, "micro_batch_size": 4, "precision": "fp32", "save_minutes": 0.01},
        **changes,
    }
