"""Prefect's temporary server, which a run uses that no server is named for: it hears no Ctrl-C, and ends with the run.

Prefect starts it in the terminal's process group. There a Ctrl-C ends the server beside the run, which then asks it for a
minute how to end and fails. This one has a session of its own and ends when its standard input does, so it does not
outlive the process that started it, however that ends.
"""

import os
import signal
import subprocess
import sys
import threading

import uvicorn
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings

SETTINGS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
"""As Prefect sets them for its own."""


class TemporaryServer(SubprocessASGIServer):
    """The first one that is made in a process is the one that Prefect takes."""

    def _run_uvicorn_command(self) -> "subprocess.Popen[bytes]":
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        return subprocess.Popen(
            [sys.executable, "-m", "flows.temporary_server", str(self.port)],
            env={**os.environ, **SETTINGS, **settings},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )


def main() -> None:
    """Serve on loopback until standard input ends or a signal comes."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
    )


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
