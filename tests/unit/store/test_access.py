"""How an S3 server is reached, from a configuration and from a secret, without a secret in any record."""

import os
from pathlib import Path

import pytest
import s3fs
from made_run import made_config

from deployments.s3 import BUCKET, S3Server
from fem_core.config import S3Config, places_of
from fem_core.errors import FemError
from fem_core.store import access
from fem_core.store.store import Store
from flows import plan

NAMES = ("AWS_ENDPOINT_URL", "AWS_PROFILE", access.PROFILE, access.ADDRESSING, *access.KEYS)


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
    assert access.options("s3")["profile"] == "team", "what is left open stays as it was"


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


@pytest.fixture
def accounts(nothing_said: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person whose shell says ``AWS_PROFILE=work``, with keys of two accounts in a file."""
    file = tmp_path / "credentials"
    lines = [f"[{name}]\naws_access_key_id = of-{name}\naws_secret_access_key = secret\n" for name in ("work", "team")]
    file.write_text("".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "work")


def signs_as() -> tuple[str, str | None]:
    """The key and the session token that requests are signed with."""
    made = s3fs.S3FileSystem(skip_instance_cache=True, **access.options("s3"))
    made.connect()
    found = made.s3._get_credentials()
    return found.access_key, found.token


def test_credentials_count_as_they_do_for_the_aws_tools(accounts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signs_as() == ("of-work", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-shell")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert signs_as() == ("of-shell", "token")
    access.use(S3Config(profile="team"))
    assert signs_as() == ("of-team", None)
    access.use_secret({"AWS_ACCESS_KEY_ID": "of-block", "AWS_SECRET_ACCESS_KEY": "secret"}, "fem-s3")
    assert signs_as() == ("of-block", None)


def test_a_dry_run_reaches_the_server_that_the_configuration_names(
    s3_server: S3Server, nothing_said: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {name: value for name, value in s3_server.environment.items() if name in access.KEYS}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(plan, "plan", lambda config, store, parent: store.runs())
    plan.show_plan(made_config(store=f"s3://{BUCKET}/dry", s3={"endpoint_url": s3_server.endpoint}))
    assert "0 of 0 artifacts are done" in capsys.readouterr().out


def test_an_unknown_addressing_style_is_refused(nothing_said: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(access.ADDRESSING, "sideways")
    with pytest.raises(FemError, match=r"is 'sideways'\. Set it to path, virtual or auto"):
        Store.open(f"s3://{BUCKET}/x", check=False)


def test_a_real_server_answers_with_the_bucket_in_the_path(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(access.ADDRESSING, "path")
    assert Store.open(f"s3://{BUCKET}/path-style").runs() == []
