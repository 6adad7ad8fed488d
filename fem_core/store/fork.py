"""Forks: a run that starts from another's iteration and refers to what that one made, without copying anything.

Contract: a reference is a manifest in the fork's own folder with the original's digest, step record and inputs, whose
``source`` names the artifact that holds the files; so whatever reads a run reads a fork. What lies up to the iteration
of the fork is the parent's, whatever the fork's configuration says; after it an artifact of the parent is taken only
where its step key is the fork's own, which is to say that the same would be made again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fem_core.errors import FemError
from fem_core.store import layout
from fem_core.store.deletion import refuse_deleted
from fem_core.store.manifest import InputRef, Manifest, RunRecord, StepRecord
from fem_core.store.reading import holder
from fem_core.store.store import Store

HISTORY = ("attempts", "verdicts", "rationales", "checkpoint")
"""What a fork takes over of each iteration that it stands on. Scores are taken where they mean the same, by step key."""


@dataclass(frozen=True)
class Parent:
    """Where a fork started from."""

    run: str
    """The parent's name."""
    iteration: int
    """K: the fork begins with its checkpoint; 0 for its problems and base model alone."""
    checkpoint: str | None
    """Digest of that checkpoint; None for 0."""
    config: str
    """Digest of the parent's configuration."""

    def dump(self) -> dict[str, Any]:
        """As ``RunRecord.parent`` holds it."""
        return vars(self).copy()


def parent_of(record: RunRecord | None) -> Parent | None:
    """The parent that a run's record names; None for a run that is no fork."""
    return None if record is None or record.parent is None else Parent(**record.parent)


def begin(store: Store, run: str, iteration: int | None) -> Parent:
    """The parent that a fork of ``run`` at ``iteration`` gets (None is 0).

    Raises:
        FemError: there is no such run, it is marked deleted, or it has no checkpoint of that iteration.
    """
    record = store.existing_run(run)
    refuse_deleted(store, run)
    if not iteration:
        return Parent(run, 0, None, record.digest)
    checkpoint = store.manifest(layout.iteration(run, iteration, "checkpoint"))
    if checkpoint is None:
        done = [k for k in range(1, iteration) if store.manifest(layout.iteration(run, k, "checkpoint")) is not None]
        way = f"Its last checkpoint is {run}@{done[-1]}." if done else f"Fork its problems alone: fem fork {run}."
        raise FemError(f"Run {run!r} has no checkpoint of iteration {iteration}. {way}")
    return Parent(run, iteration, checkpoint.digest, record.digest)


def inherit(store: Store, record: RunRecord) -> list[Manifest]:
    """Commit the references of a fork to its parent's history, as far as they are not there; nothing for other runs.

    Raises:
        FemError: the parent's history is not whole, or its checkpoint is another than when the fork began.
    """
    parent = parent_of(record)
    found = []
    for k in range(1, parent.iteration + 1 if parent else 1):
        for kind in HISTORY:
            found.append(_inherited(store, record, layout.iteration(record.name, k, kind)))
    if parent is not None and found and found[-1].digest != parent.checkpoint:
        raise FemError(
            f"{found[-1].artifact} is {found[-1].digest[:12]}, and {record.name!r} was forked from "
            f"{str(parent.checkpoint)[:12]}. Fork again under another name."
        )
    return found


def find(
    store: Store,
    record: RunRecord | None,
    artifact: str,
    key: str,
    *,
    step: StepRecord | None = None,
    inputs: Sequence[InputRef] = (),
    write: bool = True,
) -> Manifest | None:
    """Like ``Store.find``; a fork also takes what its parent made under the same step key.

    Args:
        write: commit the reference; False for those who only look.
    """
    own = store.find(artifact, key, step=step, inputs=inputs)
    if own is not None or record is None:
        return own
    theirs = counterpart(store, record, artifact)
    if theirs is None or theirs.step.key != key:
        return None
    return reference(store, theirs, record.name) if write else referring(theirs, record.name)


def begun(store: Store, record: RunRecord | None, artifact: str, key: str) -> bool:
    """Whether the step with this key has made the artifact or some of its parts, in the run; or made it in a fork's parent."""
    if store.begun(artifact, key):
        return True
    theirs = None if record is None else counterpart(store, record, artifact)
    return theirs is not None and theirs.step.key == key


def counterpart(store: Store, record: RunRecord, artifact: str) -> Manifest | None:
    """What the parent has in the same place; None where there is no parent or no such artifact."""
    parent = parent_of(record)
    return None if parent is None else store.manifest(layout.moved(artifact, parent.run))


def reference(store: Store, manifest: Manifest, run: str) -> Manifest:
    """Commit a reference to another run's artifact in the same place of ``run``."""
    return store.commit(referring(manifest, run))


def referring(manifest: Manifest, run: str) -> Manifest:
    """The manifest that refers to another run's artifact from the same place of ``run``."""
    source = None if manifest.location is not None else holder(manifest)
    return manifest.model_copy(update={"artifact": layout.moved(manifest.artifact, run), "source": source})


def _inherited(store: Store, record: RunRecord, artifact: str) -> Manifest:
    own = store.manifest(artifact)
    if own is not None:
        return own
    theirs = counterpart(store, record, artifact)
    if theirs is None:
        raise FemError(
            f"The parent of {record.name!r} has no {layout.moved(artifact, str(record.parent and record.parent['run']))}. "
            "Bring it back, or fork from an earlier iteration."
        )
    return reference(store, theirs, record.name)
