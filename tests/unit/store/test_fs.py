"""Roots: conditional creation, crashes in the middle of it, and backends that must be refused."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fem_core.errors import FemError
from fem_core.store.fs import open_root
from fem_core.store.remote import RemoteRoot
from fem_core.store.store import Store


def test_many_writers_of_one_path_have_one_winner_whose_bytes_stay(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dawdling(self: MemoryFileSystem, path: str, **_: Any) -> bool:
        found = path in self.store
        time.sleep(0.005)  # between asking and writing, all the others ask
        return found

    monkeypatch.setattr(MemoryFileSystem, "exists", dawdling)
    root = open_root(store.url)
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda n: root.create("a/object", str(n).encode()), range(16)))
    assert created.count(True) == 1
    assert root.read("a/object") == str(created.index(True)).encode()


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/x", "a//b", ""])
def test_no_path_leads_out_of_the_root(tmp_path: Path, path: str) -> None:
    with pytest.raises(FemError, match="leads out of the store"):
        open_root(str(tmp_path / "root")).create(path, b"x")


KILLED_BEFORE_THE_LINK = """
import os, signal, sys
from fem_core.store.store import Store
import pyarrow as pa
os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
store = Store.open(sys.argv[1], check=False)
store.write_table("runs/r/attempts", "part-00000.parquet", pa.table({"x": [1]}), "k" * 64)
"""


def test_a_writer_killed_before_the_link_leaves_nothing_that_a_reader_takes(local: Store) -> None:
    child = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_LINK, local.url], check=False, timeout=60)
    assert child.returncode == -signal.SIGKILL
    folder = Path(local.url) / "runs/r/attempts"
    assert len(list(folder.iterdir())) == 1, "the crash should have left its temporary file"
    assert list(folder.glob("*.parquet")) == []
    assert local.parts("runs/r/attempts", "k" * 64) == {}


class IgnoresTheCondition(MemoryFileSystem):
    protocol = "ignoring"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        super().pipe_file(path, value, mode="overwrite")


def test_a_backend_that_ignores_the_condition_is_refused_at_open() -> None:
    fsspec.register_implementation("ignoring", IgnoresTheCondition, clobber=True)
    with pytest.raises(FemError, match=r"ignores create-if-absent.*Use a local folder"):
        Store.open("ignoring://bucket/prefix")


def test_a_backend_that_only_asks_before_it_writes_is_refused() -> None:
    class GenericArchive(fsspec.AbstractFileSystem):
        protocol = "generic"

    with pytest.raises(FemError, match="cannot create a file only if it is absent"):
        RemoteRoot(GenericArchive(), "base", "generic://base")


def test_s3_is_not_refused_as_a_backend_that_only_asks() -> None:
    assert Store.open("s3://bucket/prefix/", check=False).url == "s3://bucket/prefix"


def test_a_folder_that_a_server_lists_as_its_own_child_is_empty() -> None:
    class SelfListing(fsspec.AbstractFileSystem):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None: ...

        def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[str]:
            return [path, f"{path}/", f"{path}/child"]

    assert RemoteRoot(SelfListing(), "bucket/prefix", "s3://bucket/prefix").children("runs/a") == ["child"]


@pytest.mark.parametrize(
    ("codes", "created"), [(["PreconditionFailed"], False), (["ConditionalRequestConflict", None], True)]
)
def test_s3_error_codes_decide_between_a_lost_race_and_another_try(
    codes: list[str | None], created: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Botocore(Exception):
        def __init__(self, code: str) -> None:
            self.response = {"Error": {"Code": code}}

    class S3Like(fsspec.AbstractFileSystem):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
            code = codes.pop(0)
            if code is not None:
                raise OSError(22, "refused") from Botocore(code)

    monkeypatch.setattr("time.sleep", lambda _: None)
    assert RemoteRoot(S3Like(), "bucket", "s3://bucket").create("a", b"x") is created
    assert codes == []


def test_another_s3_error_is_not_taken_for_a_lost_race() -> None:
    class Failing(fsspec.AbstractFileSystem):
        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
            raise OSError(22, "Invalid bucket name")

    with pytest.raises(OSError, match="Invalid bucket name"):
        RemoteRoot(Failing(), "bucket", "s3://bucket").create("a", b"x")


def test_a_store_on_the_path_of_a_file_is_refused_in_two_sentences(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FemError) as refusal:
        Store.open(str(tmp_path / "file" / "store"))
    assert str(refusal.value) == (
        f"The store {tmp_path}/file/store cannot be a folder, as a file lies on its path. Name another folder."
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "no"), "may not be written with your rights"),
        (FileNotFoundError("NoSuchBucket"), "does not exist. Create the bucket"),
        (OSError(28, "No space left on device"), "is full"),
        (type("NoCredentialsError", (Exception,), {})(), "There are no credentials"),
        (type("EndpointConnectionError", (Exception,), {})(), "does not answer"),
        (RuntimeError("secret"), "could not be written"),
    ],
)
def test_what_makes_a_store_unusable_is_said_with_a_way_out(
    error: Exception, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise error

    monkeypatch.setattr("fem_core.store.local.LocalRoot.create", fail)
    with pytest.raises(FemError, match=sentence) as refusal:
        Store.open(str(tmp_path))
    assert "secret" not in str(refusal.value)


def test_a_checked_store_keeps_no_trace_of_the_probe(local: Store) -> None:
    assert not Path(local.url).exists()


def test_the_probe_leaves_what_was_in_the_store_before(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    Store.open(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_credentials_in_a_url_are_refused_without_showing_them() -> None:
    with pytest.raises(FemError, match="AWS_ACCESS_KEY_ID") as refusal:
        Store.open("s3://key:hunter2@bucket/prefix?token=hunter3")
    assert "hunter" not in str(refusal.value)


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(FemError, match="cannot be used"):
        Store.open("nonsense://bucket")
