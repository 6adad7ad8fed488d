"""A store that is away for a while, and one that lets nobody in."""

import os
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from deployments.s3 import BUCKET, S3Server
from fem_core.errors import FemError, StoreAway
from fem_core.store.patience import Patient
from fem_core.store.store import Store


@pytest.fixture
def own_server(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server that a test may kill."""
    server = S3Server(tmp_path / "s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_that_restarts_is_waited_for(own_server: S3Server) -> None:
    store = Store.open(f"s3://{BUCKET}/{uuid4().hex}", patience=60)
    assert own_server.endpoint == os.environ["AWS_ENDPOINT_URL"]
    store.write_bytes("runs/a/x", "one", b"before")
    own_server.kill()
    back = threading.Timer(1.5, own_server.start)
    back.start()
    record = store.write_bytes("runs/a/x", "two", b"after")
    back.join()
    assert store.root.read("runs/a/x/one") == b"before"
    assert store.root.read("runs/a/x/two") == b"after" and record.bytes == 5


@pytest.mark.slow
def test_a_server_that_stays_away_is_one_sentence(own_server: S3Server) -> None:
    store = Store.open(f"s3://{BUCKET}/{uuid4().hex}", patience=0.5)
    own_server.kill()
    began = time.monotonic()
    with pytest.raises(StoreAway, match=r"s3://fem/\w+ has not answered for \d+ s .*What is committed is kept"):
        store.manifest("runs/a/x")
    assert time.monotonic() - began < 30


def test_wrong_credentials_are_refused_at_once_and_not_shown(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint + "/")  # fsspec keeps one filesystem for each endpoint
    store = Store.open(f"s3://{BUCKET}/{uuid4().hex}", check=False, patience=60)
    with pytest.raises(FemError, match="Check permissions and credentials") as refusal:
        store.run("demo")
    assert "not-the-secret" not in str(refusal.value) and s3_server.key not in str(refusal.value)


def test_what_is_not_there_is_said_at_once(s3_server: S3Server) -> None:
    store = Store.open(f"s3://{BUCKET}/{uuid4().hex}", patience=60)
    began = time.monotonic()
    assert store.run("demo") is None
    assert time.monotonic() - began < 5


class Slow:
    """A filesystem whose uploads take a while; the first ones break off at their end."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def put_file(self) -> str:
        time.sleep(0.6)
        if self.errors:
            raise self.errors.pop(0)
        return "there"


def test_a_long_call_that_breaks_off_is_tried_again() -> None:
    """A server was away for a moment, not for as long as the call has lasted."""
    store = Patient(Slow(ConnectionResetError()), "s3://there")
    store.seconds = 0.5
    assert store.put_file() == "there"


def test_a_call_that_goes_on_breaking_off_ends() -> None:
    store = Patient(Slow(*[ConnectionResetError()] * 9), "s3://there")
    store.seconds = 0.5
    with pytest.raises(StoreAway, match=r"has not answered for 1 s"):
        store.put_file()
