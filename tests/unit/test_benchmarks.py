"""Each benchmark of the store runs at a tiny size and prints its rows."""

import shutil
from pathlib import Path
from uuid import uuid4

import pytest
from made_run import make_run

from benchmarks import audit_speed, commit_latency, quoted, run_state, store_scale
from deployments.s3 import BUCKET, S3Server
from fem_core.store.store import Store


@pytest.fixture
def url(s3_server: S3Server) -> str:
    return f"s3://{BUCKET}/{uuid4().hex}"


def _rows(said: str) -> list[list[str]]:
    lines = [line for line in said.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_store_scale_compares_writing_and_reading(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_scale.main(["--rows", "2000", "--parts", "11", "--repeats", "1", "--folder", str(tmp_path)])
    said = capsys.readouterr().out
    speed, memory = said.split("\n\n")[0], said[said.index("| while it") :]
    rows = _rows(speed)
    assert [row[:2] for row in rows] == [
        ["write", "Store.write_table, commit"],
        ["write", "plain"],
        ["write", "plain, fsync"],
        ["read", "Store.iter_tables"],
        ["read", "plain"],
    ]
    assert all(float(row[2].replace(",", "")) > 0 for row in rows)
    held = _rows(memory)
    assert (
        [row[1] for row in held if row[0] == "writes"][-1]
        == [row[1] for row in held if row[0] == "reads"][-1]
        == "1,991"
    )
    for row in held:
        resident, peak, arrow = (int(cell.replace(",", "")) for cell in row[2:])
        assert 0 < resident <= peak and arrow < resident
    assert list(tmp_path.iterdir()) == []


def test_attempts_are_the_same_for_a_seed_and_about_400_characters_long() -> None:
    table = store_scale.Attempts(3).table(1000)
    assert table.equals(store_scale.Attempts(3).table(1000)) and not table.equals(store_scale.Attempts(4).table(1000))
    lengths = [len(text) for text in table.column("text").to_pylist()]
    assert 300 < sum(lengths) / len(lengths) < 500
    assert len(set(table.column("text").to_pylist())) == 1000


def test_run_state_finds_every_manifest_locally_and_on_s3(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_state.main(["--iterations", "3", "--parts", "12", "--repeats", "1", "--s3", url])
    rows = {(row[0], row[1]): row[2] for row in _rows(capsys.readouterr().out)}
    for where in ("local", "S3"):
        assert rows[where, "plain recursive listing"] == str(1 + 2 * 2 + 3 * (4 + 5 + 6))
        assert rows[where, "Store.artifacts"] == str(2 + 3 * 6)
        assert rows[where, "summarise"] == "4"
        assert rows[where, "Store.runs"] == "1"


def test_commit_latency_counts_one_conditional_put(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    commit_latency.main(["--commits", "2", "--files", "2", "--s3", url])
    bare, commit = _rows(capsys.readouterr().out)
    assert bare[:2] == ["2", "bare conditional PUT"] and commit[:2] == ["2", "Store.commit"]
    assert "1 put_object" in commit[5]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_audit_speed_hashes_the_same_files_in_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit_speed.main(["--megabytes", "1", "--rows", "200", "--repeats", "1", "--folder", str(tmp_path)])
    rows = _rows(capsys.readouterr().out)
    for run in ("weights", "tables"):
        assert {"audit", "Store.verify", "sha256sum"} <= {row[1] for row in rows if row[0] == run}


def test_quoted_tells_statements_of_the_question_from_made_up_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "Ann loves cats. Bo hates tea. \nWho hates tea? Reply only with a name."
    assert quoted.quotes("The statement about tea is: bo hates tea. So it is Bo.\nAnswer: Bo", question)
    assert not quoted.quotes("The statement about tea is: Ann hates tea. So it is Ann.\nAnswer: Ann", question)
    assert not quoted.quotes("Answer: The rest is: Bo hates tea.", question)
    store = Store.open(str(tmp_path))
    make_run(store)
    quoted.main([str(tmp_path), "ma", "other"])
    rows = _rows(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["ma", "other"] and rows[1][1:] == ["0"] * 4
    assert (rows[0][1], rows[0][3]) == ("0", "0") and int(rows[0][2]) + int(rows[0][4]) == 4
