"""Copying a run to another store, so that what arrives is what the manifests record.

Contract: ``run.json`` first, then artifact by artifact in the order in which they were made, each with its data first
and its manifest last; a copy that stops anywhere is an unfinished run, and copying again goes on from there. Every file
is hashed while it is read, and read again and hashed where it arrived, before its manifest is written. Memory stays
flat. What a run refers to in other runs (a fork's artifacts, the checkpoint that it began with, annotations) stays a
reference, so these runs must be there first: without them it could neither go on there nor be audited.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fem_core.errors import Corrupt, FemError, StoreConflict
from fem_core.store import fork, layout
from fem_core.store.manifest import FileRecord, Manifest, RunRecord, read_manifest
from fem_core.store.root import Root
from fem_core.store.store import Store

_FILES = 4
"""Files of an artifact on their way at a time; each takes a few pieces of memory."""

Hear = Callable[[int, str], None]
"""Told of bytes that are done since the last call, and of the file they are in."""


@dataclass(frozen=True)
class Plan:
    """What copying a run comes to. ``plans`` makes it; nothing is written yet."""

    record: RunRecord
    """The run."""
    missing: tuple[Manifest, ...]
    """What is to be copied, in the order in which it was made."""
    present: tuple[Manifest, ...]
    """What is at the destination already."""

    @property
    def bytes(self) -> int:
        """Of the files to be copied."""
        return sum(record.bytes for manifest in self.missing if holds(manifest) for record in manifest.files)

    @property
    def outside(self) -> tuple[Manifest, ...]:
        """Whose files lie outside of the store: only their record is copied."""
        return tuple(m for m in (*self.missing, *self.present) if m.location is not None)

    @property
    def references(self) -> tuple[Manifest, ...]:
        """Whose files another run holds."""
        return tuple(m for m in (*self.missing, *self.present) if m.source is not None)


@dataclass(frozen=True)
class Copied:
    """What copying a run came to."""

    sent: int
    """Files that were sent."""
    found: int
    """Files that an earlier try had left there whole."""
    bytes: int
    """Of the files that were sent."""


def holds(manifest: Manifest) -> bool:
    """Whether an artifact's files lie in its own folder."""
    return manifest.location is None and manifest.source is None


def plans(source: Store, target: Store, run: str, *, with_parents: bool = False) -> list[Plan]:
    """What is to be copied, in this order: the runs that it refers to, where they are asked for, before the run.

    Raises:
        FemError: there is no such run; it refers to runs that are not at the destination (without ``with_parents``).
        StoreConflict: the destination has another configuration, or another content, in the same place.
    """
    if source.url == target.url:
        raise FemError(f"Both stores are {source.url}. Name another one with --to.")
    found: dict[str, Plan] = {}
    _collect(source, target, run, with_parents, found)
    return list(found.values())


def copy(source: Store, target: Store, plan: Plan, hear: Hear = lambda *_: None) -> Copied:
    """Copy a run; what is at the destination already is not sent again, and what was finished there since is left alone.

    A file without a manifest is replaced, as a try that stopped may have left it torn. So nobody else may write the run
    there meanwhile: the caller holds its lease (``lease.held``).

    Raises:
        Corrupt: a file at the source does not hold what its manifest records, or did not arrive as it was sent. The
            artifact does not exist at the destination then.
        StoreConflict: somebody else has written another content there meanwhile.
    """
    target.create_run(plan.record)
    sent = []
    for manifest in plan.missing:
        other = target.manifest(manifest.artifact)
        if other is None:
            sent += _artifact(source, target, manifest, hear)
            continue
        _same(target, manifest, other)
        if holds(manifest):
            hear(sum(record.bytes for record in manifest.files), manifest.artifact)
    return Copied(
        sent=sum(new for _, new in sent),
        found=sum(not new for _, new in sent),
        bytes=sum(record.bytes for record, new in sent if new),
    )


def send(source: Root, path: str, target: Root, to: str, record: FileRecord, hear: Hear = lambda *_: None) -> bool:
    """Bring one file to ``to``, whole and verified there. Returns whether it had to be sent.

    Raises:
        Corrupt: its content is not what the record says, here or there; what the record does not vouch for is not
            written.
    """
    if target.size(to) == record.bytes and _sha256(target.pieces(to)) == record.sha256:
        hear(record.bytes, path)
        return False
    target.stream(to, _verified(source, path, record, hear))
    found = _sha256(target.pieces(to))
    if found != record.sha256:
        target.remove(to)
        raise Corrupt(
            f"{target.url}/{to} did not arrive as it was sent (sha256 {record.sha256[:12]}, found {found[:12]}). "
            "Copy again; if it happens again, check that place."
        )
    return True


