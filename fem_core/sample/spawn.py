"""Starts the engine host's process, perhaps before anybody knows what it will draw.

Contract: the process imports what an engine needs as soon as it runs, and then waits for orders on its socket; it ends
when the socket is closed. Loads neither torch nor vllm. Knows no event loop, so that a process may be started before
there is one.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fem_core.device import find_device
from fem_core.sample.engine_settings import environment, preload


@dataclass
class HostProcess:
    """An engine host that runs, and the socket that leads to it."""

    channel: socket.socket
    """Ours of the two ends."""
    log_start: int
    """Where its output begins in its log, bytes."""
    _process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """As ``subprocess`` has it; None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: after ``timeout`` seconds.
        """
        self._process.wait(timeout)

    def kill(self) -> None:
        """End it by force, with what it has started."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """End a process that nobody has taken over, and wait for that."""
        self.channel.close()
        self.kill()
        self.wait()


def spawn(log: Path) -> HostProcess:
    """Start a host.

    Args:
        log: file that takes its output, at its end.
    """
    device = find_device()
    env = {**os.environ, **environment(device)}
    libraries = [lib for lib in (preload() if device == "cpu" else None, os.environ.get("LD_PRELOAD")) if lib]
    if libraries:
        env["LD_PRELOAD"] = ":".join(libraries)
    log.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = socket.socketpair()
    with theirs, log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "fem_core.sample.host", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return HostProcess(ours, start, process)
