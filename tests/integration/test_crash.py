"""The crash matrix at its smallest: one run on S3, killed three times. benchmarks/crash_matrix.py has the whole of it."""

from pathlib import Path

import pytest

from benchmarks import crash_matrix

pytestmark = [pytest.mark.slow, pytest.mark.s3]


def test_a_run_that_is_killed_again_and_again_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "to be set by the harness")  # and put back afterwards
        monkeypatch.delenv(name)
    kinds = ["after-part", "checkpoint-upload", "flow"]
    crash_matrix.main(["--kills", "3", "--store", "s3", "--kinds", *kinds, "--keep", str(tmp_path / "crash")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| s3")]
    assert sum(int(row.split("|")[3]) for row in rows) == 3
    assert all(row.endswith("| 0 | green | equal |") for row in rows)
