"""How a command ends whose Prefect server has gone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, json, threading
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from websockets.asyncio.server import serve
from flows import ending

ready, gone, closed = threading.Event(), threading.Event(), threading.Event()
ports = []

async def server():
    async def take(socket):
        await socket.recv()
        await socket.send(json.dumps({"type": "auth_success"}))
        async for _ in socket:
            pass
    async with serve(take, "127.0.0.1", 0, subprotocols=["prefect"]) as listening:
        ports.append(listening.sockets[0].getsockname()[1])
        ready.set()
        await asyncio.to_thread(gone.wait)
    closed.set()

def tell(count):
    for n in range(count):
        emit_event("told", resource={"prefect.resource.id": f"event.{n}"})

threading.Thread(target=lambda: asyncio.run(server()), daemon=True).start()
ready.wait()
ending.TELL_SECONDS = 3.0
with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{ports[0]}/api"}):
    tell(1)
    EventsWorker.instance().wait_until_empty()
    gone.set()
    closed.wait()
    tell(30)
    ending.part("the run is complete", 0)
"""


@pytest.mark.slow
def test_a_command_does_not_wait_for_each_event_that_a_server_does_not_take(tmp_path: Path) -> None:
    """Prefect alone spends eight seconds on each: four minutes here."""
    env = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "The Prefect server has not taken all that it was told; the run is complete" in done.stderr
