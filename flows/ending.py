"""How a command ends: a sentence that can be shown, and an exit code."""

import os
import sys
from typing import NoReturn


def safe(text: str) -> str:
    """Text from data, models or servers without control characters; line breaks stay."""
    return "".join(c for c in text if c.isprintable() or c == "\n")


def sentence(error: BaseException) -> str:
    """An error in one line."""
    return safe(" ".join(str(error).split())) or type(error).__name__


def leave(text: str, code: int) -> NoReturn:
    """Say it and go at once: Prefect's exit handlers would wait for a server that the same Ctrl-C may have ended."""
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if "prefect.server.api.server" in sys.modules:
        servers = sys.modules["prefect.server.api.server"].SubprocessASGIServer._instances
        for server in list(servers.values()):
            server.stop()
    os._exit(code)
