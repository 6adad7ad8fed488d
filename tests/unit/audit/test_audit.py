"""An audit: whole runs hold, and whatever is done to a run is found and named."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_run
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forge import RUN, edit_json, edit_manifest, edit_rows, flip, forge_on, manifest_of, replace_bytes
from made_run import made_config, make_run, problems_of

from fem_core import preview
from fem_core.audit import audit
from fem_core.audit.ledger import Ledger
from fem_core.config import PromptsConfig, RunConfig
from fem_core.filter.rationales import filter_attempts
from fem_core.problems.problem import Problem, from_table, make_problem, to_table
from fem_core.problems.ratings import scale_record
from fem_core.problems.verifier import math_record
from fem_core.prompts import ChatTokens, messages
from fem_core.store import fork, layout, tables
from fem_core.store.store import Store
from fem_core.train import state
from tasks import evaluate, prepare, step

REPOSITORY = Path(__file__).resolve().parents[3]
FIRST, SECOND = f"{RUN}/iteration=001", f"{RUN}/iteration=002"
PART = "part-00000.parquet"


def facts(findings: Any) -> list[tuple[str, str | None, str]]:
    return [(finding.artifact, finding.file, finding.what) for finding in findings]


def split(path: str) -> tuple[str, str]:
    artifact, _, name = path.rpartition("/")
    return artifact, name


# -- what holds --------------------------------------------------------------------------------------------------------


def test_a_whole_run_holds_on_every_root_and_a_flipped_bit_is_found_there(real_store: Store, examine: Any) -> None:
    make_run(real_store)
    for deep in (False, True):
        result = examine(real_store, deep=deep)
        assert result.broken == () and not result.missing
        assert len(result.checked) == 18 and {row.state for row in result.checked} == {"ok"}
        assert sum(row.rederived for row in result.checked) == (12 if deep else 0)
    attempts = next(row for row in result.checked if row.artifact == f"{FIRST}/attempts")
    assert (attempts.files, attempts.rows, attempts.inputs, attempts.external) == (3, 13, 2, 0)
    flip(real_store, FILES[4])
    assert facts(examine(real_store, deep=True).broken) == [(f"{FIRST}/attempts", "part-00001.parquet", "sha256")]


@pytest.mark.parametrize("folder", sorted((REPOSITORY / "tests/golden").iterdir()), ids=lambda folder: folder.name)
def test_the_golden_stores_of_old_versions_hold(folder: Path, examine: Any) -> None:
    result = examine(Store.open(str(folder), check=False), deep=True)
    assert result.broken == () and len(result.checked) == 18
    assert any("schema version" in finding.what for finding in result.findings)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_scores_of_classes_are_derived_as_their_own_version_gave_them(
    tmp_path: Path, examine: Any, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    def labels(numbers: range) -> list[Problem]:
        return [make_problem(f"Is {n} more than {n - 1}?", str(n % 3), "label", group=str(n // 2)) for n in numbers]

    monkeypatch.setattr(made_run, "problems_of", labels)
    monkeypatch.setattr(evaluate, "version", lambda kind: version)
    store = Store.open(str(tmp_path / "store"))
    made_run.make_run(store)
    scores = store.manifest(f"{FIRST}/scores")
    assert scores is not None and ("judge" in scores.stats) == (version >= 2)
    assert ("interval" in scores.stats) == (version >= 4)
    result = examine(store, deep=True)
    assert result.broken == () and sum(row.rederived for row in result.checked) == 12


def test_predictions_of_another_plain_prompt_than_the_runs_own_are_named(made: Store, examine: Any) -> None:
    def ask(values: dict[str, Any]) -> None:
        values["step"]["config"]["plain_prompt"]["plain"] = "{question} The answer is 7."

    edit_manifest(made, f"{FIRST}/predictions", ask)
    said = [f for f in examine(made).broken if f.what == "plain prompt, in run.json and here"]
    assert [f.artifact for f in said] == [f"{FIRST}/predictions"] and "The answer is 7." in str(said[0].found)


def test_other_code_is_a_note_and_an_external_source_is_listed(made: Store, examine: Any) -> None:
    edit_manifest(made, f"{RUN}/prompts", lambda values: values["code"].update(version="0.0.1"))
    result = examine(made)
    assert result.holds
    notes = [finding.sentence() for finding in result.findings if finding.level == "note"]
    assert any("1 artifacts were made by other code: recorded version 0.0.1" in note for note in notes)
    assert any("external input sums.jsonl" in note and "5" * 64 in note for note in notes)


def test_files_that_no_manifest_lists_are_notes(made: Store, examine: Any) -> None:
    for path in (f"{FIRST}/attempts/part-00009.parquet", f"{FIRST}/checkpoint/deep/_manifest.json", f"{RUN}/x/y"):
        made.root.create(path, b"left behind")
    result = examine(made)
    assert result.holds
    strays = [f"{finding.artifact}/{finding.file}" for finding in result.findings if "a file" in finding.what]
    assert strays == [f"{FIRST}/attempts/part-00009.parquet", f"{FIRST}/checkpoint/deep/_manifest.json", f"{RUN}/x/y"]


def test_an_unfinished_run_holds_and_says_what_is_to_be_made(tmp_path: Path, examine: Any) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, iterations=1)
    result = examine(store)
    assert result.holds and len(result.checked) == 12
    assert result.missing[0] == f"{SECOND}/attempts" and result.missing[-1] == f"{SECOND}/scores"


@pytest.mark.parametrize("moment", ["before its manifest is read", "before its files are read"])
def test_a_run_that_trains_holds_though_it_replaces_a_state_meanwhile(
    tmp_path: Path, examine: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, iterations=1)
    work = step.Work(state.KIND, layout.trainer_state("made", 1, 8), "train", 1, {"seed": 0}, ())
    kept = replace(work, artifact=layout.trainer_state("made", 1, 16))
    for one in (work, kept):
        files = [store.write_bytes(one.artifact, name, b"state") for name in ("a.pt", "b.json")]
        store.commit(one.manifest(files, step.now(), stats={"step": 8, "steps": 96, "tokens": 5}))
    before = examine(store)
    assert before.holds and len(before.checked) == 14
    where, name = (Ledger, "manifest") if moment == "before its manifest is read" else (audit.files, "read_all")
    goes_on = getattr(where, name)

    def meanwhile(*given: Any, **named: Any) -> Any:
        state.remove(store, work.artifact)
        return goes_on(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, meanwhile)
        result = examine(store)
    assert result.holds and len(result.checked) == 13
    store.root.remove(f"{kept.artifact}/a.pt")
    assert facts(examine(store).broken) == [(kept.artifact, "a.pt", "file")], "a manifest has files"


def test_an_artifact_that_is_gone_though_later_ones_are_there_is_named(made: Store, examine: Any) -> None:
    for artifact in (f"{RUN}/prompts", f"{FIRST}/scores"):
        made.root.remove(f"{artifact}/_manifest.json")
    result = examine(made)
    assert [finding.artifact for finding in result.broken] == [f"{RUN}/prompts", f"{FIRST}/scores"]


def test_files_that_gc_removed_are_away_and_other_missing_files_are_broken(made: Store, examine: Any) -> None:
    for k in (1, 2):
        made.root.remove(f"{RUN}/iteration=00{k}/checkpoint/model.safetensors")
    made.root.create(f"{FIRST}/checkpoint/_collected.json", b"{}")
    result = examine(made)
    assert facts(result.broken) == [(f"{SECOND}/checkpoint", "model.safetensors", "file")]
    assert next(row.state for row in result.checked if row.artifact == f"{FIRST}/checkpoint") == "collected"


def test_a_base_model_outside_the_store_is_hashed_where_it_lies_or_not_here(
    made: Store, examine: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(made.root.read(f"{RUN}/model/model.safetensors"))
    made.root.remove(f"{RUN}/model/model.safetensors")
    edit_manifest(made, f"{RUN}/model", lambda values: values.update(location=str(folder)))
    assert examine(made).holds
    (folder / "model.safetensors").write_bytes(b"bass")
    result = examine(made)
    assert facts(result.broken) == [(f"{RUN}/model", "model.safetensors", "sha256")]
    (folder / "model.safetensors").unlink()
    folder.rmdir()
    result = examine(made)
    assert result.holds
    assert next(row.state for row in result.checked if row.kind == "model") == "not here"


def test_auditing_loads_neither_prefect_nor_torch() -> None:
    code = "import sys, fem_core.audit.audit; sys.exit(bool({'prefect', 'torch', 'tasks'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


# -- files -------------------------------------------------------------------------------------------------------------

FILES = [
    f"{RUN}/problems/test/{PART}",
    f"{RUN}/problems/train/{PART}",
    f"{RUN}/model/model.safetensors",
    f"{RUN}/prompts/examples.json",
    f"{FIRST}/attempts/part-00001.parquet",
    f"{FIRST}/verdicts/{PART}",
    f"{FIRST}/rationales/{PART}",
    f"{FIRST}/checkpoint/model.safetensors",
    f"{FIRST}/checkpoint/training_log.parquet",
    f"{FIRST}/predictions/{PART}",
    f"{FIRST}/scores/scores.json",
]


def test_a_flipped_bit_in_a_file_of_any_kind_is_named_with_both_digests_upstream_first(
    made: Store, examine: Any
) -> None:
    for path in FILES:
        flip(made, path)
    broken = examine(made, deep=True).broken
    assert facts(broken) == [(*split(path), "sha256") for path in FILES]
    for finding in broken:
        files = {record.path: record.sha256 for record in manifest_of(made, finding.artifact).files}
        assert finding.recorded == files[str(finding.file)] != finding.found


def test_a_missing_file_of_any_kind_is_named(made: Store, examine: Any) -> None:
    for path in FILES:
        made.root.remove(path)
    assert facts(examine(made, deep=True).broken) == [(*split(path), "file") for path in FILES]


@pytest.mark.parametrize(
    ("path", "consumer", "role"),
    [
        (f"{RUN}/problems/train/{PART}", f"{RUN}/prompts", "train"),
        (f"{RUN}/problems/test/{PART}", f"{RUN}/prompts", "test"),
        (f"{RUN}/model/model.safetensors", f"{RUN}/prompts", "model"),
        (f"{FIRST}/attempts/{PART}", f"{FIRST}/verdicts", "attempts"),
        (f"{FIRST}/rationales/{PART}", f"{FIRST}/checkpoint", "rationales"),
        (f"{FIRST}/checkpoint/model.safetensors", f"{FIRST}/predictions", "checkpoint"),
        (f"{FIRST}/predictions/{PART}", f"{FIRST}/scores", "predictions"),
    ],
)
def test_another_file_with_a_manifest_to_match_is_not_what_its_consumer_read(
    made: Store, examine: Any, path: str, consumer: str, role: str
) -> None:
    artifact, name = split(path)
    before = manifest_of(made, artifact).digest
    if name == PART:
        edit_rows(made, artifact, lambda rows: rows.reverse())
    else:
        replace_bytes(made, artifact, name, b"other weights")
    first = examine(made).broken[0]
    assert (first.artifact, first.file, first.what) == (consumer, "_manifest.json", f"input {role} ({artifact})")
    assert (first.recorded, first.found) == (before, manifest_of(made, artifact).digest)


def test_other_scores_with_a_manifest_to_match_are_not_those_of_the_predictions(made: Store, examine: Any) -> None:
    artifact = f"{SECOND}/scores"
    data = made.root.read(f"{artifact}/scores.json").replace(b'"correct": 2', b'"correct": 4')
    replace_bytes(made, artifact, "scores.json", data)
    assert facts(examine(made).broken) == [(artifact, "scores.json", "scores")]
    edit_manifest(made, artifact, lambda values: values["stats"].update(correct=4))
    assert examine(made).holds
    (found,) = examine(made, deep=True).broken
    assert (found.artifact, found.file, found.what) == (artifact, "scores.json", "correct, derived again")
    assert (found.recorded, found.found) == ("4", "2")


def test_a_file_that_is_no_table_or_has_other_columns_is_named(made: Store, examine: Any) -> None:
    replace_bytes(made, f"{FIRST}/verdicts", PART, b"no table")
    replace_bytes(made, f"{SECOND}/verdicts", PART, made.root.read(f"{SECOND}/rationales/{PART}"), rows=10)
    found = facts(examine(made).broken)
    assert (f"{FIRST}/verdicts", PART, "table") in found
    assert (f"{SECOND}/verdicts", PART, "columns") in found


# -- manifests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda m: m["step"]["config"]["sample"].update(temperature=0.1), "step key"),
        (lambda m: m["step"].update(version=9), "step key"),
        (lambda m: m["inputs"][0].update(digest="0" * 64), "step key"),
        (lambda m: m["inputs"].pop(), "step key"),
        (lambda m: m["inputs"][0].update(artifact=f"{RUN}/problems/test"), f"input problems ({RUN}/problems/test)"),
        (lambda m: m["inputs"][0].update(artifact="runs/../x"), "input problems (runs/../x)"),
        (lambda m: m["files"][0].update(rows=99), "rows"),
        (lambda m: m["files"][0].update(bytes=99), "bytes"),
        (lambda m: m["files"][0].update(sha256="0" * 64), "manifest"),
        (lambda m: m["files"].pop(), "manifest"),
        (lambda m: m.update(digest="0" * 64), "manifest"),
        (lambda m: m.update(kind="predictions"), "manifest"),
        (lambda m: m.update(schema_version=99), "manifest"),
        (lambda m: m.update(schema_version=0), "schema version"),
        (lambda m: m.update(artifact=f"{SECOND}/attempts"), "artifact"),
        (lambda m: m.update(source=f"{SECOND}/attempts"), "sha256"),
        (lambda m: m["stats"].update(draws=99), "stats.draws"),
        (lambda m: m.clear(), "manifest"),
    ],
)
def test_an_edited_manifest_is_named(made: Store, examine: Any, edit: Any, what: str) -> None:
    artifact = f"{FIRST}/attempts"
    edit_manifest(made, artifact, edit)
    broken = examine(made).broken
    assert (artifact, what) in {(finding.artifact, finding.what) for finding in broken}


@pytest.mark.parametrize("artifact", sorted({split(path)[0] for path in FILES}))
def test_a_torn_manifest_of_any_kind_is_named_and_the_others_are_still_checked(
    made: Store, examine: Any, artifact: str
) -> None:
    made.root.replace(f"{artifact}/_manifest.json", b'{"schema_')
    flip(made, f"{SECOND}/scores/scores.json")
    result = examine(made)
    assert (artifact, "_manifest.json", "manifest") in facts(result.broken)
    assert (f"{SECOND}/scores", "scores.json", "sha256") in facts(result.broken)


def test_a_step_configuration_with_a_key_to_match_is_not_that_of_the_run(made: Store, examine: Any) -> None:
    edit_manifest(made, f"{FIRST}/checkpoint", lambda m: m["step"]["config"]["train"].update(epochs=9.0))
    forge_on(made)
    (found,) = examine(made, deep=True).broken
    assert (found.artifact, found.file) == (f"{FIRST}/checkpoint", "_manifest.json")
    assert found.found == "train.epochs: 1.0 -> 9.0"


def test_an_iteration_that_is_not_its_folders_is_named(made: Store, examine: Any) -> None:
    edit_manifest(made, f"{SECOND}/checkpoint", lambda m: m["step"]["config"].update(iteration=7))
    forge_on(made)
    edit_manifest(made, f"{SECOND}/checkpoint", lambda m: m["stats"].update(rationales=7))
    assert [finding.what for finding in examine(made).broken] == ["iteration", "stats.rationales"]


def test_a_table_that_was_written_for_another_step_key_is_named(made: Store, examine: Any) -> None:
    """An old table, put in the place of the one that a step with other settings should have made."""
    artifact = f"{SECOND}/verdicts"
    table = made.read_table(manifest_of(made, artifact))
    replace_bytes(made, artifact, PART, tables.encode(table, "0" * 64), rows=table.num_rows)
    (found,) = examine(made).broken
    assert (found.artifact, found.file, found.what) == (artifact, PART, "step key in the file")
    assert (found.recorded, found.found) == (manifest_of(made, artifact).step.key, "0" * 64)


@pytest.mark.parametrize(
    ("edit", "recorded"),
    [
        (lambda m: m["inputs"].pop(), "an input of kind checkpoint"),
        (lambda m: m["inputs"][1].update(artifact=f"{RUN}/prompts"), "kind checkpoint"),
    ],
    ids=["none", "of another kind"],
)
def test_an_input_that_the_step_must_have_is_missed_though_every_digest_matches(
    made: Store, examine: Any, edit: Any, recorded: str
) -> None:
    edit_manifest(made, f"{SECOND}/checkpoint", edit)
    forge_on(made)
    (found,) = examine(made, deep=True).broken
    assert (found.artifact, found.file) == (f"{SECOND}/checkpoint", "_manifest.json")
    assert found.what.startswith("input start") and found.recorded == recorded


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda r: r["config"].update(seed=1), "digest of the configuration"),
        (lambda r: r["config"].pop("prompts"), "digest of the configuration"),
        (lambda r: r.update(name="other"), "name"),
        (
            lambda r: r.update(parent={"run": "nobody", "iteration": 1, "checkpoint": "0", "config": "0"}),
            "configuration",
        ),
        (lambda r: r.update(parent={"x": 1}), "parent"),
        (lambda r: r.clear(), "record of the run"),
    ],
)
def test_an_edited_run_json_is_named(made: Store, examine: Any, edit: Any, what: str) -> None:
    edit_json(made, f"{RUN}/run.json", edit)
    first = examine(made).broken[0]
    assert (first.artifact, first.file) == (RUN, "run.json") and first.what.startswith(what)


def test_a_missing_run_json_is_named(made: Store, examine: Any) -> None:
    made.root.remove(f"{RUN}/run.json")
    assert facts(examine(made).broken) == [(RUN, "run.json", "record of the run")]


# -- what is trained on ------------------------------------------------------------------------------------------------


def test_a_hinted_training_prompt_is_found_though_every_digest_matches(made: Store, examine: Any) -> None:
    problems = {problem.problem_id: problem for problem in problems_of(range(10))}
    chosen: list[str] = []

    def add_hint(rows: list[dict[str, Any]]) -> None:
        chosen.append(rows[2]["problem_id"])
        rows[2]["prompt"] = messages(PromptsConfig(), problems[chosen[0]], "hinted", 0)

    edit_rows(made, f"{FIRST}/rationales", add_hint)
    forge_on(made)
    (found,) = examine(made).broken
    assert (found.artifact, found.file) == (f"{FIRST}/rationales", PART)
    assert found.what.endswith(f"of problem {chosen[0]}") and found.what.startswith("training prompt of attempt")
    assert "the hinted prompt" in found.found and "The correct answer is" in found.found
    assert "Think step by step" in found.recorded


def test_an_answer_slipped_into_a_training_prompt_is_found(made: Store, examine: Any) -> None:
    def slip(rows: list[dict[str, Any]]) -> None:
        rows[0]["prompt"][0]["content"] += " (7)"

    edit_rows(made, f"{SECOND}/rationales", slip)
    forge_on(made)
    (found,) = examine(made).broken
    assert found.artifact == f"{SECOND}/rationales" and "another prompt" in found.found and "(7)" in found.found


@pytest.mark.parametrize("same_id", [True, False], ids=["by id", "by what it asks"])
def test_a_test_problem_smuggled_into_the_training_set_is_found(made: Store, examine: Any, same_id: bool) -> None:
    seen = problems_of(range(100, 101))[0]
    smuggled = seen if same_id else make_problem(seen.question.upper() + " ", seen.answer, "number")
    assert (smuggled.problem_id == seen.problem_id) == same_id
    edit_rows(made, f"{RUN}/problems/train", lambda rows: rows.append(to_table([smuggled]).to_pylist()[0]))

    def train_on_it(rows: list[dict[str, Any]]) -> None:
        row = {**rows[-1], "problem_id": smuggled.problem_id, "attempt": 0}
        rows.append(row | ({"prompt": messages(PromptsConfig(), smuggled, "plain", 0)} if "prompt" in row else {}))

    for kind in ("attempts", "verdicts", "rationales"):
        edit_rows(made, f"{FIRST}/{kind}", train_on_it)
    forge_on(made)
    broken = examine(made).broken
    what = f"problem {smuggled.problem_id} is among the training data"
    assert facts(broken) == [(f"{RUN}/problems/train", None, what), (f"{FIRST}/rationales", PART, what)]
    assert {finding.found for finding in broken} == {f"asks what test problem {seen.problem_id} asks"}


def test_rationales_without_an_accepted_verdict_and_the_other_way_round_are_named(made: Store, examine: Any) -> None:
    edit_rows(made, f"{FIRST}/rationales", lambda rows: rows.pop())
    edit_rows(made, f"{SECOND}/rationales", lambda rows: rows.append(rows[0]))
    forge_on(made)
    found = examine(made).broken
    assert [finding.artifact for finding in found] == [f"{FIRST}/rationales", f"{SECOND}/rationales"]
    assert found[0].what.startswith("accepted attempt") and found[1].what.startswith("rationale of attempt")


def test_a_problem_whose_answer_was_changed_has_another_id(made: Store, examine: Any) -> None:
    edit_rows(made, f"{RUN}/problems/train", lambda rows: rows[0].update(answer="1000"))
    forge_on(made)
    found = examine(made).broken
    assert (found[0].artifact, found[0].what) == (f"{RUN}/problems/train", "problem id of its own content")


def test_a_problem_that_stands_twice_is_named(made: Store, examine: Any) -> None:
    edit_rows(made, f"{RUN}/problems/train", lambda rows: rows.append(rows[0]))
    forge_on(made)
    (found,) = examine(made).broken
    assert (found.what, found.recorded, found.found) == ("problems", "11 rows", "10 different ids")


def test_a_completion_that_is_no_assistants_turn_is_named(made: Store, examine: Any) -> None:
    edit_rows(made, f"{FIRST}/rationales", lambda rows: rows[0]["completion"][0].update(role="user"))
    forge_on(made)
    (found,) = examine(made).broken
    assert found.what.startswith("completion of attempt") and found.recorded == "one assistant message"


# -- derived again -----------------------------------------------------------------------------------------------------


def test_a_wrong_verdict_turned_into_accepted_is_found_when_judged_again(made: Store, examine: Any) -> None:
    """The whole way: attempts, verdicts and rationales are consistent, and only the text speaks against them."""
    chosen: list[str] = []

    def accept(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows if row["verdict"] == "wrong_answer")
        row["verdict"] = "accepted"
        chosen.append(f"verdict of attempt {row['attempt']} of problem {row['problem_id']}, judged again")

    edit_rows(made, f"{FIRST}/attempts", accept)
    refilter(made)
    forge_on(made)
    assert examine(made).holds
    (found,) = examine(made, deep=True).broken
    assert (found.artifact, found.file, found.what) == (f"{FIRST}/attempts", PART, chosen[0])
    assert (found.recorded, found.found) == ("accepted ('0')", "wrong_answer ('0')")


def refilter(store: Store) -> None:
    """Verdicts and rationales of iteration 1 as they follow from its attempts."""
    attempts = list(store.iter_tables(manifest_of(store, f"{FIRST}/attempts")))
    problems = from_table(store.read_table(manifest_of(store, f"{RUN}/problems/train")))
    result = filter_attempts(problems, attempts, made_config().filter, made_config().prompts)
    for kind, table in (("verdicts", result.verdicts), ("rationales", result.rationales)):
        edit_rows(store, f"{FIRST}/{kind}", lambda rows, table=table: rows.__setitem__(slice(None), table.to_pylist()))
        edit_manifest(store, f"{FIRST}/{kind}", lambda m: m["stats"].update(result.stats))


def test_a_changed_verdict_of_the_filter_is_found_when_filtered_again(made: Store, examine: Any) -> None:
    def reject(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["verdict"] == "wrong_answer").update(verdict="too_short")

    edit_rows(made, f"{FIRST}/verdicts", reject)
    assert examine(made).holds
    (found,) = examine(made, deep=True).broken
    assert (found.artifact, found.file) == (f"{FIRST}/verdicts", PART) and found.what.endswith(", verdict")
    assert (found.recorded, found.found) == ('"too_short"', '"wrong_answer"')


def test_a_training_text_that_nobody_drew_is_found_when_filtered_again(made: Store, examine: Any) -> None:
    edit_rows(made, f"{FIRST}/rationales", lambda rows: rows[0]["completion"][0].update(content="Because.\nAnswer: 3"))
    forge_on(made)
    assert examine(made).holds
    (found,) = examine(made, deep=True).broken
    assert found.artifact == f"{FIRST}/rationales" and found.what.endswith(", completion")


def test_a_seed_that_is_not_the_draws_own_is_found(made: Store, examine: Any) -> None:
    edit_rows(made, f"{FIRST}/attempts", lambda rows: rows[0].update(seed=1))
    forge_on(made)
    (found,) = examine(made, deep=True).broken
    assert found.what.startswith("seed of attempt 0") and found.recorded == "1"


def test_sampled_predictions_have_their_own_seeds_and_their_calibration_is_derived_again(
    tmp_path: Path, examine: Any
) -> None:
    store = Store.open(str(tmp_path / "drawn"))
    make_run(store, made_config(evaluate={"draws": 3}))
    assert not examine(store, deep=True).broken
    artifact = f"{FIRST}/scores"
    data = store.root.read(f"{artifact}/scores.json").replace(b'"majority_accuracy": 0.5', b'"majority_accuracy": 1.0')
    replace_bytes(store, artifact, "scores.json", data)
    found = [one.what for one in examine(store, deep=True).broken if one.artifact == artifact]
    assert found == ["scores", "calibration, derived again"]
    edit_rows(store, f"{SECOND}/predictions", lambda rows: rows[1].update(seed=5))
    seed = [one for one in examine(store, deep=True).broken if one.what.startswith("seed of attempt 1")]
    assert [(one.artifact, one.recorded) for one in seed] == [(f"{SECOND}/predictions", "5")]


def test_probes_are_judged_again_and_the_bound_is_derived_from_them_again(tmp_path: Path, examine: Any) -> None:
    store = Store.open(str(tmp_path / "bounded"))
    make_run(store, made_config(evaluate={"bound": {"problems": 6, "draws": 2}}))
    whole = examine(store, deep=True)
    assert not whole.broken and not whole.missing
    assert sum(row.rederived for row in whole.checked) == 12 + 6
    artifact = f"{SECOND}/bound"
    data = store.root.read(f"{artifact}/bound.json").replace(b'"without": ', b'"without": 1')
    replace_bytes(store, artifact, "bound.json", data)
    found = [one.what for one in examine(store, deep=True).broken if one.artifact == artifact]
    assert found == ["scores", "without, derived again"]
    edit_rows(store, f"{FIRST}/probes", lambda rows: rows[0].update(text="No line.", seed=4))
    broken = {one.what for one in examine(store, deep=True).broken if one.artifact == f"{FIRST}/probes"}
    assert len([what for what in broken if what.startswith(("seed of attempt 0", "verdict of attempt 0"))]) == 2
    edit_rows(store, f"{RUN}/iteration=000/probes", lambda rows: rows.__delitem__(slice(0, 2)))
    what = {one.what for one in examine(store, deep=True).broken if one.artifact == f"{RUN}/iteration=000/bound"}
    assert {"probe set, chosen again", "problems, derived again"} <= what
    for path in (f"{FIRST}/bound/_manifest.json", f"{FIRST}/bound/bound.json"):
        store.root.remove(path)
    assert f"{FIRST}/bound" in {one.artifact for one in examine(store).broken}


def test_figures_are_derived_again_up_to_the_last_bits_in_which_processors_differ(tmp_path: Path, examine: Any) -> None:
    store = Store.open(str(tmp_path / "bounded"))
    config = {"evaluate": {"bound": {"problems": 6, "draws": 2}}, "filter": {"weighting": "importance"}}
    make_run(store, made_config(scheme={"name": "pps", "budget": 4, "keep": "all"}, **config))

    def moved(value: Any, by: float) -> Any:
        if isinstance(value, dict):
            return {name: moved(one, by) for name, one in value.items()}
        return value * (1 + by) if isinstance(value, float) else value

    def broken(by: float) -> set[str]:
        for artifact in (f"{SECOND}/bound", f"{SECOND}/rationales"):
            figures = moved(manifest_of(store, artifact).stats, by)
            edit_manifest(store, artifact, lambda m, figures=figures: m.update(stats=figures))  # type: ignore[misc]
            if artifact.endswith("bound"):
                replace_bytes(store, artifact, "bound.json", json.dumps(figures).encode())
        found = examine(store, deep=True).broken
        return {one.what for one in found if one.artifact in (f"{SECOND}/bound", f"{SECOND}/rationales")}

    assert broken(2**-52) == set()
    assert broken(1e-6) >= {
        "bound, derived again",
        "change, derived again",
        "ess, derived again",
        "stats.effective_sample_size, counted again",
    }


def test_figures_that_the_tables_do_not_give_are_counted_again(made: Store, examine: Any) -> None:
    edit_manifest(made, f"{FIRST}/attempts", lambda m: m["stats"].update(problems_accepted=1))
    edit_manifest(made, f"{FIRST}/rationales", lambda m: m["stats"].update(utilization=0.5))
    assert examine(made).holds
    found = [(finding.what, finding.recorded, finding.found) for finding in examine(made, deep=True).broken]
    assert found == [
        ("stats.problems_accepted, counted again", "1", "10"),
        ("stats.utilization, counted again", "0.5", "1.0"),
    ]


def test_figures_of_the_problems_are_counted_again(made: Store, examine: Any) -> None:
    edit_manifest(made, f"{RUN}/problems/test", lambda m: m["stats"].update(groups=4, answers={"201": 4}))
    found = [(finding.what, finding.recorded, finding.found) for finding in examine(made).broken]
    assert found == [("stats.answers, counted again", "{'201': 4}", "None")]


def ratings_of(numbers: range) -> list[Problem]:
    return [make_problem(f"Rate {n}.", str(1 + n % 5), "rating", verifier=scale_record(0, 5)) for n in numbers]


def formulas_of(numbers: range) -> list[Problem]:
    return [make_problem(f"${n} + 1$?", str(n + 1), "math", verifier=math_record(str(n + 1), 20.0)) for n in numbers]


@pytest.mark.parametrize("make", [ratings_of, formulas_of])
def test_verdicts_on_ratings_and_formulas_are_judged_again(
    tmp_path: Path, examine: Any, make: Callable[[range], list[Problem]]
) -> None:
    store = Store.open(str(tmp_path / "store"))
    source = "helpsteer2" if make is ratings_of else "math500"
    make_run(store, made_config(problems={"source": source, "path": "rows.jsonl", "test": 4}), make=make)
    result = examine(store, deep=True)
    assert result.broken == () and sum(row.rederived for row in result.checked) == 12

    def accept(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["verdict"] == "wrong_answer").update(verdict="accepted")

    edit_rows(store, f"{FIRST}/attempts", accept)
    forge_on(store)
    found = next(
        finding for finding in examine(store, deep=True).broken if finding.what.startswith("verdict of attempt")
    )
    assert (found.recorded, found.found) == ("accepted ('0')", "wrong_answer ('0')")


def test_an_attempt_that_the_verifier_did_not_decide_is_a_note(made: Store, examine: Any) -> None:
    def undecided(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["verdict"] == "wrong_answer").update(verdict="verifier_timeout")

    edit_rows(made, f"{FIRST}/attempts", undecided)
    refilter(made)
    forge_on(made)
    result = examine(made, deep=True)
    assert result.holds
    assert any(
        finding.what.startswith("1 attempts on which the verifier did not decide") for finding in result.findings
    )


def test_the_same_table_in_other_bytes_holds_only_where_another_pyarrow_wrote_it(made: Store, examine: Any) -> None:
    artifact = f"{FIRST}/verdicts"
    table = pq.read_table(pa.BufferReader(made.root.read(f"{artifact}/{PART}")))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="gzip")
    replace_bytes(made, artifact, PART, bytes(sink.getvalue()), rows=13)
    assert examine(made).holds
    (found,) = examine(made, deep=True).broken
    assert (found.artifact, found.what) == (artifact, "sha256, derived again (the same table)")
    edit_manifest(made, artifact, lambda m: m["packages"].update(pyarrow="25.0.0"))
    result = examine(made, deep=True)
    assert result.holds and any("pyarrow 25.0.0 then" in finding.what for finding in result.findings)
    assert tables.check(made.root.read(f"{artifact}/{PART}"))[0] == 13


@pytest.fixture
def shown(made: Store, tmp_path: Path) -> Store:
    """The run ``made`` with its prompts."""
    give_prompts(made, made_config(), tmp_path)
    return made


def give_prompts(made: Store, config: RunConfig, tmp_path: Path) -> None:
    """Put a tokenizer beside the base model, and the prompts and lengths that it gives."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "base"
    folder.mkdir()
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))
    template = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} {% endfor %}"
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(known))
    for file in folder.iterdir():
        replace_bytes(made, f"{RUN}/model", file.name, file.read_bytes())
    tokens, problems = ChatTokens(folder), problems_of(range(10))
    examples = json.dumps(preview.examples_json(preview.examples(config, problems, tokens))).encode()
    replace_bytes(made, f"{RUN}/prompts", "examples.json", examples)
    lengths = preview.check_lengths(config, problems, problems_of(range(100, 104)), tokens, 1 << 20)
    edit_manifest(made, f"{RUN}/prompts", lambda m: m["stats"].update(vars(lengths)))
    forge_on(made)


