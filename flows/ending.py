"""How a command ends: a sentence that can be shown, and an exit code."""

import os
import sys
from typing import NoReturn

TELL_SECONDS = 10.0
"""How long a command waits at its end for the Prefect server to take what it has been told."""


def safe(text: str) -> str:
    """Text from data, models or servers without control characters; line breaks stay."""
    return "".join(c for c in text if c.isprintable() or c == "\n")


def sentence(error: BaseException) -> str:
    """An error in one line."""
    return safe(" ".join(str(error).split())) or type(error).__name__


def part(text: str, code: int) -> None:
    """Give the Prefect server a while to take the last events and log lines; leave with the sentence where it does not.

    Prefect itself spends eight seconds on each event that a server has not taken, however many there are.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    drained = [one.drain_all(timeout=TELL_SECONDS) for one in (EventsWorker, APILogWorker)]
    if any(waiting for _, waiting in drained):  # type: ignore[misc]
        leave(f"The Prefect server has not taken all that it was told; {text}", code)


def leave(text: str, code: int) -> NoReturn:
    """Say it and go at once: Prefect's exit handlers would wait for a server that may have gone."""
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if "prefect.server.api.server" in sys.modules:
        servers = sys.modules["prefect.server.api.server"].SubprocessASGIServer._instances
        for server in list(servers.values()):
            server.stop()
    os._exit(code)
