"""The store: immutable artifacts under one root, found by step key, verified when read.

Contract: data first, manifest last, both by conditional create. An artifact exists when its manifest does, the first
writer wins, and the loser reads the winner's. What is read is checked against its manifest before it is used. All
calls are synchronous and safe from several threads and processes; none belongs on an event loop.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from fem_core.digest import digest_file
from fem_core.errors import Corrupt, FemError, StoreConflict
from fem_core.store import layout, reading, tables
from fem_core.store.diff import differences
from fem_core.store.fs import open_root
from fem_core.store.manifest import (
    FileRecord,
    InputRef,
    Manifest,
    RunRecord,
    StepRecord,
    artifact_digest,
    read_manifest,
    read_run,
    to_json,
)
from fem_core.store.patience import LOOKING
from fem_core.store.probe import probe
from fem_core.store.root import Root

_READERS = 16
"""Manifests read at a time."""

_PART_READERS = 4
"""Part files held in memory at a time while they are checked."""

_AHEAD = 2
"""Files read and hashed while the table of one is in use."""

_OTHER_RUN = "A run has one configuration: start this one under another name with --run NAME."


class Store:
    """One root. ``Store.open`` makes it."""

    def __init__(self, root: Root) -> None:
        self._root = root

    @classmethod
    def open(cls, url: str, *, check: bool = True, patience: float = LOOKING) -> "Store":
        """The store at a folder or fsspec URL.

        Args:
            check: prove that it can be written and honours create-if-absent; False for readers, and for children
                whose parent has checked.
            patience: seconds to wait for a server that does not answer; the check itself waits for ``LOOKING`` only.

        Raises:
            FemError: it cannot be used; the message says why and never shows credentials.
        """
        root = open_root(url)
        if check:
            probe(root)
        root.wait(patience)
        return cls(root)

    @property
    def url(self) -> str:
        """Where the store is, without credentials."""
        return self._root.url

    @property
    def root(self) -> Root:
        """The place itself, for what copies, audits and collects whole objects."""
        return self._root

    # -- artifacts ----------------------------------------------------------------------------------------------------

    def manifest(self, artifact: str) -> Manifest | None:
        """The manifest of an artifact; None when there is no such artifact (yet)."""
        path = f"{artifact}/{layout.MANIFEST}"
        try:
            text = self._root.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return read_manifest(text, f"{self.url}/{path}")

    def find(
        self, artifact: str, key: str, *, step: StepRecord | None = None, inputs: Sequence[InputRef] = ()
    ) -> Manifest | None:
        """The artifact made by the step with this key; None when it is still to be made.

        Args:
            step, inputs: what the caller is about to do, for the diff in the message of a conflict.

        Raises:
            StoreConflict: another step key made what is there.
        """
        found = self.manifest(artifact)
        if found is None or found.step.key == key:
            return found
        lines = step_differences(found, step, inputs) if step is not None else []
        raise StoreConflict(
            f"{artifact} was made with step key {found.step.key[:12]}, and this run's is {key[:12]}"
            f"{': ' + '; '.join(lines) if lines else ''}. {_OTHER_RUN}"
        )

    def begun(self, artifact: str, key: str) -> bool:
        """Whether the step with this key has made the artifact, or where it is not finished, its first part file there."""
        found = self.manifest(artifact)
        if found is not None:
            return found.step.key == key
        first = next(iter(self._part_names(artifact)), None)
        return first is not None and tables.key_of(self._root.read(f"{artifact}/{first}")) == key

    def parts(self, artifact: str, key: str) -> dict[str, FileRecord]:
        """The committed part files of an artifact, finished or not, by name; each is read in full.

        Raises:
            StoreConflict: a part was written for another step key.
            Corrupt: a part cannot be read.
        """
        names = self._part_names(artifact)
        with ThreadPoolExecutor(_PART_READERS) as readers:
            return dict(zip(names, readers.map(lambda name: self._part(artifact, name, key), names), strict=True))

    def write_table(self, artifact: str, name: str, table: pa.Table, key: str) -> FileRecord:
        """Write a part file. Where one of this step key is already there, that one stays and its record is returned.

        Raises:
            StoreConflict: a part of another step key is there.
        """
        data = tables.encode(table, key)
        with ThreadPoolExecutor(1) as beside:
            sha256 = beside.submit(_sha256, data)
            if self._root.create(f"{artifact}/{name}", data):
                return FileRecord(path=name, bytes=len(data), rows=table.num_rows, sha256=sha256.result())
        return self._part(artifact, name, key)

    def write_bytes(self, artifact: str, name: str, data: bytes) -> FileRecord:
        """Write a file. Where other bytes lie there without a manifest, a crashed try left them: they are replaced.

        Raises:
            StoreConflict: other bytes are there, and a manifest vouches for them.
        """
        path = f"{artifact}/{name}"
        if not self._root.create(path, data) and self._root.read(path) != data:
            if self.manifest(artifact) is not None:
                raise StoreConflict(
                    f"{path} is finished and holds other bytes than those to be written. "
                    "Read what is there, or start another run with --run NAME."
                )
            self._root.replace(path, data)
        return FileRecord(path=name, bytes=len(data), rows=None, sha256=_sha256(data))

    def put_directory(self, artifact: str, folder: Path, still: Callable[[], None] = lambda: None) -> list[FileRecord]:
        """Write all files of a local folder, such as a checkpoint, and say what they are.

        The folder is given away: a local store links its files, so nobody may write to them afterwards (deleting the
        folder is fine). Files that a crashed try left without a manifest are replaced. Where the artifact is finished, or
        is finished by another process meanwhile, no more is written, and ``commit`` will return the winner's manifest.

        Args:
            still: called before each file is written; raises where the caller may not write any more.
        """
        records = []
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            if name == layout.MANIFEST:
                continue
            rows = tables.count_rows(file.read_bytes()) if name.endswith(".parquet") else None
            records.append(FileRecord(path=name, bytes=file.stat().st_size, rows=rows, sha256=digest_file(file)))
            still()
            if self.manifest(artifact) is None:
                self._root.put(f"{artifact}/{name}", file)
        if not records:
            raise FemError(
                f"The folder {str(folder)!r} holds no files, so there is nothing to store as {artifact}. Run again."
            )
        return records

    def commit(self, manifest: Manifest) -> Manifest:
        """Make the artifact exist. Returns the manifest that counts: this one, or that of whoever was first.

        Raises:
            StoreConflict: who was first had another step key.
            Corrupt: a recorded file is missing or has another size.
            ValueError: the manifest's digest is not that of its files.
            TypeError: the manifest holds a value with no stable serialisation.
        """
        if manifest.digest != artifact_digest(manifest.kind, manifest.files):
            raise ValueError(f"the manifest of {manifest.artifact} has another digest than the files it lists")
        text = to_json(manifest)
        trouble = self._missing(manifest)
        if trouble is None and self._root.create(f"{manifest.artifact}/{layout.MANIFEST}", text):
            return manifest
        winner = self._winner(manifest)
        if winner is None:
            raise Corrupt(
                trouble or f"{self.url}/{manifest.artifact} refuses a manifest and has none. Check the store's server."
            )
        return winner

    def verify(self, manifest: Manifest) -> None:
        """Hash every file of an artifact. Raises ``Corrupt``, which names the first one that does not hold."""
        reading.verify(self._root, manifest)

    def read_bytes(self, manifest: Manifest, name: str) -> bytes:
        """One file of an artifact, verified."""
        return reading.read_bytes(self._root, manifest, name)

    def iter_tables(self, manifest: Manifest, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The artifact's tables in path order, one per file, each verified before it is parsed.

        The next files are read and hashed beside the table in use, so a few files are in memory, however many there are.
        A table is made in the caller's thread and when it is asked for: Arrow's allocator keeps what a thread has freed,
        and threads that come and go with every artifact would each leave some behind.
        """
        parts = sorted((one for one in manifest.files if one.path.endswith(".parquet")), key=lambda one: one.path)
        with ThreadPoolExecutor(_AHEAD) as beside:
            ready: deque[Future[bytes]] = deque()
            for part in parts:
                ready.append(beside.submit(reading.read_file, self._root, manifest, part))
                if len(ready) > _AHEAD:
                    yield tables.decode(ready.popleft().result(), columns)
            while ready:
                yield tables.decode(ready.popleft().result(), columns)

    def read_table(self, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
        """The artifact's tables as one, verified, in path order."""
        found = list(self.iter_tables(manifest, columns))
        if not found:
            raise FemError(f"{manifest.artifact} holds no tables. Read its files with read_bytes or local_dir.")
        return pa.concat_tables(found)

    def local_dir(self, manifest: Manifest, cache: Path) -> Path:
        """A local folder with exactly the artifact's files, verified once per process.

        That is the artifact's own folder where it is local and nothing else lies in it (a crashed try may have left
        more), else ``cache/<digest>``, which appears whole or not at all and stays while a process uses it.
        """
        return reading.local_dir(self._root, manifest, cache)

    def forget(self, manifest: Manifest, cache: Path) -> None:
        """The folder of ``local_dir`` is needed no longer: a copy in the cache goes where nobody else uses it."""
        reading.forget(manifest, cache)

    # -- runs ---------------------------------------------------------------------------------------------------------

    def run(self, name: str) -> RunRecord | None:
        """A run's record; None when there is no such run."""
        path = layout.run_json(name)
        try:
            text = self._root.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return read_run(text, f"{self.url}/{path}")

    def existing_run(self, name: str) -> RunRecord:
        """A run's record.

        Raises:
            FemError: there is no such run; the message names those that there are.
        """
        record = self.run(name)
        if record is None:
            known = ", ".join(other.name for other in self.runs()) or "none"
            raise FemError(f"There is no run {name!r} in {self.url}. Runs here: {known}.")
        return record

    def create_run(self, record: RunRecord) -> RunRecord:
        """Begin a run, or find it: the same name and digest give the record that is there.

        Raises:
            StoreConflict: the name is taken by another configuration.
        """
        if self._root.create(layout.run_json(record.name), to_json(record)):
            return record
        found = self.run(record.name)
        if found is not None and found.digest == record.digest:
            return found
        lines = [] if found is None else differences(found.config, record.config)
        raise StoreConflict(
            f"The run {record.name!r} is in the store with another configuration"
            f"{': ' + '; '.join(lines) if lines else ''}. {_OTHER_RUN}"
        )

    def artifacts(self, run: str) -> list[Manifest]:
        """The manifests of all artifacts of a run, in path order; read side by side, as a store may be far away."""

        def inside(folder: str) -> list[str]:
            return [f"{folder}/{name}" for name in self._root.children(folder)]

        with ThreadPoolExecutor(_READERS) as readers:
            places = inside(layout.run_dir(run))
            folders: list[str] = []
            for place, paths in zip(places, readers.map(inside, places), strict=True):
                folders += [place] if f"{place}/{layout.MANIFEST}" in paths else paths
            found = readers.map(self.manifest, sorted(folders))
            return [manifest for manifest in found if manifest is not None]

    def runs(self) -> list[RunRecord]:
        """All runs, by name."""
        names = [name for name in self._root.children(layout.RUNS) if not name.startswith(".")]
        return [record for record in map(self.run, names) if record is not None]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _missing(self, manifest: Manifest) -> str | None:
        """What is wrong with the files of a manifest: the first that is missing or has another size, in a sentence."""
        if manifest.location is not None or not manifest.files:
            return None
        folder = reading.holder(manifest)
        one = manifest.files[0].path
        there = {one: self._root.size(f"{folder}/{one}")} if len(manifest.files) == 1 else self._root.files(folder)
        for record in manifest.files:
            size = there.get(record.path)
            if size != record.bytes:
                return (
                    f"{self.url}/{folder}/{record.path} should have {record.bytes} bytes and "
                    f"{'is missing' if size is None else f'has {size}'}. Run again to redo this step."
                )
        return None

    def _winner(self, manifest: Manifest) -> Manifest | None:
        return self.find(manifest.artifact, manifest.step.key, step=manifest.step, inputs=manifest.inputs)

    def _part_names(self, artifact: str) -> list[str]:
        return [
            name
            for name in self._root.children(artifact)
            if name.endswith(".parquet") and not name.startswith((".", "_"))
        ]

    def _part(self, artifact: str, name: str, key: str) -> FileRecord:
        path = f"{artifact}/{name}"
        data = self._root.read(path)
        try:
            rows, found = tables.check(data)
        except (OSError, pa.ArrowException) as error:
            raise Corrupt(
                f"{self.url}/{path} is not a whole parquet file. Move it away and run again to redo this part."
            ) from error
        if found != key:
            by = "by no step of this program" if found is None else f"for step key {found[:12]}"
            raise StoreConflict(f"{path} was written {by}, and this run's is {key[:12]}. {_OTHER_RUN}")
        return FileRecord(path=name, bytes=len(data), rows=rows, sha256=_sha256(data))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def step_differences(found: Manifest, step: StepRecord, inputs: Sequence[InputRef]) -> list[str]:
    """How what a step is about to do differs from what made an artifact: lines as ``differences`` gives them."""
    was = {"version": found.step.version, **found.step.config}
    now = {"version": step.version, **step.config}
    return [
        *differences(was, now),
        *(
            f"input {line}"
            for line in differences(
                {ref.role: ref.digest[:12] for ref in found.inputs}, {ref.role: ref.digest[:12] for ref in inputs}
            )
        ),
    ]