def test_verdicts_of_every_filter_are_derived_again(tmp_path: Path, examine: Any) -> None:
    filters = {"max_rationale_words": 60, "leak": "mark", "near_duplicate": 0.95, "label_balance": 1.5}
    store = Store.open(str(tmp_path / "root"))
    make_run(store, made_config(filter=filters))
    stats = manifest_of(store, f"{FIRST}/rationales").stats
    assert stats["verdicts"]["near_duplicate"] and "marked_leaks" in stats
    assert examine(store, deep=True).broken == ()
    edit_rows(store, f"{FIRST}/verdicts", lambda rows: rows[0].update(verdict="leaked"))
    forge_on(store)
    assert any("derived again" in finding.what for finding in examine(store, deep=True).broken)


def test_hints_among_candidates_are_rendered_again_with_the_runs_seed(tmp_path: Path, examine: Any) -> None:
    store, config = Store.open(str(tmp_path / "root")), made_config(prompts={"hint": "candidates"}, seed=5)
    make_run(store, config)
    give_prompts(store, config, tmp_path)
    (example, *_) = json.loads(store.root.read(f"{RUN}/prompts/examples.json"))
    assert " or 1" in example["hinted"] or "1 or " in example["hinted"]
    result = examine(store, deep=True)
    assert result.broken == () and next(row for row in result.checked if row.kind == "prompts").rederived
    edit_manifest(store, f"{RUN}/prompts", lambda m: m["step"]["config"].update(seed=6))
    assert any("hinted of example" in finding.what for finding in examine(store, deep=True).broken)


