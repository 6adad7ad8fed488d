"""Reading an artifact's files, each checked against its manifest before anybody uses it.

Contract: what these return has the recorded SHA-256; anything else is ``Corrupt``, naming the file. Files lie in the
artifact's folder, in that of the artifact ``manifest.source``, or in the folder ``manifest.location``.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from fem_core.digest import digest_file
from fem_core.errors import Corrupt, FemError
from fem_core.store import cache as cache_
from fem_core.store import layout
from fem_core.store.local import LocalRoot
from fem_core.store.manifest import FileRecord, Manifest
from fem_core.store.root import TEMPORARY, Root

_REDO = "Restore it from a backup, or move the artifact's folder away and run again to redo this step."

_verified: set[tuple[str, str]] = set()
"""Folders and digests that this process has hashed."""


def verify(root: Root, manifest: Manifest) -> None:
    """Hash every file; raises ``Corrupt`` for the first that does not hold."""
    for record in manifest.files:
        sha = hashlib.sha256()
        for piece in _pieces(root, manifest, record):
            sha.update(piece)
        _compare(root, manifest, record, sha.hexdigest())


def read_bytes(root: Root, manifest: Manifest, name: str) -> bytes:
    """One file, whole."""
    for record in manifest.files:
        if record.path == name:
            return read_file(root, manifest, record)
    raise FemError(
        f"{manifest.artifact} has no file {name!r}. It has: {', '.join(record.path for record in manifest.files)}."
    )


def read_file(root: Root, manifest: Manifest, record: FileRecord) -> bytes:
    """One file by its record, whole: a single request where the store is far away."""
    with _missing_is_corrupt(root, manifest, record):
        if manifest.location is None:
            data = root.read(f"{holder(manifest)}/{record.path}")
        else:
            data = LocalRoot(_outside(manifest)).read(record.path)
    _compare(root, manifest, record, hashlib.sha256(data).hexdigest())
    return data


def local_dir(root: Root, manifest: Manifest, cache: Path) -> Path:
    """A local folder with the files: their own where possible, else ``cache/<digest>``, held until ``forget``."""
    own = _own_folder(root, manifest)
    if own is not None:
        if (str(own), manifest.digest) not in _verified:
            verify(root, manifest)
            _verified.add((str(own), manifest.digest))
        return own
    folder = cache.absolute() / manifest.digest
    if not cache_.take(folder):
        while True:
            _download(root, manifest, folder)
            if cache_.take(folder):
                break
    elif (str(folder), manifest.digest) not in _verified:
        for record in manifest.files:
            file = folder / record.path
            if not file.is_file() or digest_file(file) != record.sha256:
                raise Corrupt(f"{file} is damaged. Delete the folder {folder}: it is a cache and will be filled again.")
    _verified.add((str(folder), manifest.digest))
    return folder


def forget(manifest: Manifest, cache: Path) -> None:
    """Need the folder of ``local_dir`` no longer: a copy in the cache goes where nobody else uses it."""
    cache_.give_back(cache.absolute() / manifest.digest)


def _pieces(root: Root, manifest: Manifest, record: FileRecord) -> Iterator[bytes]:
    with _missing_is_corrupt(root, manifest, record):
        if manifest.location is None:
            yield from root.pieces(f"{holder(manifest)}/{record.path}")
        else:
            yield from LocalRoot(_outside(manifest)).pieces(record.path)


@contextmanager
def _missing_is_corrupt(root: Root, manifest: Manifest, record: FileRecord) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Corrupt(
            f"{_place(root, manifest)}/{record.path} is missing, and its manifest records it. {_REDO}"
        ) from error


def _compare(root: Root, manifest: Manifest, record: FileRecord, found: str) -> None:
    if found != record.sha256:
        raise Corrupt(
            f"{_place(root, manifest)}/{record.path} does not hold what its manifest records "
            f"(sha256 {record.sha256[:12]}, found {found[:12]}). {_REDO}"
        )


def holder(manifest: Manifest) -> str:
    """The artifact whose folder holds the files: itself, or the one that a fork refers to."""
    return manifest.source or manifest.artifact


def _place(root: Root, manifest: Manifest) -> str:
    return manifest.location or f"{root.url}/{holder(manifest)}"


def _outside(manifest: Manifest) -> Path:
    folder = Path(manifest.location or "").expanduser()
    if not folder.is_dir():
        raise FemError(
            f"The files of {manifest.artifact} lie outside the store at {manifest.location!r}, no folder here. "
            "Put them there, or name the place they are at now in the run's configuration."
        )
    return folder.absolute()


def _own_folder(root: Root, manifest: Manifest) -> Path | None:
    """The local folder that the files lie in; None where there is none or it holds more than the artifact.

    A loader given a folder may pick up a file that a crashed try left there, so such a folder is not handed out.
    """
    if manifest.location is not None:
        return _outside(manifest)
    if not isinstance(root, LocalRoot):
        return None
    folder = root.at(holder(manifest))
    known = {record.path for record in manifest.files} | {layout.MANIFEST}
    there = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(TEMPORARY))
    return folder if all(path.relative_to(folder).as_posix() in known for path in there) else None


def _download(root: Root, manifest: Manifest, folder: Path) -> None:
    """Fill a temporary folder beside it, verified, and rename: it appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    cache_.sweep(folder.parent)
    temporary = folder.parent / f"{TEMPORARY}{uuid4().hex}"
    try:
        for record in manifest.files:
            file = temporary / record.path
            file.parent.mkdir(parents=True, exist_ok=True)
            sha = hashlib.sha256()
            with file.open("xb") as stream:
                for piece in _pieces(root, manifest, record):
                    sha.update(piece)
                    stream.write(piece)
            _compare(root, manifest, record, sha.hexdigest())
        try:
            os.rename(temporary, folder)
        except OSError:  # another process was first, which is as good
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
