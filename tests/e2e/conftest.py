"""A real Prefect server for the whole path, a tiny model, and one run that was killed, continued and finished."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from place import Workplace, children_of, digests, until, workplace

from benchmarks.tiny_model import answering_llama, letters
from deployments.up import server_command
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model
from fem_core.store.root import TEMPORARY


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Prefect server's API, with a database of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    env = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    with (home / "server.log").open("wb") as log:
        command = server_command("127.0.0.1", port)
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_for(f"{url}/health", server, home / "server.log")
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(240):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            assert server.poll() is None, log.read_text()[-2000:]
            time.sleep(0.5)
    raise AssertionError(f"the Prefect server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``letters.jsonl`` and a model of a few hundred kilobytes that solves two thirds of it."""
    folder = tmp_path_factory.mktemp("taught")
    answering_llama(packaged_model(default_cache()), folder / "model", letters(folder, 40))
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Workplace:
    return workplace(tmp_path_factory.mktemp("a run with spaces") / "here", prefect_server)


@pytest.fixture(scope="session")
def killed(place: Workplace) -> dict[str, str]:
    """A run that was killed with -9 after its first part was committed; what the store held then."""
    process = place.start("run", "demo.yaml")
    parts = place.run_dir / "iteration=001" / "attempts"
    until(lambda: list(parts.glob("part-*.parquet")), 240, "a first part")
    family = children_of(process.pid, "fem_core")
    assert family, "the engine host should be a child of the flow's process"
    process.kill()
    process.wait()
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in family), 15, "the end of the host")
    # A kill in the middle of a write leaves a file like this; few kills hit that moment.
    (parts / f"{TEMPORARY}half").write_bytes(b"PAR1")
    return digests(place.run_dir)


@pytest.fixture(scope="session")
def finished(place: Workplace, killed: dict[str, str]) -> str:
    """The output of continuing it, from another folder."""
    done = place.fem("resume", "demo", "--store", str(place.folder / "fem-store"), cwd=place.folder.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
