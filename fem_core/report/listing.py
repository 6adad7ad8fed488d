"""What is in a store, and what is in a run, from manifests alone.

Contract: a store's list costs three requests for each run (one listing, ``run.json``, the last scores), many runs at a
time; nothing else is read. A run that cannot be read is listed as that and hides no other. Sizes are of the objects that
lie in a run's own folder, so what a fork refers to counts where it lies.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fem_core.errors import FemError
from fem_core.store import fork, layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

_RUNS = 16
"""Runs looked at at a time."""

_SCORES = re.compile(rf"iteration=(\d+)/scores/{re.escape(layout.MANIFEST)}")


@dataclass(frozen=True)
class RunLine:
    """One run of a store."""

    name: str
    """The run's name."""
    bytes: int
    """Of everything in the run's folder."""
    state: str = "unreadable"
    """``finished``, ``unfinished``, ``deleted`` (marked, or collected since) or ``unreadable``; a fork's says of what."""
    scored: int | None = None
    """The last iteration with scores; None before the base model has any."""
    iterations: int | None = None
    """K; None where the run cannot be read."""
    scores: Mapping[str, Any] | None = None
    """Of that iteration: ``accuracy``, ``low``, ``high``, …"""
    created: str = ""
    """ISO 8601, UTC."""
    trouble: str | None = None
    """Why it cannot be read."""


@dataclass(frozen=True)
class ArtifactLine:
    """One artifact of a run."""

    name: str
    """Its folder, relative to the run's."""
    manifest: Manifest
    """Its record."""

    @property
    def rows(self) -> int | None:
        """Of all its tables; None where it has none."""
        counts = [record.rows for record in self.manifest.files if record.rows is not None]
        return sum(counts) if counts else None

    @property
    def bytes(self) -> int:
        """Of its files, wherever they lie."""
        return sum(record.bytes for record in self.manifest.files)

    @property
    def elsewhere(self) -> str:
        """Where the files lie when not in the artifact's folder: another run's artifact, or a place outside."""
        return self.manifest.source or self.manifest.location or ""


def runs(store: Store) -> list[RunLine]:
    """The runs of a store, by name."""
    names = [name for name in store.root.children(layout.RUNS) if not name.startswith(".")]
    with ThreadPoolExecutor(_RUNS) as readers:
        return [line for line in readers.map(lambda name: _run(store, name), names) if line is not None]


def artifacts(store: Store, run: str) -> list[ArtifactLine]:
    """The artifacts of a run, in the order in which they were finished.

    Raises:
        FemError: there is no such run.
    """
    store.existing_run(run)
    top = f"{layout.run_dir(run)}/"
    found = sorted(store.artifacts(run), key=lambda manifest: (manifest.finished, manifest.artifact))
    return [ArtifactLine(manifest.artifact.removeprefix(top), manifest) for manifest in found]


def _run(store: Store, name: str) -> RunLine | None:
    """One run; None for a folder that is none."""
    size = 0
    try:
        there = store.root.files(layout.run_dir(name))
        size = sum(there.values())
        record = store.run(name)
        if record is None:
            return None
        iterations, parent = int(record.config["iterations"]), fork.parent_of(record)
        scored = max((int(found[1]) for path in there if (found := _SCORES.fullmatch(path))), default=None)
        manifest = None if scored is None else store.manifest(layout.iteration(name, scored, "scores"))
        return RunLine(
            name=name,
            bytes=size,
            state=_state(there, scored == iterations)
            + (f", forked from {parent.run}@{parent.iteration}" if parent else ""),
            scored=scored,
            iterations=iterations,
            scores=None if manifest is None else manifest.stats,
            created=record.created,
        )
    except (FemError, KeyError, TypeError, ValueError) as error:
        return RunLine(name, size, trouble=str(error))


def _state(there: Mapping[str, int], finished: bool) -> str:
    if layout.DELETED in there:
        return "deleted"
    return "finished" if finished else "unfinished"
