"""What somebody with write access to a store could do to it.

Contract: works on a root of any kind. ``forge_on`` makes everything downstream of a change consistent again, as a
careful forger would: digests, step keys, keys inside parquet files, input references, figures.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from fem_core.digest import step_key
from fem_core.schemas import LOOKED, TABLES
from fem_core.store import tables
from fem_core.store.manifest import FileRecord, Manifest, artifact_digest
from fem_core.store.store import Store

RUN = "runs/made"


def manifest_of(store: Store, artifact: str) -> Manifest:
    found = store.manifest(artifact)
    assert found is not None
    return found


def flip(store: Store, path: str) -> None:
    """One bit of the byte in the middle of a file."""
    data = bytearray(store.root.read(path))
    data[len(data) // 2] ^= 1
    store.root.replace(path, bytes(data))


def edit_json(store: Store, path: str, edit: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(store.root.read(path))
    edit(values)
    store.root.replace(path, json.dumps(values).encode())


def edit_manifest(store: Store, artifact: str, edit: Callable[[dict[str, Any]], None]) -> None:
    edit_json(store, f"{artifact}/_manifest.json", edit)


def replace_bytes(store: Store, artifact: str, name: str, data: bytes, rows: int | None = None) -> None:
    """Another file, and a manifest that vouches for it."""
    store.root.replace(f"{artifact}/{name}", data)
    _record(store, artifact, _file(name, data, rows))


def replace_table(store: Store, artifact: str, name: str, table: pa.Table) -> None:
    """Another table, and a manifest that vouches for it."""
    manifest = manifest_of(store, artifact)
    schema = TABLES["training_log" if manifest.kind == "checkpoint" else manifest.kind]
    whole = table.cast(LOOKED if table.column_names == LOOKED.names else schema)
    data = tables.encode(whole, manifest.step.key)
    store.root.replace(f"{artifact}/{name}", data)
    _record(store, artifact, _file(name, data, whole.num_rows))


def edit_rows(
    store: Store, artifact: str, edit: Callable[[list[dict[str, Any]]], None], name: str = "part-00000.parquet"
) -> None:
    """``replace_table`` with the rows of the one that is there, edited."""
    table = tables.decode(store.root.read(f"{artifact}/{name}"))
    rows = table.to_pylist()
    edit(rows)
    replace_table(store, artifact, name, pa.Table.from_pylist(rows, schema=table.schema))


def forge_on(store: Store, run: str = "made") -> None:
    """Make the whole run consistent with what its files hold now."""
    order = sorted(store.artifacts(run), key=lambda manifest: (manifest.started, manifest.finished))
    made = {manifest.artifact: manifest for manifest in order}
    done: set[str] = set()

    def mend(artifact: str) -> None:
        if artifact in done or artifact not in made:
            return
        done.add(artifact)
        for ref in made[artifact].inputs:
            mend(ref.artifact)
        edit_manifest(store, artifact, _mended)
        key = manifest_of(store, artifact).step.key
        for record in manifest_of(store, artifact).files:
            if record.path.endswith(".parquet"):
                data = store.root.read(f"{artifact}/{record.path}")
                if tables.check(data)[1] != key:
                    replace_table(store, artifact, record.path, tables.decode(data))
        edit_manifest(store, artifact, _counted)

    def _mended(values: dict[str, Any]) -> None:
        for ref in values["inputs"]:
            producer = store.manifest(ref["artifact"]) if ref["artifact"].startswith("runs/") else None
            if producer is not None:
                ref["digest"] = producer.digest
        step = values["step"]
        inputs = {ref["role"]: ref["digest"] for ref in values["inputs"]}
        step["key"] = step_key(step["name"], step["version"], step["config"], inputs)

    def _counted(values: dict[str, Any]) -> None:
        rows = sum(file["rows"] or 0 for file in values["files"])
        figure = {"attempts": "draws", "verdicts": "attempts", "rationales": "accepted", "problems": "problems"}
        if values["kind"] in figure:
            values["stats"][figure[values["kind"]]] = rows
        if values["kind"] == "checkpoint":
            source = next(ref["artifact"] for ref in values["inputs"] if ref["role"] == "rationales")
            values["stats"]["rationales"] = sum(file.rows or 0 for file in manifest_of(store, source).files)

    for manifest in order:
        mend(manifest.artifact)


def _file(name: str, data: bytes, rows: int | None) -> FileRecord:
    return FileRecord(path=name, bytes=len(data), rows=rows, sha256=hashlib.sha256(data).hexdigest())


def _record(store: Store, artifact: str, record: FileRecord) -> None:
    def vouch(values: dict[str, Any]) -> None:
        values["files"] = [file for file in values["files"] if file["path"] != record.path] + [record.model_dump()]
        values["files"].sort(key=lambda file: file["path"])
        values["digest"] = artifact_digest(values["kind"], [FileRecord(**file) for file in values["files"]])

    edit_manifest(store, artifact, vouch)
