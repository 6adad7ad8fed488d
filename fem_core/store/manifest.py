"""The records beside the data: what an artifact is, who made it from what, and what a run is.

Contract: a manifest is written once, after its data, and never changed; its digest covers the content of the files and
nothing else, so the same content has the same digest under every root, run name and date.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from fem_core.digest import canonical_json, digest
from fem_core.errors import Corrupt
from fem_core.store.migrations import migrate

_R = TypeVar("_R", bound="Record")


class Record(BaseModel):
    """What all records share: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class FileRecord(Record):
    """One file of an artifact."""

    path: str
    """Relative to the artifact's folder, with ``/``."""
    bytes: int
    """Size."""
    rows: int | None
    """Rows, where the file is a table."""
    sha256: str
    """Of the whole file, 64 hex digits."""

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        if not path or any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path:
            raise ValueError(f"the file path {path!r} leads out of the artifact")
        return path


class StepRecord(Record):
    """What was done."""

    name: str
    """The step: prepare, sample, filter, train or evaluate."""
    version: int
    """Of the step's code; raised by hand when it writes something else."""
    key: str
    """The step key: ``fem_core.digest.step_key`` of name, version, config and input digests."""
    config: dict[str, Any]
    """The part of the configuration that the step read."""


class InputRef(Record):
    """An artifact that the step read."""

    role: str
    """What it was to the step, such as ``problems`` or ``checkpoint``."""
    artifact: str
    """Its path, relative to the store's root."""
    digest: str
    """Its digest when it was read."""


class Manifest(Record):
    """The record of one artifact. The artifact exists because this does."""

    schema_version: int
    """Of this record (``fem_core.schemas.SCHEMA_VERSION``); older ones are read through ``migrations``."""
    kind: str
    """What the artifact is: problems, attempts, rationales, checkpoint, …"""
    artifact: str
    """Its folder relative to the store's root, such as ``runs/demo/iteration=003/attempts``."""
    digest: str
    """``artifact_digest`` of the files."""
    files: list[FileRecord]
    """Every file of the artifact."""
    step: StepRecord
    """What was done."""
    inputs: list[InputRef]
    """To what."""
    stats: dict[str, Any] = {}
    """Figures for people and reports."""
    location: str | None = None
    """Only where the files lie outside the store: the base model's folder or hub name. Not in the digest."""
    source: str | None = None
    """Only where a fork refers to what another run made: the artifact that holds the files. Not in the digest."""
    code: dict[str, Any]
    """``provenance.code()``."""
    packages: dict[str, Any]
    """``provenance.packages()``."""
    hardware: dict[str, Any]
    """``provenance.hardware()``."""
    seeds: dict[str, Any] = {}
    """Seeds by what they seeded."""
    engine: dict[str, Any] = {}
    """Resolved engine settings."""
    started: str
    """ISO 8601, UTC."""
    finished: str
    """ISO 8601, UTC."""
    prefect: dict[str, Any] = {}
    """Flow-run and task-run ids."""

    def stands_on(self) -> dict[str, str]:
        """The artifacts that this one needs, with their digests: the one that holds its files, else what it was made from."""
        return (
            {self.source: self.digest} if self.source is not None else {one.artifact: one.digest for one in self.inputs}
        )


class RunRecord(Record):
    """One run: an immutable configuration under a name."""

    name: str
    """The run's name."""
    config: dict[str, Any]
    """``RunConfig.identity()``."""
    digest: str
    """``RunConfig.digest()``: a run has one."""
    created: str
    """ISO 8601, UTC."""
    places: dict[str, Any]
    """The ``PLACE`` values of the configuration, to be read by people. Credentials in URLs are taken out."""
    parent: dict[str, Any] | None
    """Where a fork started from: run, iteration, digests."""

    @field_validator("places")
    @classmethod
    def _without_secrets(cls, places: dict[str, Any]) -> dict[str, Any]:
        return {name: _scrubbed(value) for name, value in places.items()}


def artifact_digest(kind: str, files: Sequence[FileRecord]) -> str:
    """SHA-256 over the kind and (path, sha256) of the files, sorted by path.

    The 1 is the version of this formula. It stays when the record's form changes, so that the same content keeps its
    digest for ever.
    """
    content = sorted([file.path, file.sha256] for file in files)
    return digest({"kind": kind, "schema_version": 1, "files": content})


def to_json(record: Record) -> bytes:
    """A record as the store keeps it.

    Raises:
        TypeError: a value has no stable serialisation (NaN, a set, a path, …); the message names it.
    """
    values = record.model_dump()
    canonical_json(values)
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def read_manifest(text: bytes, where: str) -> Manifest:
    """The manifest in a file.

    Raises:
        FemError: it was written by a newer version of this program.
        Corrupt: it is no manifest, or its digest is not that of its own list of files.
    """
    manifest = _validated(Manifest, migrate(_mapping(text, where), where), where)
    if manifest.digest != artifact_digest(manifest.kind, manifest.files):
        raise Corrupt(
            f"{where} records a digest that is not the digest of the files it lists, so it was changed after it was "
            "written. Restore it from a backup, or move the artifact's folder away and run again."
        )
    return manifest


def read_run(text: bytes, where: str) -> RunRecord:
    """The run record in a file. Raises ``Corrupt`` when it is none."""
    return _validated(RunRecord, _mapping(text, where), where)


def safe_url(url: str) -> str:
    """A URL without user, password, query and fragment; a plain path as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return safe_url(value) if re.match(r"[A-Za-z][A-Za-z0-9+.:-]*://", value) else value
    if isinstance(value, Mapping):
        return {name: _scrubbed(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrubbed(item) for item in value]
    return value


def _mapping(text: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _torn(where, "it is not valid JSON") from error
    if not isinstance(values, dict):
        raise _torn(where, "it is not a JSON object")
    return values


def _validated(model: type[_R], values: dict[str, Any], where: str) -> _R:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise _torn(where, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error


def _torn(where: str, why: str) -> Corrupt:
    return Corrupt(
        f"{where} cannot be read: {why}. Restore it from a backup, or move its folder away and run again to redo it."
    )
