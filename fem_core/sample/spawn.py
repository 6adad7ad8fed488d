"""Starts the engine host's process, perhaps before anybody knows what it will draw.

Contract: the process imports what an engine needs as soon as it runs, and then waits for orders on its socket; it ends
when the socket is closed. On a GPU vLLM has processes of its own below it, which hold the device and do not end with it:
whoever sees the host's end ends them. Loads neither torch nor vllm. Knows no event loop, so that a process may be started
before there is one.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

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
    _swept: bool = False

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
        """Wait for its end, and end what it has left.

        Raises:
            subprocess.TimeoutExpired: after ``timeout`` seconds.
        """
        self._process.wait(timeout)
        if not self._swept:  # once: the number of a group that is empty may become another's
            self._swept = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

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


def leave() -> None:
    """End this host at once, whatever its other threads do, and what it has started."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    os._exit(0)


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