def _collect(source: Store, target: Store, run: str, with_parents: bool, found: dict[str, Plan]) -> None:
    """Add the plans of a run's parents and of the run, as far as they are not in ``found``."""
    record = source.existing_run(run)
    plan = _plan(source, target, record)
    begun = fork.parent_of(record)
    parents = set() if begun is None else {begun.run}
    needed = {
        place: digest
        for manifest in (*plan.missing, *plan.present)
        for place, digest in manifest.stands_on().items()
        if place.startswith(f"{layout.RUNS}/") and layout.run_of(place) != run
    }
    parents |= {layout.run_of(place) for place in needed}
    if with_parents:
        for parent in sorted(parents - {run}):
            if parent not in found and source.run(parent) is not None:
                _collect(source, target, parent, with_parents, found)
    coming = {manifest.artifact: manifest.digest for other in found.values() for manifest in other.missing}
    absent = sorted(
        {layout.run_of(place) for place, one in needed.items() if not _is_there(target, place, one, coming)}
    )
    if absent:
        names = ", ".join(repr(name) for name in absent)
        raise FemError(
            f"The run {run!r} refers to {names}, which {target.url} does not have as a whole. "
            f"Copy {'that run' if len(absent) == 1 else 'those runs'} first, or all together with --with-parents."
        )
    found.setdefault(run, plan)


def _plan(source: Store, target: Store, record: RunRecord) -> Plan:
    there = target.run(record.name)
    if there is not None and (there.digest, there.parent) != (record.digest, record.parent):
        if there.digest != record.digest:
            target.create_run(record)  # refuses, and lists what differs
        raise StoreConflict(
            f"The run {record.name!r} at {target.url} has the same configuration and another parent "
            f"({_origin(there)}; here {_origin(record)}). Copy it to another store."
        )
    known = {manifest.artifact: manifest for manifest in target.artifacts(record.name)}
    missing: list[Manifest] = []
    present: list[Manifest] = []
    for manifest in sorted(source.artifacts(record.name), key=lambda m: (m.finished, m.artifact)):
        other = known.get(manifest.artifact)
        if other is not None:
            _same(target, manifest, other)
        (missing if other is None else present).append(manifest)
    return Plan(record, tuple(missing), tuple(present))


def _artifact(source: Store, target: Store, manifest: Manifest, hear: Hear) -> list[tuple[FileRecord, bool]]:
    """The files of an artifact, then its manifest, byte for byte. Each file with whether it was sent."""
    path = f"{manifest.artifact}/{layout.MANIFEST}"
    text = source.root.read(path)
    if read_manifest(text, f"{source.url}/{path}") != manifest:
        raise Corrupt(f"{source.url}/{path} changed while it was copied, and manifests never do. Check that store.")
    told, stopped = threading.Lock(), threading.Event()

    def tell(done: int, file: str) -> None:
        if stopped.is_set():
            raise InterruptedError(f"{file} was given up with the others")
        with told:
            hear(done, file)

    def one(record: FileRecord) -> tuple[FileRecord, bool]:
        place = f"{manifest.artifact}/{record.path}"
        return record, send(source.root, place, target.root, place, record, tell)

    with ThreadPoolExecutor(_FILES) as senders:
        work = [senders.submit(one, record) for record in manifest.files] if holds(manifest) else []
        try:
            files = [future.result() for future in work]
        except BaseException:
            stopped.set()
            senders.shutdown(cancel_futures=True)
            raise
    if not target.root.create(path, text):
        winner = target.manifest(manifest.artifact)
        if winner is None:
            raise Corrupt(f"{target.url}/{path} refuses a manifest and has none. Check the store's server.")
        _same(target, manifest, winner)
    return files


def _same(target: Store, manifest: Manifest, other: Manifest) -> None:
    if other.digest != manifest.digest or other.step.key != manifest.step.key:
        raise StoreConflict(
            f"{target.url}/{manifest.artifact} is finished with another content (digest {other.digest[:12]}, here "
            f"{manifest.digest[:12]}): the run went its own way there. Copy to another store."
        )


def _is_there(target: Store, artifact: str, digest: str, coming: dict[str, str]) -> bool:
    """Whether what a run needs is at the destination, or will be before the run is."""
    if artifact in coming:
        return coming[artifact] == digest
    there = target.manifest(artifact)
    return there is not None and there.digest == digest


def _verified(source: Root, path: str, record: FileRecord, hear: Hear) -> Iterator[bytes]:
    """The pieces of a file; ends with an error when they are not what was recorded, so that nothing is written."""
    sha = hashlib.sha256()
    try:
        for piece in source.pieces(path):
            sha.update(piece)
            yield piece
            hear(len(piece), path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Corrupt(
            f"{source.url}/{path} is missing, and its manifest records it. Restore it from a backup; nothing of it was "
            "written."
        ) from error
    if sha.hexdigest() != record.sha256:
        raise Corrupt(
            f"{source.url}/{path} does not hold what its manifest records (sha256 {record.sha256[:12]}, found "
            f"{sha.hexdigest()[:12]}). Restore it from a backup; nothing of it was written."
        )


def _sha256(pieces: Iterator[bytes]) -> str:
    sha = hashlib.sha256()
    for piece in pieces:
        sha.update(piece)
    return sha.hexdigest()


def _origin(record: RunRecord) -> str:
    return "no fork" if record.parent is None else f"forked from {json.dumps(record.parent, sort_keys=True)}"
