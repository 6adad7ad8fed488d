"""What of a store may go: leftovers of crashed tries, artifacts that only served to make another, data of deleted runs.

Contract: a file goes only where no manifest of a live run reaches it, in its own folder or through a fork's ``source``,
and where it is older than the grace period, which is what protects a run that works meanwhile. Manifests and the records
of runs stay for ever. A run whose records cannot all be read loses nothing, nor does a run that it may refer to. ``look``
reads, ``plan`` decides and touches nothing, ``sweep`` looks and decides again right before each batch that it removes.
"""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fem_core.errors import FemError
from fem_core.store import layout, probe
from fem_core.store.deletion import DELETED
from fem_core.store.deletion import deleted_at as deleted_at
from fem_core.store.manifest import Manifest, RunRecord
from fem_core.store.reading import holder
from fem_core.store.root import TEMPORARY, Object
from fem_core.store.s3 import Upload
from fem_core.store.store import Store

STRAY = "listed by no manifest, beside a finished artifact"
UNFINISHED = "part of a step that nobody finished"
UNWRITTEN = "temporary file that nobody finished"
UPLOAD = "upload that nobody finished"
PROBE = "left by a check of the store"

_BATCH = 1000
"""Objects removed at a time: what one S3 request takes."""

_READERS = 8
"""Runs looked at side by side, and manifests of each."""


@dataclass(frozen=True)
class Rules:
    """What decides, besides the store."""

    now: float
    """Seconds since 1970."""
    grace: float
    """Seconds: what is not older stays."""
    serves: Mapping[str, str] = field(default_factory=dict)
    """Kinds of artifacts that only serve to make one of another kind in their iteration, and that kind. Their files may
    go when that one is there, or a later one of their own kind."""

    def old(self, modified: float) -> bool:
        """Whether the grace period is over."""
        return modified < self.now - self.grace


@dataclass(frozen=True)
class Seen:
    """One run as it was found."""

    record: RunRecord | None
    """Its run.json; None where there is none, or none that can be read."""
    objects: Mapping[str, Object]
    """All its objects, by path relative to the store's root."""
    manifests: Mapping[str, Manifest]
    """By artifact."""
    doubts: tuple[str, ...]
    """A sentence for each record that is there and cannot be read."""

    @property
    def parent(self) -> str | None:
        """The run that it was forked from."""
        parent = None if self.record is None else self.record.parent
        return None if parent is None else str(parent.get("run"))

    @property
    def written(self) -> float:
        """When somebody last wrote to it; marks and gc's own notes aside."""
        ours = ("deleted.json", layout.COLLECTED)
        return max((one.modified for path, one in self.objects.items() if not path.endswith(ours)), default=0.0)


@dataclass(frozen=True)
class Look:
    """A store as it was found."""

    runs: Mapping[str, Seen]
    """By name."""
    probes: Mapping[str, Object]
    """Probe objects, by path."""
    uploads: tuple[Upload, ...]
    """Unfinished uploads of objects in runs and of probes."""


@dataclass(frozen=True)
class Doomed:
    """One object, or unfinished upload, that may go."""

    path: str
    """Relative to the store's root."""
    bytes: int
    """Size."""
    why: str
    """For people."""
    artifact: str | None = None
    """The artifact whose manifest lists it, where there is one."""
    upload: Upload | None = None
    """The upload, where it is one."""


@dataclass(frozen=True)
class Plan:
    """What may go, and what one should know of the rest."""

    doomed: tuple[Doomed, ...]
    """By path."""
    notes: tuple[str, ...]
    """A sentence for each run that keeps what would go otherwise."""


def look(store: Store, before: Look | None = None) -> Look:
    """Read everything that decides. A manifest that ``before`` holds is not read again.

    Raises:
        OSError: a folder may not be listed.
    """
    root = store.root
    names = [name for name in root.children(layout.RUNS) if layout.is_run_name(name)]
    with ThreadPoolExecutor(_READERS) as workers:
        seen = workers.map(lambda name: _seen(store, name, before.runs.get(name) if before else None), names)
        runs = dict(zip(names, seen, strict=True))
    return Look(
        runs=runs,
        probes={f"{probe.FOLDER}/{path}": one for path, one in root.objects(probe.FOLDER).items()},
        uploads=(*root.uploads(layout.RUNS), *root.uploads(probe.FOLDER)),
    )


