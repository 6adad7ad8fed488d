import pytest
from pydantic import ValidationError

from fem_core.errors import Corrupt
from fem_core.store.manifest import FileRecord, artifact_digest, read_manifest, safe_url, to_json


def _file(path: str, sha: str = "0" * 64, **fields: int) -> FileRecord:
    return FileRecord(**{"path": path, "bytes": 1, "rows": None, "sha256": sha, **fields})


def test_the_artifact_digest_covers_content_and_nothing_else(make_manifest) -> None:
    a, b = _file("a"), _file("b", "1" * 64)
    same = artifact_digest("attempts", [a, b])
    assert artifact_digest("attempts", [b, a]) == same
    assert artifact_digest("attempts", [_file("a", rows=7, bytes=9), b]) == same
    assert artifact_digest("attempts", [a, _file("b", "2" * 64)]) != same
    assert artifact_digest("attempts", [a, _file("c", "1" * 64)]) != same
    assert artifact_digest("rationales", [a, b]) != same


def test_a_manifest_reads_back_as_it_was_written(make_manifest) -> None:
    manifest = make_manifest("runs/x/a", [_file("a")], stats={"accepted": 0.5}, location="/models/é")
    assert read_manifest(to_json(manifest), "here") == manifest


def test_a_manifest_edited_by_hand_is_refused(make_manifest) -> None:
    text = to_json(make_manifest("runs/x/a", [_file("a", "0" * 64)])).replace(b"0" * 64, b"1" * 64)
    with pytest.raises(Corrupt, match=r"here/_manifest\.json records a digest that is not"):
        read_manifest(text, "here/_manifest.json")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"schema_version": 1}', b"\xff"])
def test_what_is_no_manifest_is_corrupt_and_named(text: bytes) -> None:
    with pytest.raises(Corrupt, match="here cannot be read"):
        read_manifest(text, "here")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b"])
def test_a_recorded_file_cannot_lie_outside_its_artifact(path: str) -> None:
    with pytest.raises(ValidationError, match="leads out of the artifact"):
        _file(path)


def test_a_shown_url_has_no_credentials() -> None:
    assert safe_url("s3://key:secret@bucket/p?x=1#f") == "s3://bucket/p"
    assert safe_url("./fem-store") == "./fem-store"
