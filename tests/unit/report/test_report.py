"""The report step on a made run: its files, what people are shown of them, and reports of an earlier version."""

import asyncio
import re
import shutil
from dataclasses import replace
from pathlib import Path

import made_run
import pytest
from made_run import made_config, make_run
from prefect.logging import disable_run_logger

from fem_core.audit.audit import audit
from fem_core.errors import StoreConflict
from fem_core.evaluate.score import wilson
from fem_core.problems.problem import Problem, make_problem
from fem_core.report.curves import curves
from fem_core.report.diagnosis import FILE, answers, diagnosis, made
from fem_core.report.model_card import model_card
from fem_core.report.summary import notes, summarise
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from flows.commands.show import show
from tasks import step
from tasks.report import VERSION, report, work


def reported(store: Store) -> Manifest:
    with disable_run_logger():
        return asyncio.run(report.fn(step.Run("made", made_config(), store, Path())))


def test_the_report_holds_the_diagnostics_and_holds_itself(real_store: Store, tmp_path: Path) -> None:
    make_run(real_store)
    before = made(real_store, "made")
    manifest = reported(real_store)
    assert sorted(record.path for record in manifest.files) == [
        "curves.png",
        "curves.svg",
        "diagnostics.parquet",
        "report.md",
    ]
    assert diagnosis(real_store, "made").equals(before)
    kinds = {ref.role.split()[0] for ref in manifest.inputs}
    assert kinds == {"scores", "problems", "attempts", "rationales", "predictions"}
    result = audit(real_store, "made", deep=True, cache=tmp_path)
    assert result.holds and any(row.kind == "report" for row in result.checked)
    assert reported(real_store) == manifest


def test_the_curves_show_no_length_of_given_completions(tmp_path: Path) -> None:
    """The same run with and without the zero that its filter recorded gives the same picture."""
    store = Store.open(str(tmp_path / "store"))
    make_run(store, made_config(scheme={"name": "answer_only"}))
    given = summarise(store, "made")
    changed = [
        replace(row, filtered=row.filtered and row.filtered | {"mean_rationale_tokens": 9.0}) for row in given.rows
    ]
    assert curves(replace(given, rows=changed)) == curves(given)
    drawn = [replace(row, drawn=row.drawn and {"draws": 1}) for row in changed]
    assert curves(replace(given, rows=drawn)) != curves(given), "draws have a length"


def test_an_accuracy_of_none_or_all_is_drawn_though_rounding_puts_it_outside_its_interval(real_store: Store) -> None:
    make_run(real_store)
    made_ = summarise(real_store, "made")
    for correct, n in ((0, 34), (13, 13)):
        low, high = wilson(correct, n)
        assert not low <= correct / n <= high, "this is what rounding does"
        scores = {"accuracy": correct / n, "low": low, "high": high}
        rows = [replace(row, scores=row.scores and row.scores | scores) for row in made_.rows]
        assert curves(replace(made_, rows=rows)).startswith(b"<?xml")


def test_the_diagnostics_of_the_made_run_are_those_that_its_texts_imply(made_folder: Path) -> None:
    rows = made(Store.open(str(made_folder), check=False), "made").to_pylist()
    found = {(row["iteration"], row["measure"], row["part"]): (row["value"], row["over"]) for row in rows}
    assert found[2, "acceptance_by_difficulty", "failed 0 of 1"] == (1.0, 10)
    assert found[2, "again_problems", ""] == (1.0, 10)
    assert found[2, "again_texts", ""] == (0.0, 10), "each text names its iteration"
    assert found[1, "logprob_per_token", "hinted"] == (pytest.approx(-3.5 / 12), 36)
    assert found[1, "rationale_tokens", "p50"] == (12.0, 10)
    assert {k for k, measure, _ in found if measure == "answer_entropy"} == {0, 1, 2}
    assert not any("label" in measure for _, measure, _ in found), "numbers are no classes"


