"""``fem browse``: a store in the web browser."""

import os
from typing import Annotated

from cyclopts import Parameter

from flows.commands.options import DEFAULT_STORE, StoreUrl


def browse(
    *,
    store: StoreUrl = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=lambda _, value: _port(value))] = 8765,
    token_env: str | None = None,
) -> None:
    """Serve a store to the web browser: runs, rationales and why they were kept, lineage, files to take along.

    Reads the store and writes nothing to it but annotations.

    Parameters
    ----------
    store
        Folder or URL of the store; ./fem-store by default.
    host
        Address to listen at; only this machine by default. Any other needs a token.
    port
        Port to listen at; 0 takes a free one.
    token_env
        Name of an environment variable that holds the token which readers must know.
    """
    import socket

    import uvicorn

    from fem_core.browse.app import application
    from fem_core.browse.library import Library
    from fem_core.browse.security import check_token
    from fem_core.errors import FemError
    from flows.ending import safe

    token = None
    if token_env is not None:
        token = os.environ.get(token_env, "").strip()  # a file's last line feed is no part of it
        if not token:
            raise FemError(f"The variable {token_env} is not set. Put the token there, or leave --token-env out.")
    check_token(host, token)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(128)  # whoever reads the address below may ask at once
        except OSError as error:
            raise FemError(f"{host}:{port} cannot be listened at ({error.strerror}). Choose another --port.") from error
        library = Library(store or DEFAULT_STORE)
        shown = f"[{host}]" if ":" in host else host
        print(f"{safe(library.store.url)} at http://{shown}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(
            application(library, token),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=5,
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            library.close()


def _port(value: int) -> None:
    if not 0 <= value <= 65535:
        raise ValueError("a port is a number from 0 to 65535")
