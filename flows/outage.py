"""Errors of a Prefect server that pass by themselves."""

import httpx


def is_away(error: BaseException | None) -> bool:
    """Whether the server could not be reached, or was too busy to answer."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.TransportError)
