"""A checkpoint as a folder that stands alone: any Hugging Face program loads it, and its card says what it is.

Contract: every file is verified against the checkpoint's manifest while it is written. A local folder appears whole by
one rename. On S3, which has no rename, ``fem_manifest.json`` is written last: a folder without it is not whole.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fem_core.errors import FemError
from fem_core.report.model_card import base_name, model_card
from fem_core.report.summary import summarise
from fem_core.store import layout
from fem_core.store.copy import Hear, send
from fem_core.store.fs import open_root
from fem_core.store.local import LocalRoot
from fem_core.store.manifest import Manifest, safe_url
from fem_core.store.reading import holder
from fem_core.store.remote import RemoteRoot
from fem_core.store.root import TEMPORARY
from fem_core.store.store import Store

CARD = "README.md"
RECORD = "fem_manifest.json"
"""The checkpoint's manifest as the store has it; written last."""


@dataclass(frozen=True)
class Destination:
    """A folder that is not there yet, or is empty."""

    root: LocalRoot | RemoteRoot
    """Its parent."""
    name: str
    """Its own name."""


def checkpoint_of(store: Store, run: str, k: int) -> Manifest:
    """The checkpoint to export.

    Raises:
        FemError: there is no such run; k is 0, which is the base model; there is no checkpoint of iteration k.
    """
    summary = summarise(store, run)
    done = [i for i in range(1, summary.iterations + 1) if store.manifest(layout.iteration(run, i, "checkpoint"))]
    has = f"It has checkpoints of iterations {', '.join(map(str, done))}." if done else "It has no checkpoint yet."
    if k == 0:
        model = store.manifest(layout.model(run))
        name = base_name(model) if model is not None else "not recorded yet"
        raise FemError(f"Iteration 0 of {run!r} is the base model itself ({name}), so get it from where it is. {has}")
    if k not in done:
        raise FemError(f"Run {run!r} has no checkpoint of iteration {k}. {has}")
    manifest = store.manifest(layout.iteration(run, k, "checkpoint"))
    assert manifest is not None
    return manifest


def destination(to: str) -> Destination:
    """The place at a folder or fsspec URL.

    Raises:
        FemError: something lies there, or it names a whole bucket.
    """
    root = open_root(to)
    if isinstance(root, LocalRoot):
        folder = root.folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise _occupied(str(folder))
        return Destination(LocalRoot(folder.parent), folder.name)
    above, _, name = to.rstrip("/").rpartition("/")
    if not name or above.endswith(":/"):
        raise FemError(
            f"{safe_url(to)} is a whole bucket. Name a folder in it, such as {safe_url(to).rstrip('/')}/model."
        )
    place = Destination(open_root(above), name)
    if place.root.files(name):
        raise _occupied(root.url)
    return place


def export(store: Store, run: str, k: int, to: str, hear: Hear = lambda *_: None) -> Manifest:
    """Write the checkpoint of iteration k with its card and its record; returns its manifest.

    Raises:
        FemError: as ``checkpoint_of`` and ``destination``.
        Corrupt: a file does not hold what the manifest records; nothing is left then.
    """
    manifest = checkpoint_of(store, run, k)
    place = destination(to)
    card = model_card(store, run, k).encode()
    record = store.root.read(f"{manifest.artifact}/{layout.MANIFEST}")
    local = isinstance(place.root, LocalRoot)
    into = f"{TEMPORARY}{uuid4().hex}" if local else place.name
    try:
        for file in manifest.files:
            send(store.root, f"{holder(manifest)}/{file.path}", place.root, f"{into}/{file.path}", file, hear)
        place.root.replace(f"{into}/{CARD}", card)
        place.root.replace(f"{into}/{RECORD}", record)
        if isinstance(place.root, LocalRoot):
            _rename(place.root.at(into), place.root.folder / place.name)
    except BaseException:
        if isinstance(place.root, LocalRoot):
            shutil.rmtree(place.root.at(into), ignore_errors=True)
        else:
            with suppress(OSError):
                for name in place.root.files(into):
                    place.root.remove(f"{into}/{name}")
        raise
    return manifest


def _rename(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)
    except OSError as error:
        raise _occupied(str(folder)) from error


def _occupied(place: str) -> FemError:
    return FemError(f"{place} is not empty, and an export overwrites nothing. Name a new folder.")
