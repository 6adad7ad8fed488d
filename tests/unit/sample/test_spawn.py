"""What an engine host has started ends with it: on a GPU vLLM has a process of its own there, which holds the device."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from fem_core.sample.spawn import HostProcess

HOST = """
import subprocess, sys, threading, time
from fem_core.sample.spawn import leave
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(engine.pid, flush=True)
{then}
"""


@pytest.mark.parametrize(
    "then", ["threading.Thread(target=leave).start(); time.sleep(60)", "sys.stdout.close(); time.sleep(60)"]
)
def test_no_engine_outlives_its_host(then: str) -> None:
    """The first one leaves as when its flow has gone, and the second is killed, as for want of memory."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-c", HOST.format(then=then)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    engine = psutil.Process(int(process.stdout.readline()))
    with ours, theirs:
        host = HostProcess(ours, 0, process)
        if "leave" in then:
            engine.wait(15)
        else:
            os.kill(process.pid, signal.SIGKILL)
        host.wait(15)
    engine.wait(15)
    assert host.returncode == (0 if "leave" in then else -signal.SIGKILL)
