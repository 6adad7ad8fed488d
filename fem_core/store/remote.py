"""A root on any fsspec filesystem with conditional create, S3 above all."""

import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from fem_core.errors import FemError
from fem_core.store import s3
from fem_core.store.patience import Patient, s3_code
from fem_core.store.root import PIECE, Object, inside, is_inside

_MEMORY = threading.Lock()


class RemoteRoot:
    """An fsspec filesystem whose ``pipe_file(mode="create")`` is one conditional request.

    fsspec's own ``pipe_file`` asks ``exists`` first and then writes, so two writers can both win: it is refused.
    (Asked of the instance, not the class: async filesystems such as s3fs get their synchronous methods when made.)
    The in-process memory filesystem does the same, but there a lock makes it one step.
    """

    def __init__(self, filesystem: Any, base: str, url: str) -> None:
        self._base = base.rstrip("/")
        self.url = url.rstrip("/")
        self._fs: Any = Patient(filesystem, self.url)
        self._alone: AbstractContextManager[Any] = nullcontext()
        self._in_memory = isinstance(filesystem, MemoryFileSystem)
        if self._in_memory:
            self._alone = _MEMORY
        elif getattr(filesystem.pipe_file, "__func__", None) is fsspec.AbstractFileSystem.pipe_file:
            raise FemError(
                f"The store {self.url} cannot create a file only if it is absent, so two runs could overwrite each "
                "other. Use a local folder or S3."
            )

    def wait(self, seconds: float) -> None:
        """From now on wait so long for a server that does not answer."""
        self._fs.seconds = seconds

    def _at(self, path: str) -> str:
        return f"{self._base}/{inside(path)}"

    def create(self, path: str, data: bytes) -> bool:
        for pause in (0.1, 0.3, 1.0, 3.0, None):
            try:
                with self._alone:
                    self._fs.pipe_file(self._at(path), data, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:
                code = s3_code(error)
                if code in ("PreconditionFailed", "412"):
                    return False
                if code not in ("ConditionalRequestConflict", "409") or pause is None:
                    raise
            time.sleep(pause)
        raise AssertionError("the last try either returns or raises")

    def replace(self, path: str, data: bytes) -> None:
        with self._alone:
            self._fs.pipe_file(self._at(path), data)

    def stream(self, path: str, pieces: Iterable[bytes]) -> None:
        """As parts of 16 MiB, of which S3 makes an object when the last one is there; at most 10,000 parts."""
        if self._in_memory:
            self.replace(path, b"".join(pieces))
            return
        upload = self._fs.open(self._at(path), "wb", block_size=PIECE)
        try:
            for piece in pieces:
                upload.write(piece)
            upload.close()
        except BaseException:
            upload.closed = True  # closing it, which its finaliser would do, publishes what is there
            upload.discard()
            raise

    def put(self, path: str, source: Path) -> None:
        with self._alone:
            self._fs.put_file(str(source), self._at(path))

    def read(self, path: str) -> bytes:
        """One request: s3fs otherwise asks for the size first, to read large objects in parallel."""
        return bytes(self._fs.cat_file(self._at(path), max_concurrency=1))

    def pieces(self, path: str) -> Iterator[bytes]:
        """Ranged reads, which share no file position between threads."""
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{path}")
        for start in range(0, size, PIECE):
            yield bytes(self._fs.cat_file(self._at(path), start=start, end=min(start + PIECE, size)))

    def size(self, path: str) -> int | None:
        try:
            info = self._fs.info(self._at(path))
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def children(self, path: str) -> list[str]:
        try:
            found = self._fs.ls(self._at(path), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        below = f"{self._at(path)}/".lstrip("/")  # some servers list an empty folder as its own child
        names = (str(name).strip("/") for name in found)
        return sorted(name.removeprefix(below) for name in names if name.startswith(below))

    def files(self, path: str) -> dict[str, int]:
        below = f"{self._at(path)}/".lstrip("/")
        try:
            found = self._fs.find(self._at(path), detail=True)
        except FileNotFoundError:
            return {}
        sizes = {str(name).lstrip("/"): int(info["size"]) for name, info in found.items() if info["type"] == "file"}
        return {name.removeprefix(below): sizes[name] for name in sorted(sizes) if name.startswith(below)}

    def objects(self, path: str) -> dict[str, Object]:
        below = f"{self._at(path)}/".lstrip("/")
        try:
            listed = self._fs.find(self._at(path), detail=True)
        except FileNotFoundError:
            return {}
        found = {str(name).lstrip("/"): info for name, info in listed.items() if info["type"] == "file"}
        return {
            name.removeprefix(below): Object(int(found[name]["size"]), _modified(found[name]))
            for name in sorted(found)
            if name.startswith(below) and is_inside(name.removeprefix(below))
        }

    def uploads(self, path: str) -> list[s3.Upload]:
        if not hasattr(self._fs, "call_s3"):
            return []
        found = s3.uploads(self._fs, self._at(path))
        return [upload._replace(path=upload.path.removeprefix(f"{self._base}/".lstrip("/"))) for upload in found]

    def remove(self, path: str) -> None:
        self._fs.rm_file(self._at(path))

    def remove_all(self, paths: Sequence[str]) -> None:
        if hasattr(self._fs, "call_s3"):
            s3.remove(self._fs, [self._at(path) for path in paths])
            return
        for path in paths:
            with suppress(FileNotFoundError):
                self.remove(path)

    def abort(self, upload: s3.Upload) -> None:
        s3.abort(self._fs, self._at(upload.path), upload.id)


def _modified(info: dict[str, Any]) -> float:
    """The time in an fsspec listing: S3 and the memory filesystem have it under different names."""
    time = info.get("LastModified") or info.get("created")
    return time.timestamp() if isinstance(time, datetime) else float("inf")
