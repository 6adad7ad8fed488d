"""What a comparison reports: figures over seeds, tests between arms, fairness, and runs that are not there yet."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from made_run import made_config, make_run, problems_of

from fem_core.audit.audit import audit
from fem_core.compare.cells import Cell, cells
from fem_core.compare.comparison import Comparison
from fem_core.compare.controls import label_fitting
from fem_core.compare.figures import figures
from fem_core.compare.report import line_table, markdown, pair_table, write
from fem_core.compare.results import Mean, Pair, results, state
from fem_core.errors import FemError
from fem_core.problems.problem import Problem, make_problem
from fem_core.schemas import COMPARISON
from fem_core.store import layout
from fem_core.store.deletion import mark
from fem_core.store.store import Store

BASE: dict[str, Any] = {
    "iterations": 2,
    "problems": {"source": "table", "path": "sums.jsonl", "answer_kind": "number", "test": 4},
    "scheme": {"name": "star", "budget": 1},
    "sample": {"problems_per_part": 4},
}


def described(**more: Any) -> Comparison:
    arms = [{"name": "a", "set": {}}, {"name": "b", "set": {"train.epochs": 2}}]
    return Comparison.model_validate({"name": "c", "base": BASE, "arms": arms, "axes": {"seed": [0, 1]}, **more})


def made(store: Store, comparison: Comparison, *, runs: Sequence[str] = (), wrong: int = 5) -> list[Cell]:
    """Finished runs: arm a has sums that 3 divides wrong, b those that ``wrong`` does (under seed 1, both 3)."""
    found = cells(comparison)
    for cell in found:
        if not runs or cell.name in runs:
            make_run(store, cell.config, wrong=3 if cell.arm == "a" or cell.seed else wrong)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_the_base_is_that_of_the_made_run() -> None:
    assert cells(Comparison.model_validate({"name": "c", "base": BASE}))[0].config.digest() == made_config().digest()


def test_figures_are_means_over_seeds_with_their_interval(store: Store) -> None:
    comparison = described()
    came = results(store, comparison, made(store, comparison))
    assert set(came.states.values()) == {"finished"}
    assert [(line.arm, line.iteration, line.seeds) for line in came.lines] == [
        ("a", 0, 2), ("a", 1, 2), ("a", 2, 2), ("b", 0, 2), ("b", 1, 2), ("b", 2, 2),
    ]  # fmt: skip
    a, b = came.lines[2].figures, came.lines[5].figures
    assert a["accuracy"] == Mean(0.5, 0.0)
    half = 12.706204736 * 0.125  # t with one degree of freedom; accuracies 0.75 and 0.5
    assert b["accuracy"] == Mean(0.625, pytest.approx(half))
    assert (a["utilization"].value, a["mean_rationale_tokens"].value) == (1.0, 12.0)
    assert (a["draws_so_far"].value, a["drawn_tokens_so_far"].value) == (26.0, 312.0)
    assert (b["draws_so_far"].value, b["draws"].value) == (25.0, 12.5)
    assert "draws" not in came.lines[0].figures, "the base model drew nothing to train on"


def test_arms_are_tested_on_the_problems_that_both_answered(store: Store) -> None:
    comparison = described()
    (pair,) = results(store, comparison, made(store, comparison)).pairs
    assert (pair.first, pair.second, pair.iterations, pair.seeds, pair.pairs) == ("a", "b", "2 and 2", 2, 8)
    assert (pair.only_first, pair.only_second) == (1, 2), "205 under seed 0; 201 and 207 under seed 0"
    assert pair.difference == pytest.approx(1 / 8)
    assert pair.low < 1 / 8 < pair.high
    assert pair.over_seeds.value == pytest.approx((0.25 + 0.0) / 2)
    assert pair.p == pair.p_holm == 1.0


def test_problems_of_one_group_are_resampled_together(store: Store) -> None:
    """Sums two by two, as both orders of a pair are: +1 and 0 in one group, -1 and +1 in the other."""

    def paired(numbers: range) -> list[Problem]:
        return [replace(one, group=f"{n // 2}") for n, one in zip(numbers, problems_of(numbers), strict=True)]

    comparison = described(axes={"seed": [0]})
    for cell in cells(comparison):
        make_run(store, cell.config, make=paired, wrong=3 if cell.arm == "a" else 5)
    (pair,) = results(store, comparison, cells(comparison)).pairs
    assert (pair.pairs, pair.only_first, pair.only_second) == (4, 1, 2)
    assert (pair.low, pair.high) == (0.0, 0.5), "of single problems it would reach from -0.5 to 1"


def test_equal_draws_are_read_where_the_smallest_arm_ends(store: Store) -> None:
    comparison = described(fair="draws")
    came = results(store, comparison, made(store, comparison))
    assert came.budget == {0: 24, 1: 26}
    assert [(line.arm, line.iteration, line.last, line.figures["draws_so_far"].value) for line in came.at_budget] == [
        ("a", 1, 2, (13 + 26) / 2),
        ("b", 2, 2, (24 + 26) / 2),
    ]
    assert came.pairs[0].iterations == "1 and 2; 2 and 2"
    text = markdown(came)
    assert "24 (seed 0), 26 (seed 1)" in text and "## At equal draws" in text and "| a | 1 to 2 | 2 |" in text


def test_control_arms_spend_nothing_of_equal_draws_and_are_read_at_their_end(store: Store) -> None:
    arms = [{"name": name, "set": {"scheme.name": name}} for name in ("star", "answer_only", "none")]
    comparison = described(arms=arms, axes={"seed": [0]}, fair="draws")
    for cell in cells(comparison):
        make_run(store, cell.config)
    came = results(store, comparison, cells(comparison))
    assert came.budget == {0: 26}
    assert [(line.arm, line.iteration) for line in came.at_budget] == [("star", 2), ("answer_only", 2), ("none", 0)]
    assert "Control arms draw nothing, set no budget and are read at their last iteration." in markdown(came)


def test_control_arms_alone_have_no_budget(store: Store) -> None:
    comparison = described(
        arms=[{"name": name, "set": {"scheme.name": name}} for name in ("answer_only", "none")],
        axes={"seed": [0]},
        fair="draws",
    )
    for cell in cells(comparison):
        make_run(store, cell.config)
    came = results(store, comparison, cells(comparison))
    assert not came.budget and not came.at_budget
    assert came.pairs[0].iterations == "2 and 0"
    assert "over its whole run: none, as no finished arm draws." in markdown(came)


def test_equal_rationales_are_a_cap_and_who_has_fewer_is_named(store: Store, tmp_path: Path) -> None:
    comparison = described(fair="accepted", accepted=8)
    found = made(store, comparison)
    came = results(store, comparison, found)
    assert {row["rationales"] for row in came.rows if row["iteration"]} == {8}
    assert came.lines[1].figures["utilization"] == Mean(0.8, 0.0)
    assert not came.notes and "at most 8 rationales" in markdown(came)
    assert audit(store, found[0].name, deep=True, cache=tmp_path).broken == ()
    more = described(name="d", fair="accepted", accepted=11)
    short = results(store, more, made(store, more, runs=["d.a.seed-0"]))
    assert "d.a.seed-0, iteration 1: 10 rationales, 11 were asked for." in short.notes


def test_a_control_arm_has_no_rationale_length(store: Store) -> None:
    comparison = described(arms=[{"name": "a", "set": {"scheme.name": "answer_only"}}], axes={"seed": [0]})
    for cell in cells(comparison):
        make_run(store, cell.config)
    came = results(store, comparison, cells(comparison))
    assert [row["mean_rationale_tokens"] for row in came.rows] == [None] * 3
    assert [cell[5] for cell in line_table(came.lines)] == ["rationale tokens", "-", "-", "-"]
    assert came.table()["mean_rationale_tokens"].null_count == 3


def test_a_line_is_over_the_runs_that_are_scored(store: Store) -> None:
    comparison = described()
    found = made(store, comparison, runs=["c.a.seed-0"])
    make_run(store, found[2].config, wrong=1)
    for kind in ("scores", "predictions"):  # killed after its second M-step
        store.root.remove(f"{layout.iteration('c.a.seed-1', 2, kind)}/{layout.MANIFEST}")
    came = results(store, comparison, found)
    assert [(line.arm, line.iteration, line.seeds) for line in came.lines] == [("a", 0, 2), ("a", 1, 2), ("a", 2, 1)]
    assert came.lines[2].figures["draws"] == Mean(13, None)
    assert [row["accuracy"] is None for row in came.rows] == [False] * 5 + [True], "the rows keep it"


def test_what_is_there_is_reported_and_the_rest_is_named(store: Store) -> None:
    comparison = described()
    found = made(store, comparison, runs=["c.a.seed-0", "c.b.seed-0"])
    make_run(store, found[2].config, iterations=1)
    make_run(store, found[3].config.model_copy(update={"iterations": 1}))
    assert [state(store, cell) for cell in found] == ["finished", "finished", "unfinished", "another configuration"]
    came = results(store, comparison, found)
    assert [(line.arm, line.iteration, line.seeds) for line in came.lines] == [
        ("a", 0, 2), ("a", 1, 2), ("a", 2, 1), ("b", 0, 1), ("b", 1, 1), ("b", 2, 1),
    ]  # fmt: skip
    assert came.pairs[0].seeds == 1 and came.pairs[0].over_seeds.half is None
    text = markdown(came)
    assert "# c: 2 of 4 runs finished" in text
    assert "Not finished: c.a.seed-1 (unfinished), c.b.seed-1 (another configuration)." in text
    assert "an earlier form of this comparison made it" in text
    mark(store, found[0].name)
    left = results(store, comparison, found)
    assert left.states[found[0].name] == "deleted" and not left.pairs


def test_arms_with_other_test_problems_are_not_paired(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = described(axes={"seed": [0]})
    found = made(store, comparison, runs=["c.a.seed-0"])
    import made_run

    few = made_run.problems_of
    monkeypatch.setattr(made_run, "problems_of", lambda numbers: few(range(numbers.start + 1, numbers.stop + 1)))
    make_run(store, found[1].config)
    came = results(store, comparison, found)
    assert not came.pairs
    assert came.notes == ["a and b have other test problems in 1 of 1 seeds, which are not paired."]


@pytest.mark.parametrize("order", [("rs", "pps"), ("pps", "rs")])
def test_pps_below_rs_is_said_of_arms_where_the_runs_alone_are_too_small_to_say_it(
    store: Store, order: tuple[str, str]
) -> None:
    def sums(numbers: range) -> list[Problem]:
        """Of the four test problems, 3 divides three."""
        return [make_problem(f"What is {n}?", "7" if n == numbers[-1] else "6", "number") for n in numbers]

    arms = [{"name": name, "set": {"scheme.name": name}} for name in order]
    comparison = described(arms=arms, axes={"seed": [0, 1]})
    for cell in cells(comparison):
        make_run(store, cell.config, wrong=3 if cell.arm == "pps" else 1000, make=sums)
    (note,) = results(store, comparison, cells(comparison)).notes
    assert note.startswith("pps beside rs: PPS below RS (iteration 2): PPS less RS is -0.750 (-1.000 to -0.250 over")
    assert "so the hint bought rows and not skill" in note


def test_pps_below_rs_is_said_with_what_to_try(store: Store) -> None:
    arms = [{"name": name, "set": {"scheme.name": name}} for name in ("rs", "pps")]
    comparison = described(arms=arms, axes={"seed": [0, 1]})
    for cell in cells(comparison):
        make_run(store, cell.config, wrong=1 if cell.arm == "pps" and cell.seed == 1 else 1000)
    (note,) = results(store, comparison, cells(comparison)).notes
    assert note.startswith("c.pps.seed-1 beside c.rs.seed-1: PPS below RS (iteration 2): PPS scores 0.000")


def test_a_gain_that_answers_alone_give_as_well_is_called_label_fitting(store: Store) -> None:
    arms = [{"name": name, "set": {"scheme.name": name}} for name in ("answer_only", "pps", "human", "none")]
    comparison = described(arms=arms, axes={"seed": [0, 1]})
    done = cells(comparison)
    reached = {cell.name: cell.config.iterations for cell in done}

    def said(control: float, pps: float, low: float, high: float) -> list[str]:
        last = {"answer_only": control, "pps": pps, "human": 0.9, "none": 0.3}
        rows = [
            {"run": cell.name, "iteration": k, "exemplars": exemplars, "accuracy": accuracy}
            for cell in done
            for k, exemplars, accuracy in (
                *((0, 0, 0.1), (0, 2, 0.3)),  # the fair baseline shows exemplars
                *([(cell.config.iterations, 0, last[cell.arm])] if cell.config.iterations else []),
            )
        ]
        pair = {"seeds": 2, "iterations": "2 and 2", "pairs": 8, "only_first": 0, "only_second": 0, "p": 1.0}
        over = {"over_seeds": Mean(0.0, None), **pair}
        pairs = [
            Pair("answer_only", "pps", difference=pps - control, low=low, high=high, **over),
            Pair("answer_only", "human", difference=0.0, low=-1.0, high=1.0, **over),
            Pair("pps", "none", difference=0.0, low=-1.0, high=1.0, **over),
        ]
        backwards = [Pair("pps", "answer_only", difference=control - pps, low=-high, high=-low, **over)]
        found = label_fitting(pairs, done, rows, reached)
        assert label_fitting(backwards, done, rows, reached) == found
        return found

    (note,) = said(0.45, 0.5, -0.02, 0.12)
    assert note.startswith(
        "pps gains +0.200 over its base model, and answer_only, which trains on the right answers alone"
    )
    assert (
        "alone, +0.150. The difference of +0.050 (-0.020 to +0.120 over problems)" in note and "label fitting" in note
    )
    assert said(0.45, 0.5, 0.01, 0.09) == [], "beyond what answers alone give"
    assert said(0.25, 0.29, -0.02, 0.12) == [], "no gain over the better base model"
    assert len(said(0.6, 0.5, -0.2, -0.01)) == 1, "answers alone give more"
    for cell in done:
        make_run(store, cell.config, wrong=3 if cell.arm == "pps" else 1000)
    assert not any("label fitting" in one for one in results(store, comparison, done).notes), "these runs gain nothing"


def test_missing_predictions_are_said(store: Store) -> None:
    comparison = described(axes={"seed": [0]})
    found = made(store, comparison)
    store.root.remove(f"{layout.iteration('c.a.seed-0', 2, 'predictions')}/{layout.MANIFEST}")
    with pytest.raises(FemError, match="has scores of iteration 2 and no predictions"):
        results(store, comparison, found)


def test_the_report_is_text_a_picture_and_rows_and_is_replaced(store: Store) -> None:
    comparison = described()
    found = made(store, comparison, runs=["c.a.seed-0"])
    place = write(store, results(store, comparison, found))
    assert place == f"{store.url}/compare/c"
    made(store, comparison, runs=["c.b.seed-0"])
    came = results(store, comparison, found)
    write(store, came)
    assert store.root.children("compare/c") == ["figures.svg", "report.md", "results.parquet"]
    table = pq.read_table(f"{place}/results.parquet")
    assert table.schema.remove_metadata() == COMPARISON.remove_metadata()
    assert table.column("run").to_pylist() == ["c.a.seed-0"] * 3 + ["c.b.seed-0"] * 3
    assert table.column("drawn_tokens_so_far").to_pylist() == [0, 156, 312, 0, 144, 288]
    assert store.root.read("compare/c/report.md").decode().startswith("# c: 2 of 4 runs finished")
    assert figures(came) == store.root.read("compare/c/figures.svg"), "equal results give equal files"
    assert figures(came, "png").startswith(b"\x89PNG")


def test_tables_have_a_cell_for_every_header(store: Store) -> None:
    comparison = described()
    came = results(store, comparison, made(store, comparison))
    headers, *rows = line_table(came.lines)
    assert {len(row) for row in rows} == {len(headers)}
    assert len({len(row) for row in pair_table(came)}) == 1
    assert rows[2][:6] == ("a", "2", "2", "0.500 ± 0.000", "1.000 ± 0.000", "12.0 ± 0.0")
    assert rows[0][4:6] == ("-", "-")
    assert "calibration error" not in headers


def test_calibration_has_a_column_where_test_problems_were_drawn_repeatedly(store: Store) -> None:
    comparison = described(axes={"seed": [0]}, base={**BASE, "evaluate": {"draws": 2}})
    came = results(store, comparison, made(store, comparison))
    headers, *rows = line_table(came.lines)
    assert headers[3:5] == ("accuracy", "calibration error")
    assert [row[3:5] for row in rows[::3]] == [("0.500", "0.750"), ("0.750", "0.625")]
    assert (came.pairs[0].pairs, came.pairs[0].only_second) == (4, 2), "greedy answers alone are paired"


def test_a_comparison_with_nothing_done_is_an_empty_report(store: Store) -> None:
    comparison = described()
    came = results(store, comparison, cells(comparison))
    assert set(came.states.values()) == {"to run"} and not came.rows
    assert figures(came).startswith(b"<?xml") and "0 of 4 runs finished" in markdown(came)
