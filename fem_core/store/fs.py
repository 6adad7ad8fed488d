"""The store's root: whole objects by relative path, on a local folder or any fsspec filesystem with conditional create.

Contract: ``create`` writes the whole object or nothing and never replaces one; two writers of one path see exactly one
True. A reader sees no half-written object. Synchronous: do not call it on fsspec's own event loop (it would wait for
itself).
"""

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.memory import MemoryFileSystem

from fem_core.errors import FemError
from fem_core.store.manifest import safe_url

TEMPORARY = ".tmp-"
"""How unfinished local files begin: hidden, and without a suffix, so that no ``*.parquet`` glob takes them."""

_PIECE = 16 * 1024 * 1024
_MEMORY = threading.Lock()


class Root(Protocol):
    """What the store needs of a place. Paths are relative, with ``/``."""

    url: str
    """Where it is, safe to show."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object: True when created, False when there was one."""

    def replace(self, path: str, data: bytes) -> None:
        """Write an object, whatever was there."""

    def put(self, path: str, source: Path) -> None:
        """Like ``replace``, with a local file's content. The file may end up sharing its bytes with the object."""

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

    def remove(self, path: str) -> None:
        """Remove an object that is there."""


def open_root(url: str) -> "LocalRoot | RemoteRoot":
    """The root at a local path (``~`` is understood) or fsspec URL. Touches nothing yet.

    Raises:
        FemError: the URL cannot be used; the message never shows credentials.
    """
    if "://" not in url:
        return LocalRoot(Path(url).expanduser().absolute())
    scheme, _, rest = url.partition("://")
    if scheme in ("file", "local"):
        return LocalRoot(Path(rest).expanduser().absolute())
    shown = safe_url(url)
    if scheme in ("s3", "s3a") and ("@" in rest.partition("/")[0] or "?" in rest):
        raise FemError(
            f"The store URL {shown} carries credentials or a query, which S3 URLs cannot. "
            "Give credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY and an endpoint in AWS_ENDPOINT_URL."
        )
    try:
        filesystem, base = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise FemError(
            f"The store URL {shown} needs a package that is missing. Install the one for {scheme}://."
        ) from error
    except ValueError as error:
        raise FemError(
            f"The store URL {shown} cannot be used: {type(error).__name__}. "
            "Use a folder or an fsspec URL such as s3://bucket/prefix."
        ) from error
    return RemoteRoot(filesystem, base, shown)


class LocalRoot:
    """A folder. Creation is a temporary file, fsync, and a hard link, which fails where the name is taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def at(self, path: str) -> Path:
        """The path on this machine."""
        return self.folder / _inside(path)

    def create(self, path: str, data: bytes) -> bool:
        target = self.at(path)
        if target.exists():
            return False
        temporary = _written(target.parent, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            raise FemError(
                f"The file system under {self.url} has no hard links, so two runs could overwrite each other. "
                "Put the store on another disk or on S3."
            ) from error
        finally:
            temporary.unlink()
        _sync(target.parent)
        return True

    def replace(self, path: str, data: bytes) -> None:
        target = self.at(path)
        os.replace(_written(target.parent, data), target)
        _sync(target.parent)

    def put(self, path: str, source: Path) -> None:
        target = self.at(path)
        _make_folders(target.parent)
        temporary = _temporary(target.parent)
        try:
            _link_or_copy(source, temporary)
            _sync(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(target.parent)

    def read(self, path: str) -> bytes:
        return self.at(path).read_bytes()

    def pieces(self, path: str) -> Iterator[bytes]:
        with self.at(path).open("rb") as stream:
            while piece := stream.read(_PIECE):
                yield piece

    def size(self, path: str) -> int | None:
        file = self.at(path)
        return file.stat().st_size if file.is_file() else None

    def children(self, path: str) -> list[str]:
        folder = self.at(path)
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def files(self, path: str) -> dict[str, int]:
        folder = self.at(path)
        found = {}
        for here, _, names in os.walk(folder):
            for name in names:
                if not name.startswith(TEMPORARY):
                    file = Path(here, name)
                    found[file.relative_to(folder).as_posix()] = file.stat().st_size
        return dict(sorted(found.items()))

    def remove(self, path: str) -> None:
        self.at(path).unlink()


class RemoteRoot:
    """An fsspec filesystem whose ``pipe_file(mode="create")`` is one conditional request.

    fsspec's own ``pipe_file`` asks ``exists`` first and then writes, so two writers can both win: it is refused.
    (Asked of the instance, not the class: async filesystems such as s3fs get their synchronous methods when made.)
    The in-process memory filesystem does the same, but there a lock makes it one step.
    """

    def __init__(self, filesystem: Any, base: str, url: str) -> None:
        self._fs = filesystem
        self._base = base.rstrip("/")
        self.url = url.rstrip("/")
        self._alone: AbstractContextManager[Any] = nullcontext()
        if isinstance(filesystem, MemoryFileSystem):
            self._alone = _MEMORY
        elif getattr(filesystem.pipe_file, "__func__", None) is fsspec.AbstractFileSystem.pipe_file:
            raise FemError(
                f"The store {self.url} cannot create a file only if it is absent, so two runs could overwrite each "
                "other. Use a local folder or S3."
            )

    def _at(self, path: str) -> str:
        return f"{self._base}/{_inside(path)}"

    def create(self, path: str, data: bytes) -> bool:
        for pause in (0.1, 0.3, 1.0, 3.0, None):
            try:
                with self._alone:
                    self._fs.pipe_file(self._at(path), data, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:
                code = _s3_code(error)
                if code in ("PreconditionFailed", "412"):
                    return False
                if code not in ("ConditionalRequestConflict", "409") or pause is None:
                    raise
            time.sleep(pause)
        raise AssertionError("the last try either returns or raises")

    def replace(self, path: str, data: bytes) -> None:
        with self._alone:
            self._fs.pipe_file(self._at(path), data)

    def put(self, path: str, source: Path) -> None:
        with self._alone:
            self._fs.put_file(str(source), self._at(path))

    def read(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(self._at(path)))

    def pieces(self, path: str) -> Iterator[bytes]:
        """Ranged reads, which share no file position between threads."""
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{path}")
        for start in range(0, size, _PIECE):
            yield bytes(self._fs.cat_file(self._at(path), start=start, end=min(start + _PIECE, size)))

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

    def remove(self, path: str) -> None:
        self._fs.rm_file(self._at(path))


def _inside(path: str) -> str:
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path:
        raise FemError(f"The path {path!r} leads out of the store. Use a path relative to the store's root.")
    return path


def _s3_code(error: BaseException) -> str | None:
    """The S3 error code behind an OSError of s3fs, which keeps botocore's error as the cause."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code")) if isinstance(response, dict) else None


def _temporary(folder: Path) -> Path:
    return folder / f"{TEMPORARY}{uuid4().hex}"


def _written(folder: Path, data: bytes) -> Path:
    """A temporary file with the data, safely on the disk."""
    _make_folders(folder)
    temporary = _temporary(folder)
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _link_or_copy(source: Path, target: Path) -> None:
    if not source.is_symlink():
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
    shutil.copyfile(source, target)


def _make_folders(folder: Path) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        _sync(new.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
