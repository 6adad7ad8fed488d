"""`make up` where another program has a port of its installation."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from deployments.up import Installation, wait_for

Start = Callable[..., subprocess.Popen[bytes]]


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a server that says it is well, and is not the installation's."""
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def here(tmp_path: Path, stranger: int) -> Installation:
    """An installation whose server had the port that the stranger has now."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "installation.json").write_text(json.dumps({"ports": {"server": stranger}}))
    return Installation(tmp_path)


@pytest.fixture
def start(here: Installation) -> Iterator[Start]:
    """``start(part, *command)``; it is ended with the test."""
    started = []

    def spawn(part: str, *command: str) -> subprocess.Popen[bytes]:
        started.append(here.spawn(part, list(command), {}))
        return started[-1]

    yield spawn
    for process in started:
        process.kill()
        process.wait()


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_that_another_program_took_is_left_to_it(here: Installation, start: Start, stranger: int) -> None:
    start("worker", "sleep", "60")
    with pytest.raises(SystemExit, match=rf"^Port {stranger} of the server is taken by another program\. .* make down"):
        here.port("server", stranger)
    assert here.end("worker")
    chosen = here.port("server", stranger)
    assert chosen != stranger and here.port("server", stranger) == chosen


def test_a_port_that_the_part_itself_has_stays_its_own(here: Installation, start: Start, stranger: int) -> None:
    start("server", "sleep", "60")
    assert here.port("server", 1) == stranger


def test_an_answer_counts_when_the_installations_own_process_listens_there(
    here: Installation, start: Start, stranger: int
) -> None:
    start("server", "sleep", "1")
    with pytest.raises(SystemExit, match=rf"^The server does not answer at http://127\.0\.0\.1:{stranger}/"):
        wait_for(f"http://127.0.0.1:{stranger}/api/health", here, "server", 60)
    port = free()
    start("server", sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    wait_for(f"http://127.0.0.1:{port}/", here, "server", 60)


def test_a_clock_that_is_set_hides_no_process(
    here: Installation, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux's start of the machine, from which psutil has the time at which a process began, moves with the clock."""
    started = start("worker", "sleep", "60")
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 3600)
    found = Installation(here.folder).process("worker")
    assert found is not None and found.pid == started.pid
    assert Installation(here.folder).end("worker")


def test_an_id_that_another_process_has_got_is_left_alone(here: Installation, start: Start) -> None:
    started = start("worker", "sleep", "60")
    here.known["processes"]["worker"] = (started.pid, "another boot 1")
    assert here.process("worker") is None and not here.end("worker") and started.poll() is None