def test_replaced_examples_with_a_manifest_to_match_are_not_what_the_prompts_render_to(
    shown: Store, examine: Any
) -> None:
    result = examine(shown, deep=True)
    assert result.broken == () and next(row for row in result.checked if row.kind == "prompts").rederived
    path = f"{RUN}/prompts/examples.json"
    examples = json.loads(shown.root.read(path))
    examples[1]["plain"] = examples[1]["plain"].replace("What is 1", "What is 7")
    replace_bytes(shown, f"{RUN}/prompts", "examples.json", json.dumps(examples).encode())
    edit_manifest(shown, f"{RUN}/prompts", lambda m: m["stats"].update(longest_prompt=3))
    assert examine(shown).holds
    broken = examine(shown, deep=True).broken
    assert facts(broken) == [
        (f"{RUN}/prompts", "examples.json", "plain of example 1, rendered again"),
        (f"{RUN}/prompts", None, "stats.longest_prompt, counted again"),
    ]
    assert "What is 7 + 2?" in broken[0].recorded and "What is 1 + 2?" in broken[0].found


def test_examples_that_are_left_out_or_are_none_are_found(shown: Store, examine: Any) -> None:
    examples = json.loads(shown.root.read(f"{RUN}/prompts/examples.json"))
    for forged, found in (
        (examples[:2], {"problem_id of example 2, rendered again"}),
        ({"no": "list"}, {"examples"}),
        ([1], {"examples"}),
    ):
        replace_bytes(shown, f"{RUN}/prompts", "examples.json", json.dumps(forged).encode())
        assert found <= {finding.what for finding in examine(shown, deep=True).broken}


