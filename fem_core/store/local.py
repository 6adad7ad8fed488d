"""A root on a local folder."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from fem_core.errors import FemError
from fem_core.store import s3
from fem_core.store.root import PIECE, TEMPORARY, Object, inside, is_inside


class LocalRoot:
    """A folder. Creation is a temporary file, fsync, and a hard link, which fails where the name is taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def wait(self, seconds: float) -> None:
        """A local disk answers or fails at once."""

    def at(self, path: str) -> Path:
        """The path on this machine."""
        return self.folder / inside(path)

    def create(self, path: str, data: bytes) -> bool:
        target = self.at(path)
        if target.exists():
            return False
        temporary = _written(target.parent, [data])
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
        self.stream(path, [data])

    def stream(self, path: str, pieces: Iterable[bytes]) -> None:
        target = self.at(path)
        os.replace(_written(target.parent, pieces), target)
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
            while piece := stream.read(PIECE):
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
                    with suppress(FileNotFoundError):  # removed since it was listed
                        found[file.relative_to(folder).as_posix()] = file.stat().st_size
        return dict(sorted(found.items()))

    def objects(self, path: str) -> dict[str, Object]:
        """The later of both times counts: a file that is linked to its place, as ``put`` does, keeps its old mtime."""
        folder = self.at(path)
        found = {}
        for here, _, names in os.walk(folder, onerror=_not_missing):
            for name in names:
                file = Path(here, name)
                with suppress(FileNotFoundError):  # its writer has finished meanwhile
                    stat = file.lstat()
                    found[file.relative_to(folder).as_posix()] = Object(stat.st_size, max(stat.st_mtime, stat.st_ctime))
        return {name: found[name] for name in sorted(found) if is_inside(name)}

    def uploads(self, path: str) -> list[s3.Upload]:
        return []

    def remove(self, path: str) -> None:
        self.at(path).unlink()

    def remove_all(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.at(path).unlink(missing_ok=True)

    def abort(self, upload: s3.Upload) -> None:
        raise ValueError("a local folder has no uploads")


def _not_missing(error: OSError) -> None:
    """For ``os.walk``, which would pass over a folder that it may not read."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _temporary(folder: Path) -> Path:
    return folder / f"{TEMPORARY}{uuid4().hex}"


def _written(folder: Path, pieces: Iterable[bytes]) -> Path:
    """A temporary file with the pieces, safely on the disk."""
    _make_folders(folder)
    temporary = _temporary(folder)
    try:
        with temporary.open("xb") as stream:
            for piece in pieces:
                stream.write(piece)
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
