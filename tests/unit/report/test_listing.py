"""What `fem ls` says of a store and of a run."""

import re

import pytest
from made_run import made_config, make_run

from fem_core.errors import FemError
from fem_core.report import listing
from fem_core.store import fork, layout
from fem_core.store.store import Store
from flows.commands.ls import ls


def forked(store: Store) -> None:
    record = store.run("made")
    assert record is not None
    parent = fork.begin(store, "made", 1).dump()
    child = store.create_run(record.model_copy(update={"name": "child", "parent": parent}))
    fork.inherit(store, child)


def test_runs_are_listed_with_state_progress_last_score_and_size(real_store: Store) -> None:
    made = make_run(real_store)
    make_run(real_store, made_config("stopped"), iterations=1)
    forked(real_store)
    child, whole, stopped = listing.runs(real_store)

    assert (whole.name, whole.state, whole.scored, whole.iterations) == ("made", "finished", 2, 2)
    assert whole.scores == made[-1].stats and made[-1].kind == "scores"
    recorded = sum(record.bytes for manifest in made for record in manifest.files)
    assert whole.bytes == sum(real_store.root.files("runs/made").values()) > recorded
    assert whole.created.startswith("20")
    assert (stopped.name, stopped.state, stopped.scored) == ("stopped", "unfinished", 1)
    assert (child.name, child.state, child.scored) == ("child", "unfinished, forked from made@1", None)
    manifests = [f"runs/child/{path}" for path in real_store.root.files("runs/child")]
    assert child.bytes == sum(len(real_store.root.read(path)) for path in manifests), "a reference holds no files"


def test_a_run_that_cannot_be_read_hides_no_other(real_store: Store) -> None:
    make_run(real_store, iterations=1)
    real_store.root.replace(layout.run_json("broken"), b"{")
    real_store.root.replace("runs/no run.txt/x", b"")
    real_store.root.replace("runs/no-run/notes.txt", b"a folder that is no run")
    lines = {line.name: line for line in listing.runs(real_store)}
    assert sorted(lines) == ["broken", "made", "no run.txt"]
    assert lines["made"].trouble is None
    assert lines["broken"].state == "unreadable" and "not valid JSON" in str(lines["broken"].trouble)


def test_the_artifacts_of_a_run_are_listed_as_they_were_made(real_store: Store) -> None:
    made = make_run(real_store, iterations=1)
    forked(real_store)
    lines = listing.artifacts(real_store, "made")
    assert [line.manifest.finished for line in lines] == sorted(m.finished for m in made)
    by_name = {line.name: line for line in lines}
    assert {f"runs/made/{name}" for name in by_name} == {manifest.artifact for manifest in made}
    attempts = by_name["iteration=001/attempts"]
    assert attempts.rows == real_store.read_table(attempts.manifest).num_rows and attempts.elsewhere == ""
    assert by_name["model"].rows is None and by_name["model"].bytes == len(b"base")

    references = {line.name: line.elsewhere for line in listing.artifacts(real_store, "child")}
    assert references["iteration=001/checkpoint"] == "runs/made/iteration=001/checkpoint"


def test_a_run_that_is_not_there_is_told_with_those_that_are(real_store: Store) -> None:
    make_run(real_store, iterations=1)
    with pytest.raises(FemError, match=r"There is no run 'mad'.*Runs here: made"):
        listing.artifacts(real_store, "mad")


def test_the_command_prints_tables_without_control_characters(
    real_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ls(store=real_store.url)
    assert capsys.readouterr().out == f"There are no runs in {real_store.url}.\n"
    make_run(real_store)
    model = real_store.manifest(layout.model("made"))
    assert model is not None
    hostile = model.model_copy(update={"location": "/m\x1b[2J[red]x[/red]"}).model_dump_json().encode()
    real_store.root.replace(f"{model.artifact}/{layout.MANIFEST}", hostile)
    real_store.root.replace(layout.run_json("broken"), b"{")

    ls(store=real_store.url)
    out = capsys.readouterr().out
    assert re.search(r"made +finished +2 of 2 +0\.\d{3} +0\.\d{3} to 0\.\d{3} +\d+\.\d kB +20", out)
    assert re.search(r"broken: .*run\.json cannot be read", out)

    ls("made", store=real_store.url)
    out = capsys.readouterr().out
    assert re.search(r"iteration=002/rationales +rationales +[0-9a-f]{12} +\d+ +\d\.\d kB +filter v\d+ +20", out)
    assert "/m[2J[red]x[/red]" in out and "\x1b" not in out
