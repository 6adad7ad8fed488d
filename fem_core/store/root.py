"""What the store needs of a place: whole objects by relative path.

Contract: ``create`` writes the whole object or nothing and never replaces one; two writers of one path see exactly one
True. A reader sees no half-written object. Synchronous: do not call it on fsspec's own event loop (it would wait for
itself). ``local.py`` and ``remote.py`` are the two kinds, ``fs.py`` opens one from a URL.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from fem_core.errors import FemError
from fem_core.store import s3

TEMPORARY = ".tmp-"
"""How unfinished local files begin: hidden, and without a suffix, so that no ``*.parquet`` glob takes them."""

PIECE = 16 * 1024 * 1024
"""Bytes of a piece, where objects are read or written in several."""


class Object(NamedTuple):
    """What there is to know of an object without reading it."""

    bytes: int
    """Size."""
    modified: float
    """When it came to be what and where it is, seconds since 1970; infinite where the filesystem does not say."""


class Root(Protocol):
    """What the store needs of a place. Paths are relative, with ``/``."""

    url: str
    """Where it is, safe to show."""

    def wait(self, seconds: float) -> None:
        """From now on wait so long for a server that does not answer, then raise ``StoreAway``."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object: True when created, False when there was one."""

    def replace(self, path: str, data: bytes) -> None:
        """Write an object, whatever was there."""

    def put(self, path: str, source: Path) -> None:
        """Like ``replace``, with a local file's content. The file may end up sharing its bytes with the object."""

    def stream(self, path: str, pieces: Iterable[bytes]) -> None:
        """Like ``replace``, with content that comes in pieces. Where they end in an error, nothing is written."""

    def read(self, path: str) -> bytes:
        """A whole object. Raises FileNotFoundError."""

    def pieces(self, path: str) -> Iterator[bytes]:
        """A whole object in pieces of at most 16 MiB. Raises FileNotFoundError."""

    def size(self, path: str) -> int | None:
        """Bytes of an object; None where there is none."""

    def children(self, path: str) -> list[str]:
        """Names directly below a folder, sorted; none where there is no folder."""

    def files(self, path: str) -> dict[str, int]:
        """All objects below a folder, at any depth, by path relative to it, with their bytes; sorted. None of another
        writer's unfinished local files."""

    def objects(self, path: str) -> dict[str, Object]:
        """All objects below a folder, at any depth, by path relative to it, unfinished local files too; sorted. None
        whose path the store could not have written. Raises OSError where a folder may not be read."""

    def uploads(self, path: str) -> list[s3.Upload]:
        """Uploads of objects below a folder that are not finished, by path relative to the root."""

    def remove(self, path: str) -> None:
        """Remove an object that is there."""

    def remove_all(self, paths: Sequence[str]) -> None:
        """Remove objects, in batches where the filesystem has them. One that is gone already is no error."""

    def abort(self, upload: s3.Upload) -> None:
        """Give up an upload that is not finished; its parts are removed."""


def inside(path: str) -> str:
    """The path, where it stays in the store. Raises FemError."""
    if not is_inside(path):
        raise FemError(f"The path {path!r} leads out of the store. Use a path relative to the store's root.")
    return path


def is_inside(path: str) -> bool:
    """Whether a relative path names something below the root."""
    return all(part not in ("", ".", "..") for part in path.split("/")) and "\\" not in path
