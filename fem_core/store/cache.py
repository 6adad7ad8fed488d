"""Local copies of artifacts, ``<cache>/<digest>``: which of them somebody uses, and the end of those that nobody does.

Contract: a copy is held from when a process takes it until that gives it back or ends, however it ends: by a lock on the
folder. One that nobody holds may go: at once when its last user gives it back, or after ``KEPT_DAYS``, where that user was
killed. What else lies in the cache is left alone.
"""

import fcntl
import os
import re
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from fem_core.store.root import TEMPORARY

KEPT_DAYS = 7.0
"""Days without use after which a copy goes, and with it what a killed process has left of one."""

_DIGEST = re.compile(r"[0-9a-f]{64}")

_held: dict[Path, tuple[int, int]] = {}
"""Folders in use by this process: the locked descriptor, and how many have taken it."""

_guard = threading.Lock()


def take(folder: Path) -> bool:
    """Hold a copy, where there is one."""
    with _guard:
        descriptor, users = _held.get(folder, (-1, 0))
        if users and not _is(descriptor, folder):  # somebody has deleted it by hand
            os.close(descriptor)
            users = 0
        if not users:
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                _held.pop(folder, None)
                return False
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not _is(descriptor, folder):  # it went while we waited for the lock
                os.close(descriptor)
                return False
            os.utime(folder)
        _held[folder] = (descriptor, users + 1)
        return True


def give_back(folder: Path) -> None:
    """Hold a copy no longer; it goes where nobody else does. Nothing happens where this process does not hold it."""
    with _guard:
        descriptor, users = _held.pop(folder, (-1, 0))
        if users > 1:
            _held[folder] = (descriptor, users - 1)
        elif users:
            os.close(descriptor)
            _remove_unused(folder)


def sweep(cache: Path) -> None:
    """Remove the copies, and halves of copies, that nobody has used for ``KEPT_DAYS``."""
    old = time.time() - KEPT_DAYS * 86400
    for folder in cache.iterdir():
        with suppress(FileNotFoundError):
            if folder.stat().st_mtime >= old:
                continue
            if folder.name.startswith(TEMPORARY):
                shutil.rmtree(folder, ignore_errors=True)
            elif _DIGEST.fullmatch(folder.name):
                _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        going = folder.with_name(f"{TEMPORARY}{uuid4().hex}")
        folder.rename(going)  # from now on nobody finds it
        shutil.rmtree(going, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError):
        pass  # somebody holds it, or was faster
    finally:
        os.close(descriptor)


def _is(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False
