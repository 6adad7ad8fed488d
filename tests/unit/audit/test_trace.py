import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from made_run import made_config, make_run

from fem_core.audit.lineage import find
from fem_core.audit.trace import COLUMNS, Counts, iterations, short, trace
from fem_core.digest import derive_seed
from fem_core.errors import Corrupt, FemError
from fem_core.store import layout, tables
from fem_core.store.manifest import artifact_digest, to_json
from fem_core.store.store import Store
from flows.commands.trace import trace as command


@pytest.fixture
def made(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    return store


def traced(store: Store, name: str) -> tuple[list[dict[str, Any]], list[Counts]]:
    counts: list[Counts] = []
    return list(trace(store, iterations(store, find(store, name)), counts)), counts


def test_every_training_row_of_all_iterations_is_told_with_who_drew_it(real_store: Store) -> None:
    manifests = {manifest.artifact: manifest for manifest in make_run(real_store)}
    rows, counts = traced(real_store, "made@2")
    expected = []
    for k, drew in ((1, "runs/made/model"), (2, "runs/made/iteration=001/checkpoint")):
        attempts = real_store.read_table(manifests[f"runs/made/iteration={k:03d}/attempts"]).to_pylist()
        for row in attempts:
            if row["verdict"] == "accepted":
                seed = derive_seed(made_config().seed, k, row["problem_id"], row["attempt"])
                weights = manifests[drew].digest
                expected.append((k, row["problem_id"], row["attempt"], row["prompt_kind"], drew, weights, seed))
    assert [tuple(row.values())[:-1] for row in rows] == sorted(expected)
    assert tuple(rows[0]) == COLUMNS
    questions = real_store.read_table(manifests["runs/made/problems/train"]).to_pylist()
    assert {(row["problem_id"], row["question"]) for row in rows} == {
        (row["problem_id"], row["question"]) for row in questions
    }
    assert [(one.iteration, one.rows, one.problems, one.kinds) for one in counts] == [
        (1, 10, 10, {"plain": 7, "hinted": 3}),
        (2, 10, 10, {"plain": 7, "hinted": 3}),
    ]


def test_a_checkpoint_that_starts_from_the_base_model_stands_on_its_own_iteration_alone(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    make_run(store, made_config(train={"init": "base"}))
    rows, counts = traced(store, "made@2")
    assert {row["iteration"] for row in rows} == {2} and [one.iteration for one in counts] == [2]
    assert {row["drawn_by"] for row in rows} == {"runs/made/iteration=001/checkpoint"}


def test_the_base_model_stands_on_no_rows_and_attempts_are_no_checkpoint(made: Store) -> None:
    assert traced(made, "made@0") == ([], [])
    with pytest.raises(FemError, match="is attempts"):
        traced(made, "made@1/attempts")


def test_an_iteration_is_read_when_its_rows_are_due(made: Store) -> None:
    counts: list[Counts] = []
    rows = trace(made, iterations(made, find(made, "made@2")), counts)
    next(rows)
    assert [(one.iteration, one.rows) for one in counts] == [(1, 1)]


def test_something_missing_or_changed_on_the_way_is_refused(made: Store) -> None:
    attempts = find(made, "made@1/attempts")
    path = f"{attempts.artifact}/{layout.MANIFEST}"
    files = attempts.files[:1]
    other = attempts.model_copy(update={"files": files, "digest": artifact_digest("attempts", files)})
    made.root.replace(path, to_json(other))
    with pytest.raises(Corrupt, match=f"which is {other.digest[:12]} now"):
        traced(made, "made@2")
    made.root.remove(path)
    with pytest.raises(Corrupt, match=r"iteration=001/attempts .* not in the store"):
        traced(made, "made@2")


def test_a_rationale_without_an_attempt_is_refused(made: Store) -> None:
    rationales = find(made, "made@1/rationales")
    table = made.read_table(rationales)
    moved = table.set_column(
        table.schema.get_field_index("attempt"), table.schema.field("attempt"), pa.array([9] * 10, pa.int32())
    )
    record = tables.record_of(layout.part_name(0), moved, rationales.step.key)
    forged = rationales.model_copy(update={"files": [record], "digest": artifact_digest("rationales", [record])})
    made.root.replace(f"{rationales.artifact}/{record.path}", tables.encode(moved, rationales.step.key))
    made.root.replace(f"{rationales.artifact}/{layout.MANIFEST}", to_json(forged))
    checkpoint = find(made, "made@1")
    inputs = [
        ref.model_copy(update={"digest": forged.digest}) if ref.role == "rationales" else ref
        for ref in checkpoint.inputs
    ]
    made.root.replace(
        f"{checkpoint.artifact}/{layout.MANIFEST}", to_json(checkpoint.model_copy(update={"inputs": inputs}))
    )
    with pytest.raises(Corrupt, match="whose attempt 9 is not"):
        traced(made, "made@1")


def test_csv_and_json_hold_the_same_rows_and_a_limit_does_not_change_the_counts(
    made: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, counts = traced(made, "made@2")
    command("made@2", store=made.url, format="csv")
    out, err = capsys.readouterr()
    assert list(csv.DictReader(io.StringIO(out))) == [{k: str(v) for k, v in row.items()} for row in rows]
    assert "iteration 2: 10 rows of 10 problems, 7 plain and 3 hinted" in err
    command("made@2", store=made.url, format="json", limit=3)
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == rows[:3]
    assert found["iterations"] == [vars(one) for one in counts]
    command("made@2", store=made.url, limit=3)
    shown = capsys.readouterr().out
    assert sum("What is" in line for line in shown.splitlines()) == 3
    assert "17 more rows" in shown and "iteration 1: 10 rows" in shown


def test_a_question_is_shown_on_one_short_line_without_control_characters() -> None:
    assert short("two\nlines\x1b[31m \x07bell") == "two lines[31m bell"
    assert short("x" * 81) == "x" * 79 + "…" and short("x" * 80) == "x" * 80


def test_a_question_that_looks_like_a_formula_is_no_formula_in_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import made_run

    store = Store.open(str(tmp_path))
    problems = made_run.problems_of
    monkeypatch.setattr(
        made_run,
        "problems_of",
        lambda numbers: [p.__class__(**{**vars(p), "question": "=cmd|" + p.question}) for p in problems(numbers)],
    )
    make_run(store)
    command("made@1", store=store.url, format="csv")
    assert all(row["question"].startswith("'=cmd|") for row in csv.DictReader(io.StringIO(capsys.readouterr().out)))
