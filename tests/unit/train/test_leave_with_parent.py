"""A trainer ends with the process that launched it, and not because a clock was set."""

import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.slow  # it imports the trainer

TRAINER = """
import time
import psutil
from fem_core.train.sft import leave_with_parent
booted = psutil.boot_time()
psutil._pslinux.boot_time = lambda: booted + 2
leave_with_parent()
time.sleep(2)
print("works", flush=True)
time.sleep(60)
"""

LAUNCHER = f"""
import os, subprocess, sys
from fem_core.train.launch import environment
child = subprocess.Popen([sys.executable, "-c", {TRAINER!r}], env=environment(1, "cpu"), start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_a_clock_that_is_set_kills_no_trainer_and_a_dead_parent_does() -> None:
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    trainer = psutil.Process(int(launcher.stdout.readline()))
    try:
        assert launcher.stdout.readline() == "works\n"
        launcher.kill()
        launcher.wait()
        trainer.wait(15)
    finally:
        launcher.kill()
        if trainer.is_running():
            trainer.kill()
