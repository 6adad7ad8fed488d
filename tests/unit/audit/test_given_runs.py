"""Runs of the control arms are read, audited, traced, forked and shown as any other."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from forge import RUN, edit_manifest, edit_rows, forge_on, manifest_of, replace_bytes
from made_run import made_config, make_run

from fem_core.audit import lineage
from fem_core.audit.trace import Counts, iterations, trace
from fem_core.errors import FemError
from fem_core.report.listing import runs
from fem_core.report.model_card import model_card
from fem_core.report.summary import cells, summarise
from fem_core.store import fork, tables
from fem_core.store.store import Store
from flows.commands.fork import fork as fork_command
from flows.commands.show import show
from flows.commands.trace import trace as trace_command
from tasks import prepare

ATTEMPTS = f"{RUN}/iteration=001/attempts"


@pytest.fixture(params=["answer_only", "human"])
def arm(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, made_config(scheme={"name": request.param}))
    return store


@pytest.fixture
def answers(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, made_config(scheme={"name": "answer_only"}))
    return store


def test_the_run_holds_and_is_derived_again(arm: Store, examine: Any) -> None:
    result = examine(arm, deep=True)
    assert result.broken == () and not result.missing and {row.state for row in result.checked} == {"ok"}
    # the same completions in both iterations: attempts, verdicts and rationales are derived once
    assert sum(row.rederived for row in result.checked) == 9
    assert [ref.role for ref in manifest_of(arm, ATTEMPTS).inputs] == ["problems"]


def test_given_attempts_are_the_same_in_every_iteration(arm: Store) -> None:
    first, second = (manifest_of(arm, f"{RUN}/iteration=00{k}/attempts") for k in (1, 2))
    assert (first.digest, first.step.key) == (second.digest, second.step.key)


def test_another_completion_is_found_though_every_digest_matches(answers: Store, examine: Any) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[1]["text"] = "A rationale from elsewhere.\n" + rows[1]["text"]

    edit_rows(answers, ATTEMPTS, edit)
    forge_on(answers)
    # the helper counts rows as draws
    edit_manifest(answers, ATTEMPTS, lambda values: values["stats"].update(draws=0))
    edit_manifest(answers, f"{RUN}/iteration=002/attempts", lambda values: values["stats"].update(draws=0))
    found = [finding for finding in examine(answers, deep=True).broken if finding.artifact == ATTEMPTS]
    assert [finding.what.partition(", row")[0] for finding in found] == ["completions, given again"]
    assert "A rationale from elsewhere" in found[0].recorded
    assert examine(answers).holds, "only doing it again can tell"


def test_an_omitted_problem_is_found(answers: Store, examine: Any) -> None:
    edit_rows(answers, ATTEMPTS, lambda rows: rows.pop(), name="part-00002.parquet")
    forge_on(answers)
    edit_manifest(answers, ATTEMPTS, lambda values: values["stats"].update(draws=0, given=9))
    edit_manifest(answers, f"{RUN}/iteration=002/attempts", lambda values: values["stats"].update(draws=0))
    found = [finding for finding in examine(answers, deep=True).broken if finding.artifact == ATTEMPTS]
    assert ("completions, given again, rows", "9", "10") in [(f.what, f.recorded, f.found) for f in found]


def test_a_count_of_given_completions_that_is_not_that_of_the_rows_is_found(answers: Store, examine: Any) -> None:
    edit_manifest(answers, ATTEMPTS, lambda values: values["stats"].update(given=11))
    assert [(f.what, f.recorded, f.found) for f in examine(answers).broken] == [("stats.given", "11", "10 rows")]


def test_a_table_that_an_older_version_described_otherwise_holds_with_a_note(made: Store, examine: Any) -> None:
    verdicts = f"{RUN}/iteration=001/verdicts"
    table = tables.decode(made.root.read(f"{verdicts}/part-00000.parquet"))
    fields = [field.with_metadata({"description": f"formerly: {field.name}"}) for field in table.schema]
    before = table.cast(pa.schema(fields))
    data = tables.encode(before, manifest_of(made, verdicts).step.key)
    replace_bytes(made, verdicts, "part-00000.parquet", data, table.num_rows)
    result = examine(made, deep=True)
    assert result.holds
    notes = [finding.what for finding in result.findings if finding.artifact == verdicts]
    assert notes == ["derived again, the same table with other words in its columns' descriptions"]


def test_a_trace_says_that_nothing_drew(arm: Store, capsys: pytest.CaptureFixture[str]) -> None:
    counts: list[Counts] = []
    rows = list(trace(arm, iterations(arm, lineage.find(arm, "made@2")), counts))
    assert {(row["prompt_kind"], row["drawn_by"], row["drawn_by_digest"]) for row in rows} == {("given", "", "")}
    assert [one.kinds for one in counts] == [{"given": len(rows) // 2}] * 2
    trace_command("made@2", store=arm.url)
    said = capsys.readouterr().out
    assert f"iteration 2: {len(rows) // 2} rows of {len(rows) // 2} problems, given, not drawn" in said


def test_lineage_leads_from_the_checkpoint_to_the_problems(arm: Store) -> None:
    graph = lineage.up(arm, lineage.find(arm, f"{RUN}/iteration=001/rationales"))
    assert {node.artifact for node in graph.nodes.values()} >= {ATTEMPTS, f"{RUN}/problems/train"}
    assert not any("checkpoint" in node.artifact for node in graph.nodes.values())


def test_the_table_shows_no_draws_and_no_length(arm: Store, capsys: pytest.CaptureFixture[str]) -> None:
    row = cells(summarise(arm, "made"))[1]
    assert row[4:7] == ("-", "0", "0") and row[3] in ("1.000", "0.600")
    show("made", store=arm.url)
    assert "finished" in capsys.readouterr().out


def test_the_model_card_does_not_claim_that_it_draws(arm: Store) -> None:
    card = model_card(arm, "made", 1)
    assert "as a control arm" in card and "the model draws rationales" not in card
    assert "a control" in card.partition("- scheme: ")[2].partition("\n")[0] and "- sampling:" not in card


def test_a_fork_that_gives_the_same_refers_to_it(arm: Store, examine: Any) -> None:
    parent = fork.begin(arm, "made", 1)
    scheme = arm.existing_run("made").config["scheme"]
    config = made_config("child", scheme=scheme, iterations=3, train={"learning_rate": 1e-4})
    record = arm.create_run(prepare.run_record("child", config, parent))
    inherited = fork.inherit(arm, record)
    assert inherited[0].source == ATTEMPTS
    assert examine(arm, run="child", deep=True).broken == ()


def test_a_run_without_a_scheme_is_finished_with_its_base_model(tmp_path: Path, examine: Any) -> None:
    store = Store.open(str(tmp_path / "store"))
    config = made_config(scheme={"name": "none"}, iterations=7)
    assert config.iterations == 0 and config.digest() == made_config(scheme={"name": "none"}, iterations=2).digest()
    make_run(store, config)
    result = examine(store, deep=True)
    assert result.broken == () and not result.missing and len(result.checked) == 6
    summary = summarise(store, "made")
    assert summary.finished and [row.iteration for row in summary.rows] == [0]
    assert [(line.state, line.scored, line.iterations) for line in runs(store)] == [("finished", 0, 0)]


def test_a_fork_that_only_scores_the_base_model_stands_on_no_iteration(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    with pytest.raises(
        FemError, match=r"nothing to do: .* The scheme none scores the base model alone: fork made without"
    ):
        fork_command("made@1", run="child", store=store.url, set_=("scheme.name=none",), dry_run=True)