def plan(look: Look, rules: Rules) -> Plan:
    """Decide what may go. Touches nothing and reads nothing."""
    notes = []
    live = dict(look.runs)
    for name, seen in look.runs.items():
        if _is_marked(name, seen, rules) and not seen.doubts:
            reason = _kept_for(name, look, rules)
            if reason is None:
                del live[name]
            else:
                notes.append(f"The run {name!r} is marked deleted and keeps its files: {reason}.")
    unsure = _may_be_needed_by_doubtful(look)
    superseded = {
        artifact: by
        for name, seen in live.items()
        if name not in unsure
        for artifact, by in _superseded(seen, look, rules).items()
    }
    reached = {
        path
        for seen in live.values()
        for artifact, manifest in seen.manifests.items()
        if artifact not in superseded
        for path in (*_files(manifest), *_beginning(manifest, look))
    }
    doomed: list[Doomed] = []
    for name, seen in look.runs.items():
        if seen.doubts:
            notes += [f"{doubt} Nothing of the run {name!r} is collected." for doubt in seen.doubts]
        elif seen.record is None and seen.objects:
            notes.append(f"{layout.RUNS}/{name} has no run.json, so it is no run, and nothing of it is collected.")
        else:
            doomed += _of_run(seen, name not in live, superseded, reached, rules)
    safe = [name for name, seen in look.runs.items() if seen.record is not None and not seen.doubts]
    doomed += [
        Doomed(one.path, one.bytes, UPLOAD, upload=one)
        for one in look.uploads
        if rules.old(one.started) and (one.path.startswith(f"{probe.FOLDER}/") or layout.run_of(one.path) in safe)
    ]
    doomed += [Doomed(path, one.bytes, PROBE) for path, one in look.probes.items() if rules.old(one.modified)]
    return Plan(tuple(sorted(doomed, key=lambda one: one.path)), tuple(notes))


def sweep(store: Store, decided: Plan, rules: Rules) -> Iterator[list[Doomed]]:
    """Remove what was decided, as far as it is decided again right before; yields each batch that was removed.

    Where the files of an artifact go, a note (``layout.COLLECTED``) stays beside its manifest.

    Raises:
        OSError: something could not be removed.
    """
    before = None
    for start in range(0, len(decided.doomed), _BATCH):
        batch = decided.doomed[start : start + _BATCH]
        noted = _note(store, batch)
        before = look(store, before)
        again = {(one.path, one.upload) for one in plan(before, rules).doomed}
        sure = [one for one in batch if (one.path, one.upload) in again]
        for artifact in noted - {one.artifact for one in sure}:
            store.root.remove(f"{artifact}/{layout.COLLECTED}")
        store.root.remove_all([one.path for one in sure if one.upload is None])
        for one in sure:
            if one.upload is not None:
                store.root.abort(one.upload)
        yield sure


def _seen(store: Store, name: str, before: Seen | None) -> Seen:
    top = layout.run_dir(name)
    objects = {f"{top}/{path}": one for path, one in store.root.objects(top).items()}
    doubts: list[str] = []

    def record() -> RunRecord | None:
        try:
            found = store.run(name)
        except (FemError, OSError) as error:
            doubts.append(_sentence(error))
            return None
        if found is None and layout.run_json(name) in objects:
            doubts.append(f"{layout.run_json(name)} went away while it was read.")
        return found

    def manifest(artifact: str) -> Manifest | None:
        path = f"{artifact}/{layout.MANIFEST}"
        if before is not None and artifact in before.manifests and before.objects[path] == objects[path]:
            return before.manifests[artifact]
        try:
            found = store.manifest(artifact)
        except (FemError, OSError) as error:
            doubts.append(_sentence(error))
            return None
        if found is None or found.artifact != artifact:
            why = "went away while it was read" if found is None else f"is the record of {found.artifact}"
            doubts.append(f"{path} {why}.")
            return None
        return found

    artifacts = [path.rpartition("/")[0] for path in objects if path.rpartition("/")[2] == layout.MANIFEST]
    with ThreadPoolExecutor(_READERS) as readers:
        manifests = {found.artifact: found for found in readers.map(manifest, artifacts) if found is not None}
    return Seen(record(), objects, manifests, tuple(sorted(doubts)))


def _is_marked(name: str, seen: Seen, rules: Rules) -> bool:
    """Whether a run was marked deleted longer ago than the grace period."""
    mark = seen.objects.get(layout.deleted_json(name))
    return mark is not None and rules.old(mark.modified)


