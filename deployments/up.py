"""An installation on one machine: S3 store, Prefect server, deployments and worker, all on loopback, all in one folder.

``python -m deployments.up up`` starts what does not run, ``down`` ends what ``up`` started and nothing else, ``status``
says what runs where. Contract: ``up`` may be called at any time. The folder holds the database, the objects, the logs,
the ports and process ids (``installation.json``) and, readable by its owner alone, what a shell needs to use it all
(``env``, with the store's credentials). A process is known by its id and the time it began: an id that another process
has got since is left alone.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from deployments import health
from deployments.s3 import BUCKET, WEED, S3Server, is_free

ROOT = Path(__file__).resolve().parents[1]
POOL = "fem"
HEARTBEAT = "30"
"""Seconds between a run's signs of life, the least that Prefect takes: a run whose machine has gone shows in two minutes."""
PARTS = ("worker", "server", "s3")
"""In the order in which they are ended."""


def _born(process: psutil.Process) -> str:
    """When a process began: where Linux says so, since the machine's start, which a clock that is set does not change."""
    proc = Path("/proc")
    with suppress(OSError):
        since_boot = (proc / str(process.pid) / "stat").read_text().rpartition(")")[2].split()[19]
        return f"{(proc / 'sys/kernel/random/boot_id').read_text().strip()} {since_boot}"
    return f"{process.create_time():.0f}"


