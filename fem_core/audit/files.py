"""Every file of an artifact against its manifest: bytes, digest, and what kind of table it holds.

Contract: each file is read once, whole for a table and in pieces for anything else, several at a time; a file that two
manifests share (a fork's and its parent's) is read once for both. Pages of a table are made out on request only: bytes
with the recorded digest are what the step wrote, so they could only be bad where the record itself was forged.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fem_core.audit.findings import Finding
from fem_core.config import PACKAGED_MODEL
from fem_core.errors import FemError
from fem_core.packaged_model import NAME as PACKAGED
from fem_core.schemas import TABLES, schema_of
from fem_core.store import layout, tables
from fem_core.store.local import LocalRoot
from fem_core.store.manifest import FileRecord, Manifest
from fem_core.store.reading import holder
from fem_core.store.root import Root

GONE = "no file"
"""What stands for the content of a file that is not there."""

READERS = 8
"""Files read at a time."""


@dataclass(frozen=True)
class Footer:
    """What a parquet file says of itself."""

    rows: int
    key: str | None
    """Step key of the step that wrote it."""
    schema: pa.Schema


@dataclass(frozen=True)
class Content:
    """What is in a file."""

    bytes: int
    sha256: str
    footer: Footer | str | None
    """None where the file is no table; a sentence where it should be one and cannot be read."""


Contents = dict[tuple[str, str], Content | str]
"""By root and path in it; a sentence where a file cannot be read."""


def read_all(root: Root, manifests: Sequence[Manifest], cache: Path, *, pages: bool) -> Contents:
    """Read and hash the files of all manifests.

    Args:
        cache: where the packaged model's folder may be.
        pages: read every page of a table against its checksum, too.
    """
    places: dict[tuple[str, str], Root] = {}
    for manifest in manifests:
        found = place(root, manifest, cache)
        if found is not None:
            places |= {(found[0].url, found[1] + record.path): found[0] for record in manifest.files}
    with ThreadPoolExecutor(READERS) as readers:
        contents = readers.map(lambda item: _read(item[1], item[0][1], pages), places.items())
        return dict(zip(places, contents, strict=True))


def check(root: Root, manifest: Manifest, contents: Contents, cache: Path) -> Iterator[Finding]:
    """What of a manifest's list of files does not hold."""
    found = place(root, manifest, cache)
    if found is None:
        where = f"the files of the base model, at {manifest.location!r} when it was recorded"
        yield Finding("unchecked", manifest.artifact, None, "not here", found=where)
        return
    there = [(record, contents[found[0].url, found[1] + record.path]) for record in manifest.files]
    gone = [record.path for record, content in there if content == GONE]
    if gone and manifest.location is None and root.size(f"{holder(manifest)}/{layout.COLLECTED}") is not None:
        what = f"{len(gone)} files that fem gc removed"
        yield Finding("unchecked", manifest.artifact, None, "collected", found=what)
        there = [(record, content) for record, content in there if content != GONE]
    for record, content in there:
        yield from _check(manifest, record, content)


def place(root: Root, manifest: Manifest, cache: Path) -> tuple[Root, str] | None:
    """The root that the files lie in and what stands before their paths there; None when they are elsewhere."""
    if manifest.location is None:
        return root, f"{holder(manifest)}/"
    folder = _model_folder(manifest, cache)
    return None if folder is None else (LocalRoot(folder), "")


def _check(manifest: Manifest, record: FileRecord, content: Content | str) -> Iterator[Finding]:
    def broken(what: str, recorded: object, found: object) -> Finding:
        return Finding("broken", manifest.artifact, record.path, what, str(recorded), str(found))

    if isinstance(content, str):
        yield broken("file", f"{record.bytes} bytes", content)
        return
    if content.bytes != record.bytes:
        yield broken("bytes", record.bytes, content.bytes)
    if content.sha256 != record.sha256:
        yield broken("sha256", record.sha256, content.sha256)
        return
    footer = content.footer
    if isinstance(footer, str):
        yield broken("table", "a parquet file", footer)
    if not isinstance(footer, Footer):
        return
    if footer.rows != record.rows:
        yield broken("rows", record.rows, footer.rows)
    kind = Path(record.path).stem if manifest.kind in ("checkpoint", "report") else manifest.kind
    expected = schema_of(kind, manifest.step.config)
    if expected is not None and (other := _columns(expected, footer.schema)):
        yield broken("columns", other[0], other[1])
    if manifest.kind in TABLES and footer.key != manifest.step.key:
        yield broken("step key in the file", manifest.step.key, footer.key)


def _columns(expected: pa.Schema, found: pa.Schema) -> tuple[str, str] | None:
    """Both sides of the first column that differs."""
    for wanted, there in zip_longest(expected, found):
        if wanted is None or there is None or wanted.name != there.name or not wanted.type.equals(there.type):
            first, second = (
                "no column" if field is None else f"{field.name} {field.type}" for field in (wanted, there)
            )
            return first, second
    return None


def _read(root: Root, path: str, pages: bool) -> Content | str:
    sha, size, kept = hashlib.sha256(), 0, []
    try:
        for piece in root.pieces(path):
            sha.update(piece)
            size += len(piece)
            if path.endswith(".parquet"):
                kept.append(piece)
    except (FileNotFoundError, NotADirectoryError):
        return GONE
    except (OSError, FemError) as error:
        return f"a file that cannot be read ({type(error).__name__})"
    return Content(size, sha.hexdigest(), _footer(b"".join(kept), pages) if path.endswith(".parquet") else None)


def _footer(data: bytes, pages: bool) -> Footer | str:
    try:
        if pages:
            tables.check(data)
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return Footer(*tables.footer(file), file.schema_arrow)
    except (OSError, pa.ArrowException) as error:
        return f"something else ({' '.join(str(error).split())[:120]})"


def _model_folder(manifest: Manifest, cache: Path) -> Path | None:
    """The base model's folder on this machine. Converts and downloads nothing."""
    location = str(manifest.location)
    folder = cache / PACKAGED if location == PACKAGED_MODEL else Path(location).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if location == PACKAGED_MODEL or folder.is_absolute() or location.startswith("."):
        return None
    from huggingface_hub import snapshot_download

    revision = manifest.step.config.get("model", {}).get("revision")
    try:
        return Path(snapshot_download(location, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None