def _kept_for(name: str, look: Look, rules: Rules) -> str | None:
    """Why a run that is marked deleted keeps its files all the same; None where nothing speaks for them."""
    for other, seen in look.runs.items():
        if seen.parent == name and not _is_marked(other, seen, rules):
            return f"its fork {other!r} is not deleted, or not yet for longer than the grace period"
    if name in _may_be_needed_by_doubtful(look):
        return "a run that may refer to them has records that cannot be read"
    if not rules.old(look.runs[name].written):
        return "something was written to it within the grace period"
    return None


def _may_be_needed_by_doubtful(look: Look) -> set[str]:
    """Runs that one with an unreadable record may refer to: its ancestors, or any where these are not known."""
    found: set[str] = set()
    for seen in look.runs.values():
        if seen.doubts and seen.record is None:
            return set(look.runs)
        parent = seen.parent if seen.doubts else None
        while parent is not None and parent not in found:
            found.add(parent)
            parent = look.runs[parent].parent if parent in look.runs else None
    return found


def _superseded(seen: Seen, look: Look, rules: Rules) -> dict[str, str]:
    """Artifacts whose purpose is fulfilled, with the whole artifact that fulfils it."""
    found = {}
    for artifact, manifest in seen.manifests.items():
        if manifest.kind not in rules.serves:
            continue
        for other, newer in seen.manifests.items():
            made = newer.kind == rules.serves[manifest.kind]
            later = newer.kind == manifest.kind and (len(other), other) > (len(artifact), artifact)
            same = layout.iteration_of(other) == layout.iteration_of(artifact)
            if same and (made or later) and _is_whole(newer, look):
                found[artifact] = other
    return found


def _is_whole(manifest: Manifest, look: Look) -> bool:
    """Whether all files are there with their sizes."""
    return all(
        any(path in seen.objects and seen.objects[path].bytes == record.bytes for seen in look.runs.values())
        for record in manifest.files
        if (path := f"{holder(manifest)}/{record.path}")
    )


def _of_run(
    seen: Seen, deleted: bool, superseded: Mapping[str, str], reached: set[str], rules: Rules
) -> Iterator[Doomed]:
    """What may go of a run: all data of a deleted one, else leftovers and what is superseded."""
    quiet = rules.old(seen.written)
    files = {artifact: _files(manifest) for artifact, manifest in seen.manifests.items()}
    for path, one in seen.objects.items():
        if path in reached or not rules.old(one.modified):
            continue
        name = path.rpartition("/")[2]
        owner = _owner(path, seen)
        listed = owner is not None and path in files[owner]
        if name.startswith(TEMPORARY):
            yield Doomed(path, one.bytes, UNWRITTEN)
        elif not layout.is_in_artifact(path) or path in _records(owner):
            continue
        elif deleted:
            yield Doomed(path, one.bytes, DELETED, owner if listed else None)
        elif owner is None:
            if quiet:  # whoever works on the run may still finish the step, however old its first part is
                yield Doomed(path, one.bytes, UNFINISHED)
        elif not listed:
            yield Doomed(path, one.bytes, STRAY)
        else:
            yield Doomed(path, one.bytes, f"superseded by {superseded[owner]}", owner)


def _owner(path: str, seen: Seen) -> str | None:
    """The finished artifact in whose folder a file lies, at any depth."""
    folder = path.rpartition("/")[0]
    while folder and folder not in seen.manifests:
        folder = folder.rpartition("/")[0]
    return folder or None


def _records(artifact: str | None) -> set[str]:
    return set() if artifact is None else {f"{artifact}/{layout.MANIFEST}", f"{artifact}/{layout.COLLECTED}"}


def _files(manifest: Manifest) -> set[str]:
    """Where an artifact's files are, relative to the store's root; none where they are outside of it."""
    return set() if manifest.location else {f"{holder(manifest)}/{record.path}" for record in manifest.files}


def _beginning(manifest: Manifest, look: Look) -> set[str]:
    """The files of another run's checkpoint that a base model is, which lie there alone."""
    if manifest.kind != "model":
        return set()
    found = set()
    for ref in manifest.inputs:
        run = look.runs.get(layout.run_of(ref.artifact))
        checkpoint = None if run is None else run.manifests.get(ref.artifact)
        found |= set() if checkpoint is None else _files(checkpoint)
    return found


def _note(store: Store, batch: tuple[Doomed, ...]) -> set[str]:
    """Leave a note beside each manifest whose files are about to go. Returns the artifacts that had none yet."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    whys = {one.artifact: one.why for one in batch if one.artifact is not None}
    return {
        artifact
        for artifact, why in whys.items()
        if store.root.create(
            f"{artifact}/{layout.COLLECTED}", (json.dumps({"collected": time, "why": why}) + "\n").encode()
        )
    }


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith(".") else f"{text}."
