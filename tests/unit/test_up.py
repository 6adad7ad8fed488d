"""`make up` where another program has a port of its installation."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

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
