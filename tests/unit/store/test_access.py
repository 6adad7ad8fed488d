"""How an S3 server is reached, from a configuration and from a secret, without a secret in any record."""

import os

import pytest
from made_run import made_config

from deployments.s3 import BUCKET, S3Server
from fem_core.config import S3Config, places_of
from fem_core.errors import FemError
from fem_core.store import access
from fem_core.store.store import Store

NAMES = ("AWS_ENDPOINT_URL", "AWS_PROFILE", access.ADDRESSING, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without S3 settings, put back afterwards."""
    for name in NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_what_a_configuration_says_reaches_the_filesystem(nothing_said: None) -> None:
    assert access.options("s3") == {}
    access.use(S3Config(endpoint_url="http://127.0.0.1:1", addressing_style="path", profile="team"))
    assert access.options("s3") == {
        "endpoint_url": "http://127.0.0.1:1",
        "profile": "team",
        "config_kwargs": {"s3": {"addressing_style": "path"}},
    }
    assert access.options("gs") == {}
    access.use(S3Config())
    assert os.environ["AWS_PROFILE"] == "team", "what is left open stays as it was"


def test_how_a_server_is_reached_is_a_place_and_no_identity() -> None:
    here, there = made_config(), made_config(s3={"endpoint_url": "http://127.0.0.1:1", "credentials_block": "fem-s3"})
    assert here.digest() == there.digest()
    assert places_of(there)["s3"]["credentials_block"] == "fem-s3"


def test_an_endpoint_with_credentials_is_refused_without_showing_them() -> None:
    with pytest.raises(FemError, match=r"s3\.endpoint_url: credentials do not belong in a URL") as refusal:
        made_config(s3={"endpoint_url": "http://key:hunter2@127.0.0.1:1"})
    assert "hunter2" not in str(refusal.value)


def test_a_secret_reaches_the_environment_and_nothing_else_does(nothing_said: None) -> None:
    access.use_secret({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, "fem-s3")
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == ("a", "b")
    for wrong in (None, {}, "hunter2", {"LD_PRELOAD": "hunter2"}, {"AWS_ACCESS_KEY_ID": 2}):
        with pytest.raises(FemError, match="block 'fem-s3' does not hold") as refusal:
            access.use_secret(wrong, "fem-s3")
        assert "hunter2" not in str(refusal.value)
    assert os.environ.get("LD_PRELOAD") != "hunter2"


def test_an_unknown_addressing_style_is_refused(nothing_said: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(access.ADDRESSING, "sideways")
    with pytest.raises(FemError, match=r"is 'sideways'\. Set it to path, virtual or auto"):
        Store.open(f"s3://{BUCKET}/x", check=False)


def test_a_real_server_answers_with_the_bucket_in_the_path(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(access.ADDRESSING, "path")
    assert Store.open(f"s3://{BUCKET}/path-style").runs() == []
