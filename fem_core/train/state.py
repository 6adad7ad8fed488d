"""The states of half-done M-steps in the store: which one to resume from, and which may go.

Contract: a state is used only where it belongs to the same step key and every file has the SHA-256 that its manifest
records; what is torn, damaged or of another step is skipped and named, and the next older one is tried. States are the
one kind of artifact that the run itself removes: a newer one or the checkpoint replaces them. Removal takes the
manifest first, so what is left of an interrupted one is torn and never trusted. Loads no torch.
"""

import contextlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fem_core.errors import FemError
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

KIND = "trainer_state"
"""The kind of these artifacts."""

KEPT = 2
"""States that stay in the store: should the newest be damaged, the one before it costs less than the whole step."""

_STEP = re.compile(r"step-(\d{7,})")


@dataclass(frozen=True)
class State:
    """A state to resume from."""

    manifest: Manifest
    """Its record."""
    folder: Path
    """A local folder with its files, verified."""
    step: int
    """Optimizer steps that it holds."""


def newest(store: Store, run: str, k: int, key: str, cache: Path) -> tuple[State | None, list[str]]:
    """The newest usable state of an M-step, and a sentence for each newer one that was skipped.

    Args:
        key: the train step's key.
        cache: where the files of a state in a remote store go.
    """
    skipped: list[str] = []
    for artifact, step in _artifacts(store, run, k):
        try:
            manifest = store.manifest(artifact)
            if manifest is None:
                skipped.append(f"Skipped {artifact}: it is torn, it has files and no manifest.")
            elif manifest.kind != KIND or manifest.step.key != key:
                skipped.append(f"Skipped {artifact}: it belongs to other rationales, weights or settings.")
            else:
                return State(manifest, store.local_dir(manifest, cache), step), skipped
        except FemError as error:
            skipped.append(f"Skipped {artifact}: {str(error).partition('. ')[0]}.")
    return None, skipped


def remove(store: Store, artifact: str) -> None:
    """Remove a state, its manifest first; nothing happens where there is none."""
    for name in sorted(store.root.files(artifact), key=lambda name: name != layout.MANIFEST):
        with contextlib.suppress(FileNotFoundError):
            store.root.remove(f"{artifact}/{name}")


def remove_others(store: Store, run: str, k: int, kept: Collection[str] = ()) -> None:
    """Remove the states of an M-step, whole or torn, but for those kept."""
    for artifact, _ in _artifacts(store, run, k):
        if artifact not in kept:
            remove(store, artifact)


def _artifacts(store: Store, run: str, k: int) -> list[tuple[str, int]]:
    """Folders with anything in them, and their steps, newest first. A removed state leaves an empty folder behind."""
    top = layout.trainer_state(run, k, 0).rpartition("/")[0]
    steps = (int(match[1]) for name in store.root.children(top) if (match := _STEP.fullmatch(name)))
    found = ((layout.trainer_state(run, k, step), step) for step in sorted(steps, reverse=True))
    return [(artifact, step) for artifact, step in found if store.root.files(artifact)]