def test_an_unfinished_run_has_diagnostics_as_far_as_it_goes(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    make_run(store, iterations=1)
    assert {row["iteration"] for row in diagnosis(store, "made").to_pylist()} == {0, 1}


def test_show_prints_the_diagnostics(made_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show("made", store=str(made_folder), diagnostics=True)
    out = capsys.readouterr().out
    assert re.search(r"^iteration +measure +part +value +over", out, re.MULTILINE)
    assert re.search(r"^2 +again_problems +1\.000 +10$", out, re.MULTILINE)


def test_an_earlier_versions_report_is_kept(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    make_run(store)
    old = step.Work("report", layout.report("made"), "report", VERSION - 1, {}, ())
    first = store.commit(old.manifest([store.write_bytes(old.artifact, "report.md", b"old\n")], step.now(), stats={}))
    assert reported(store) == first
    assert {row["iteration"] for row in diagnosis(store, "made").to_pylist()} == {0, 1, 2}, "made without it"


def test_another_report_of_this_version_is_a_conflict(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    make_run(store)
    other = step.Work("report", layout.report("made"), "report", VERSION, {}, ())
    store.commit(other.manifest([store.write_bytes(other.artifact, "report.md", b"no\n")], step.now(), stats={}))
    with pytest.raises(StoreConflict):
        reported(store)


def test_diagnostics_of_another_form_are_found(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    todo = work("made", made_config(), store)
    table = diagnosis(store, "made").rename_columns(["k", "measure", "part", "value", "over"])
    file = store.write_table(todo.artifact, FILE, table, todo.key)
    store.commit(todo.manifest([file], step.now(), stats={}))
    broken = audit(store, "made", cache=tmp_path).broken
    assert [(f.file, f.what, f.recorded, f.found) for f in broken] == [(FILE, "columns", "iteration int32", "k int32")]


@pytest.fixture
def collapsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A run with four labels, whose model answers "0" to all that it is tested on."""
    monkeypatch.setattr(
        made_run,
        "problems_of",
        lambda numbers: [make_problem(f"{n}?", str(3 * (n % 4 + 1)), "label") for n in numbers],
    )
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    return store


def test_a_signature_is_shown_wherever_people_look(collapsed: Store, capsys: pytest.CaptureFixture[str]) -> None:
    name = "one label swallows the rest (iterations 1, 2): 1.00 of the answers are '0'"
    show("made", store=collapsed.url)
    assert f"Warning: {name}" in capsys.readouterr().out
    page = collapsed.read_bytes(reported(collapsed), "report.md").decode()
    assert f"- {name}" in page
    assert "- one label swallows the rest (iteration 1): 1.00 of the answers" in model_card(collapsed, "made", 1)
    show("made", store=collapsed.url)
    assert f"Warning: {name}" in capsys.readouterr().out, "from the stored diagnostics"


def test_data_that_cannot_be_read_hide_no_table(
    made_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(str(shutil.copytree(made_folder, tmp_path / "store")), check=False)
    for file in (tmp_path / "store").rglob("iteration=*/predictions/*.parquet"):
        file.unlink()
    assert answers(store, "made") == []
    show("made", store=store.url)
    assert "finished" in capsys.readouterr().out
    assert "Reasons" not in model_card(store, "made", 1)


def test_it_is_said_what_the_intervals_take_problems_in_groups_as(tmp_path: Path, made_folder: Path) -> None:
    def pairs(numbers: range) -> list[Problem]:
        return [make_problem(f"Is {n} odd?", str(n % 4), "label", group=str(n // 2)) for n in numbers]

    store = Store.open(str(tmp_path / "store"))
    asked = {"source": "table", "path": "sums.jsonl", "answer_kind": "label", "test": 4}
    make_run(store, made_config(problems=asked), make=pairs, wrong=5)
    said = "The 4 held-out problems lie in 2 groups; the last interval takes them as 2.0 that are independent."
    assert said in notes(summarise(store, "made"))
    alone = summarise(Store.open(str(made_folder), check=False), "made")
    assert not [note for note in notes(alone) if "groups" in note]
