"""A store on each kind of root, S3 on a real server, and a committed artifact in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pytest

from deployments.s3 import BUCKET
from fem_core.digest import step_key
from fem_core.schemas import SCHEMA_VERSION
from fem_core.store.manifest import FileRecord, InputRef, Manifest, StepRecord, artifact_digest
from fem_core.store.store import Store

MakeManifest = Callable[..., Manifest]


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield Store.open(str(tmp_path / "root"))
        return
    if request.param == "s3":
        request.getfixturevalue("s3_server")
        yield Store.open(f"s3://{BUCKET}/{uuid4().hex}")
        return
    url = f"memory://{uuid4().hex}"
    yield Store.open(url)
    memory = fsspec.filesystem("memory")
    if memory.exists(url):
        memory.rm(url, recursive=True)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "root"))


@pytest.fixture
def table() -> pa.Table:
    return pa.table({"problem_id": ["a", "b", "c"], "attempt": pa.array([0, 1, 2], pa.int32())})


@pytest.fixture
def make_manifest() -> MakeManifest:
    """A manifest for files: ``make_manifest(artifact, files, config=…, inputs={role: digest}, **fields)``."""

    def make(
        artifact: str,
        files: list[FileRecord],
        config: dict[str, Any] | None = None,
        inputs: dict[str, str] | None = None,
        **fields: Any,
    ) -> Manifest:
        config = {"sample": {"temperature": 1.0}} if config is None else config
        inputs = {"problems": "d" * 64} if inputs is None else inputs
        values: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kind": "attempts",
            "artifact": artifact,
            "digest": artifact_digest("attempts", files),
            "files": files,
            "step": StepRecord(name="sample", version=1, key=step_key("sample", 1, config, inputs), config=config),
            "inputs": [InputRef(role=role, artifact=f"runs/x/{role}", digest=d) for role, d in inputs.items()],
            "code": {},
            "packages": {},
            "hardware": {},
            "started": "2026-01-01T00:00:00Z",
            "finished": "2026-01-01T00:00:01Z",
        }
        return Manifest(**{**values, **fields})

    return make