class Installation:
    """What lies in the folder, and the processes that belong to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._file = self.folder / "installation.json"
        self.known: dict[str, Any] = json.loads(self._file.read_text()) if self._file.is_file() else {}

    def save(self) -> None:
        """Keep ports and processes, whole or not at all."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self.known, indent=2))
        new.replace(self._file)

    def port(self, part: str, wanted: int) -> int:
        """The part's port: that of last time, else ``wanted``, else a free one.

        Where the part does not run and another program has its port, another is chosen; but not while other parts run,
        which have been told the old one: then this leaves with a sentence.
        """
        ports = self.known.setdefault("ports", {})
        kept = ports.get(part)
        if kept is None or (self.process(part) is None and not is_free(kept)):
            if kept is not None and any(map(self.process, PARTS)):
                sys.exit(
                    f"Port {kept} of the {part} is taken by another program. End that one, or type make down and make up "
                    "again: then the installation takes another port."
                )
            ports[part] = wanted if is_free(wanted) else _free()
        return int(ports[part])

    def listens(self, part: str, port: int) -> bool:
        """Whether the part, or a process that it has started, listens on a port."""
        process = self.process(part)
        with suppress(psutil.Error):
            family = [] if process is None else [process, *process.children(recursive=True)]
            held = (held for one in family for held in one.net_connections("tcp"))
            return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in held)
        return False

    def process(self, part: str) -> psutil.Process | None:
        """The part's process, where it runs."""
        pid, created = self.known.get("processes", {}).get(part, (0, ""))
        with suppress(psutil.Error):
            found = psutil.Process(pid)
            if pid and _born(found) == created and found.status() != psutil.STATUS_ZOMBIE:
                return found
        return None

    def started(self, part: str, pid: int) -> None:
        """Keep that this process is the part."""
        self.known.setdefault("processes", {})[part] = (pid, _born(psutil.Process(pid)))
        self.save()

    def spawn(self, part: str, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a part that outlives this command; it writes into the folder ``logs``."""
        with self.log(part).open("ab") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started(part, process.pid)
        return process

    def log(self, part: str) -> Path:
        """Where a part writes."""
        return self.folder / "logs" / f"{part}.log"

    def end(self, part: str) -> bool:
        """End a part and what it has started; whether it ran."""
        process = self.process(part)
        if process is None:
            return False
        family = [process, *process.children(recursive=True)]
        process.terminate()
        psutil.wait_procs([process], 30)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in psutil.wait_procs(family, 15)[1]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        return True


def up(here: Installation, limit: int | None = None) -> None:
    """Start what does not run, and register the deployments.

    Args:
        limit: of the worker's runs at a time; without one it takes each run as soon as it sees it.
    """
    for name in ("logs", "prefect", "s3"):
        (here.folder / name).mkdir(parents=True, exist_ok=True)
    env = settings(here)
    write_environment(here.folder / "env", env)
    if here.process("s3") is None:
        say("starting the S3 store")
        os.environ.update({name: value for name, value in env.items() if name.startswith("AWS_")})
        port = here.port("s3", 8333)
        store = S3Server(here.folder / "s3", port)
        store.start()
        assert store.process is not None
        here.started("s3", store.process.pid)
        if not here.listens("s3", port):
            sys.exit(f"Another S3 server answers at {store.endpoint}. End it, or type make down and make up again.")
    if here.process("server") is None:
        say("starting the Prefect server")
        here.spawn("server", server_command("127.0.0.1", here.port("server", 4200)), env)
    wait_for(f"{env['PREFECT_API_URL']}/health", here, "server")
    deploy(here, env)
    if here.process("worker") is None:
        say("starting the worker")
        here.port("worker", 8080)  # leaves where it was taken since ``settings``
        at_a_time = [] if limit is None else ["--limit", str(limit)]
        here.spawn("worker", [*worker_command(), "--name", f"fem-{platform.node()}", *at_a_time], env)
    wait_for(f"http://127.0.0.1:{env['PREFECT_WORKER_WEBSERVER_PORT']}/health", here, "worker")
    status(here)


def server_command(host: str, port: int) -> list[str]:
    """What starts a Prefect server; deployments/containers has the same."""
    return [sys.executable, "-m", "deployments.server", "start", "--host", host, "--port", str(port)]


def worker_command() -> list[str]:
    """What starts a worker; deployments/containers has the same."""
    return [*_PREFECT, "worker", "start", "--pool", POOL, "--type", "process", "--with-healthcheck"]


_PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def settings(here: Installation) -> dict[str, str]:
    """The environment of server, worker and people; credentials are made once and then kept."""
    kept = read_environment(here.folder / "env")
    api = f"http://127.0.0.1:{here.port('server', 4200)}/api"
    return {
        "PREFECT_HOME": str(here.folder / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT,
        # In memory, as by default, slots would stay taken for ever when the server restarts.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # How long a run waits before it asks again whether the device is free; 30 s by default.
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(here.port("worker", 8080)),
        "FEM_DEVICE": "fem-device-" + (re.sub(r"[^a-z0-9-]+", "-", platform.node().lower()) or "here"),
        "FEM_STORE": f"s3://{BUCKET}/runs",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{here.port('s3', 8333)}",
        "AWS_ACCESS_KEY_ID": kept.get("AWS_ACCESS_KEY_ID") or secrets.token_hex(10),
        "AWS_SECRET_ACCESS_KEY": kept.get("AWS_SECRET_ACCESS_KEY") or secrets.token_hex(20),
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def deploy(here: Installation, env: dict[str, str]) -> None:
    """The device's limit, and what ``fem deploy`` registers: the three deployments, and the demo as one of its own."""
    asyncio.run(_limit(env))
    fem = [sys.executable, "-m", "flows.cli", "deploy"]
    for one in ([], [str(ROOT / "configs" / "demo.yaml")]):
        command = [*fem, *one, "--store", env["FEM_STORE"], "--folder", str(here.folder), "--pool", POOL]
        done = subprocess.run(command, env=os.environ | env, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"The deployments could not be registered: {done.stderr.strip() or done.stdout.strip()}")
        print(done.stdout, end="")


async def _limit(env: dict[str, str]) -> None:
    from prefect.client.orchestration import PrefectClient

    from flows.server import device

    async with PrefectClient(env["PREFECT_API_URL"]) as client:
        await device(client, env["FEM_DEVICE"])


def down(here: Installation) -> None:
    """End the worker with the runs that it does, then the server, then the store."""
    for part in PARTS:
        print(f"{part}: {'ended' if here.end(part) else 'does not run'}")
    print(f"Everything is kept in {here.folder}; `make up` goes on from there.")


def status(here: Installation) -> bool:
    """Say what runs where; whether all does."""
    ports = here.known.get("ports", {})
    places = {
        "server": f"http://127.0.0.1:{ports.get('server')}  (API: /api)",
        "s3": f"http://127.0.0.1:{ports.get('s3')}  (bucket {BUCKET})",
        "worker": f"work pool {POOL}",
    }
    runs = {part: here.process(part) for part in reversed(PARTS)}
    for part, process in runs.items():
        what = f"pid {process.pid}, {places[part]}, log {here.log(part)}" if process else "does not run"
        print(f"{part:7} {what}")
    print(f"In a shell: source {shlex.quote(str(here.folder / 'env'))}")
    return all(runs.values())


def wait_for(url: str, here: Installation, part: str, seconds: float = 300) -> None:
    """Until the part answers at the URL, and no other program; leaves with the end of the part's log when it ends before."""
    port = urlsplit(url).port or 80
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and here.process(part) is not None:
        if health.answers(url) and here.listens(part, port):
            return
        time.sleep(0.5)
    sys.exit(f"The {part} does not answer at {url}. Its log ends with:\n{here.log(part).read_text()[-1500:]}")


def write_environment(file: Path, env: dict[str, str]) -> None:
    """Lines that a shell reads; the file is its owner's alone from the moment it is there."""
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    new.replace(file)


def read_environment(file: Path) -> dict[str, str]:
    """What ``write_environment`` wrote; nothing where it has not."""
    lines = file.read_text().splitlines() if file.is_file() else []
    pairs = (shlex.split(line.removeprefix("export "))[0].partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(text: str) -> None:
    """At once, as starting takes a while."""
    print(text, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["up", "down", "status"])
    parser.add_argument("--folder", type=Path, default=ROOT / ".fem-up", help="where everything is kept")
    parser.add_argument("--limit", type=int, help="runs that the worker does at a time; any number by default")
    arguments = parser.parse_args()
    if not WEED.is_file():
        sys.exit("The S3 server is not installed. Type: make up")
    here = Installation(arguments.folder)
    if arguments.what == "status":
        sys.exit(0 if status(here) else 1)
    if arguments.what == "down":
        down(here)
        return
    here.folder.mkdir(parents=True, exist_ok=True)
    up(here, arguments.limit)


if __name__ == "__main__":
    main()
