"""A filesystem that may be away for a while: calls are repeated with backoff, and what then fails says why.

Contract: only what may pass by itself is repeated (no connection, a server that is busy or restarting). All calls that
the store makes may be repeated: a conditional create whose answer was lost comes back as "there already", and the
store then reads what is there. What a person must mend, such as wrong credentials, is one sentence at once.
"""

import errno
import time
from collections.abc import Callable
from typing import Any

from fem_core.errors import FemError, StoreAway

LOOKING = 5.0
"""Seconds that a command waits for a store which does not answer: somebody sits in front of it."""
WORKING = 120.0
"""Seconds that a run waits before its step fails: a server may be restarted meanwhile."""

_LONGEST_PAUSE = 10.0
_AWAY = {
    *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError"),
    *("ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError", "FSTimeoutError"),
    *("ConnectionError", "TimeoutError", "ResponseStreamingError", "IncompleteReadError"),
}
_BUSY = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "500", "502", "503", "504"}
_STRANGER = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "403"}


class Patient:
    """Stands for an fsspec filesystem; each call of a method is tried for ``seconds`` from when it first fails."""

    def __init__(self, filesystem: Any, url: str) -> None:
        self.seconds = LOOKING
        """May be changed at any time."""
        self._filesystem = filesystem
        self._url = url

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._filesystem, name)
        return self._patiently(value) if callable(value) else value

    def _patiently(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def tried(*args: Any, **kwargs: Any) -> Any:
            began, away, pause = time.monotonic(), False, 0.2
            while True:
                try:
                    return call(*args, **kwargs)
                except Exception as error:
                    if is_refusal(error):
                        raise FemError(sentences(self._url, error)) from error
                    if not is_away(error):
                        raise
                    if not away and not _unreached(error):
                        began = time.monotonic()  # until now the server was at work on it, maybe for long
                    away = True
                    waited = time.monotonic() - began
                    if waited + pause > self.seconds:
                        raise StoreAway(
                            f"The store {self._url} has not answered for {waited:.0f} s ({type(error).__name__}). What is "
                            "committed is kept: check the network, AWS_ENDPOINT_URL and the server, then go on."
                        ) from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

        return tried


def is_away(error: BaseException) -> bool:
    """Whether the same call may succeed later without anybody's help."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & _AWAY) or s3_code(error) in _BUSY


def _unreached(error: BaseException) -> bool:
    """Whether there was no connection, so all the time of the call went into waiting for one."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"EndpointConnectionError", "ConnectTimeoutError"})


def is_refusal(error: BaseException) -> bool:
    """Whether the server does not know us, or does not let us."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return (
        bool(names & {"NoCredentialsError", "PartialCredentialsError", "PermissionError"})
        or s3_code(error) in _STRANGER
    )


def s3_code(error: BaseException) -> str | None:
    """The S3 error code behind an error of s3fs, which keeps botocore's error as the cause."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code")) if isinstance(response, dict) else None


def sentences(url: str, error: BaseException) -> str:
    """What is wrong with a store, and what to do. Never shows what the server said, which may hold a secret."""
    number = error.errno if isinstance(error, OSError) else None
    name = type(error).__name__
    if isinstance(error, StoreAway):
        return str(error)
    if isinstance(error, PermissionError) or number == errno.EROFS or s3_code(error) in _STRANGER:
        return f"The store {url} may not be written with your rights. Check permissions and credentials."
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of the store {url} is full. Free some space or name another store."
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"The store {url} cannot be a folder, as a file lies on its path. Name another folder."
    if isinstance(error, FileNotFoundError):
        return f"The place of the store {url} does not exist. Create the bucket, or correct the name."
    if "Credential" in name:
        return f"There are no credentials for the store {url}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    if is_away(error) or "Connect" in name or "Timeout" in name:
        return f"The store {url} does not answer ({name}). Check the network and AWS_ENDPOINT_URL."
    return f"The store {url} could not be written ({name}). Check its URL and the server's log, or name another store."