def test_the_tokenizer_is_taken_from_a_checkpoint_where_the_base_model_is_away(
    shown: Store, examine: Any, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        replace_bytes(shown, f"{FIRST}/checkpoint", name, shown.root.read(f"{RUN}/model/{name}"))
        shown.root.remove(f"{RUN}/model/{name}")
    edit_manifest(shown, f"{RUN}/model", lambda m: m.update(location=str(tmp_path / "away")))
    forge_on(shown)
    result = examine(shown, deep=True)
    assert result.broken == () and next(row for row in result.checked if row.kind == "prompts").rederived
    flip(shown, f"{FIRST}/checkpoint/tokenizer.json")
    assert not next(row for row in examine(shown, deep=True).checked if row.kind == "prompts").rederived


def test_prompts_whose_tokenizer_is_nowhere_are_a_note(made: Store, examine: Any) -> None:
    result = examine(made, deep=True)
    (row,) = (row for row in result.checked if row.kind == "prompts")
    assert result.holds and row.state == "ok" and not row.rederived
    (note,) = row.findings
    assert note.sentence() == (
        f"{RUN}/prompts: not derived again: no tokenizer of the base model is here: found the base model's manifest lists none"
    )


def test_a_damaged_page_that_the_record_vouches_for_is_found_when_every_page_is_read(made: Store, examine: Any) -> None:
    artifact, name = f"{SECOND}/checkpoint", "training_log.parquet"
    data = bytearray(made.root.read(f"{artifact}/{name}"))
    data[30] ^= 1
    replace_bytes(made, artifact, name, bytes(data), rows=1)
    assert (artifact, name, "table") not in facts(examine(made).broken)
    assert (artifact, name, "table") in facts(examine(made, deep=True).broken)


def test_a_step_of_another_version_is_not_derived_again_and_says_so(made: Store, examine: Any) -> None:
    for kind in ("verdicts", "rationales", "scores"):
        edit_manifest(made, f"{SECOND}/{kind}", lambda m: m["step"].update(version=0))
    forge_on(made)
    result = examine(made, deep=True)
    assert result.holds
    assert [row.kind for row in result.checked if row.state == "unchecked"] == ["verdicts", "rationales", "scores"]


# -- forks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def forked(made: Store) -> Store:
    """The run ``child``, forked from iteration 1 of ``made``, with nothing of its own yet."""
    record = prepare.run_record("child", made_config("child")).model_copy(
        update={"parent": fork.begin(made, "made", 1).dump()}
    )
    fork.inherit(made, made.create_run(record))
    return made


def test_a_fork_is_audited_through_its_parents_files(forked: Store, examine: Any) -> None:
    result = examine(forked, "child", deep=True)
    assert result.holds and result.missing
    child = [row.artifact for row in result.checked if row.artifact.startswith("runs/child/")]
    assert child == [f"runs/child/iteration=001/{kind}" for kind in fork.HISTORY]
    assert f"{RUN}/problems/train" in {row.artifact for row in result.checked}
    flip(forked, f"{FIRST}/attempts/{PART}")
    broken = {finding.artifact for finding in examine(forked, "child").broken}
    assert broken == {f"{FIRST}/attempts", "runs/child/iteration=001/attempts"}


def test_a_reference_that_differs_from_what_it_refers_to_is_named(forked: Store, examine: Any) -> None:
    artifact = "runs/child/iteration=001/checkpoint"
    edit_manifest(forked, artifact, lambda m: m["step"]["config"].update(learning_rate=9.0))
    broken = examine(forked, "child").broken
    assert broken and all(finding.artifact == artifact for finding in broken)
    assert any("step.config.learning_rate: 1e-05 -> 9.0" in finding.found for finding in broken)


def test_a_fork_that_is_tested_on_what_its_parent_trained_on_is_found(forked: Store, examine: Any) -> None:
    config = made_config("child")
    todo = prepare.problems_work("child", config, "test", ())
    file = forked.write_table(todo.artifact, PART, to_table(problems_of(range(1, 3))), todo.key)
    forked.commit(todo.manifest([file], "2026-01-01T00:00:00+00:00", stats={"problems": 2}))
    assert manifest_of(forked, layout.problems("child", "test")).digest
    broken = examine(forked, "child").broken
    assert {finding.what for finding in broken} == {
        f"problem {problem.problem_id} is among the training data" for problem in problems_of(range(1, 3))
    }
    assert "runs/child/iteration=001/rationales" in {finding.artifact for finding in broken}


def test_a_parent_with_another_configuration_than_it_was_forked_from_is_named(forked: Store, examine: Any) -> None:
    edit_json(forked, f"{RUN}/run.json", lambda r: r.update(digest="0" * 64))
    first = examine(forked, "child").broken[0]
    assert (first.artifact, first.file, first.what) == ("runs/child", "run.json", "configuration of the parent made")


def test_a_fork_that_stands_on_another_checkpoint_than_it_was_forked_from_is_named(forked: Store, examine: Any) -> None:
    edit_json(forked, "runs/child/run.json", lambda r: r["parent"].update(checkpoint="0" * 64))
    (found,) = examine(forked, "child").broken
    assert (found.file, found.what, found.recorded) == ("run.json", "checkpoint made@1", "0" * 64)
