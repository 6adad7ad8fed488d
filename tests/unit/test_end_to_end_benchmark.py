"""The baselines do what FEM does, and the benchmark that compares them compares the same things."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmarks import end_to_end
from benchmarks.baselines.loop import Draw, as_fem_reads, that_count
from benchmarks.costs import Outcome, Work, covered
from benchmarks.tiny_model import answering_llama, letters
from fem_core.config import SchemeConfig
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model
from fem_core.sample.schemes import next_draws, plan_of

BUDGET = 3
SECONDS = 1800
"""Four whole runs, mostly starts of engines: two to three minutes at rest, ten on a machine that others keep busy."""


def _rows(*verdicts: str) -> list[dict[str, str]]:
    return [{"verdict": verdict} for verdict in verdicts]


def test_a_draw_is_read_up_to_its_first_answer_line() -> None:
    draw = Draw("Because.\nAnswer: A\nNo, wait.\nAnswer: B", "length", 20)
    assert as_fem_reads(draw, stop_at_answer=True) == ("Because.\nAnswer: A\n", "answer")
    assert as_fem_reads(draw, stop_at_answer=False) == (draw.text, "length")
    cut = Draw("Because.\nAnswer: A", "length", 8)  # the line may not be complete
    assert as_fem_reads(cut, stop_at_answer=True) == (cut.text, "length")


def test_with_keep_first_nothing_counts_behind_the_first_accepted_draw() -> None:
    drawn = _rows("wrong_answer", "accepted", "unparsable", "accepted")
    assert that_count(drawn, "first") == drawn[:2]
    assert that_count(drawn, "all") == drawn
    assert that_count(drawn[2:3], "first") == drawn[2:3]


def test_what_counts_of_n_draws_is_what_the_stepper_would_have_drawn() -> None:
    plan = plan_of(SchemeConfig(name="rs", budget=4))
    for outcomes in ([False, True, False, True], [False] * 4, [True] * 4):
        stepped: list[bool] = []
        while wanted := next_draws(plan, stepped):
            stepped += outcomes[len(stepped) : len(stepped) + len(wanted)]
        drawn = _rows(*("accepted" if accepted else "wrong_answer" for accepted in outcomes))
        assert len(that_count(drawn, plan.keep)) == len(stepped)


def test_steps_that_run_side_by_side_count_once() -> None:
    assert covered([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0), (7.0, 8.0)]) == 6.0


def _outcome(system: str, **changes: float) -> Outcome:
    work = Work(["a", "b"], ["c"], 2, 20, 10, [1.0], [{"a": "It is."}], [{"accuracy": 1.0}], 1e9, 1e9)
    seconds = {"seconds": 10.0, "drawing": 1.0, "evaluating": 1.0, "training": 2.0, "steps": 4.0} | changes
    return Outcome(system, work, **seconds, parts={"engine start": 3.0}, peak=1e12)


def test_ratios_are_the_baselines_seconds_over_fems() -> None:
    fem, script = _outcome("fem"), _outcome("script", seconds=40.0, drawing=3.0, training=3.0, steps=16.0)
    ratios = {name: ratio(fem, script) for name, ratio in end_to_end.RATIOS.items()}
    assert ratios == {
        "whole run": 4.0,
        "drawing and evaluation, with starts": 4.0,
        "drawing and evaluation, engine alone": 2.0,
        "training alone": 1.5,
        "whole run, fixed costs at zero": 10.0,
    }


def test_runs_on_other_problems_are_not_compared() -> None:
    fem = _outcome("fem")
    end_to_end.same_problems([fem, _outcome("script")])
    with pytest.raises(SystemExit, match="other problems"):
        end_to_end.same_problems([fem, replace(fem, work=replace(fem.work, test_problems=["d"]))])


def test_an_outcome_survives_its_file(tmp_path: Path) -> None:
    one = _outcome("fem")
    one.save(tmp_path / "one.json")
    assert Outcome.read(tmp_path / "one.json") == one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that always answers A, and problems of which a third have another answer. Nearly greedy, in float32:
    what is drawn is the same in every engine."""
    folder = tmp_path_factory.mktemp("end-to-end")
    questions = letters(folder, 20)
    config = {
        "problems": {
            "source": "table",
            "path": str(folder / "letters.jsonl"),
            "answer_kind": "choice",
            "choices": "choices",
        },
        "model": {"source": str(answering_llama(packaged_model(default_cache()), folder / "model", questions))},
        "sample": {
            "temperature": 0.01,
            "max_tokens": 32,
            "problems_per_part": 4,
            "engine": {"dtype": "float32", "kv_cache_gib": 0.5},
        },
        "train": {"epochs": 1, "batch_size": 4, "micro_batch_size": 4, "precision": "fp32"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return folder


def _benchmark(folder: Path) -> list[dict[str, str]]:
    """Run it; its printed rows, both tables'."""
    sizes = ["--train", "12", "--test", "8", "--iterations", "1", "--budget", str(BUDGET), "--schemes", "rs"]
    sizes += ["--systems", *end_to_end.SYSTEMS]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        end_to_end.main(["--config", str(folder / "tiny.yaml"), "--folder", str(folder / "results"), *sizes])
    tables = [table.splitlines() for table in said.getvalue().strip().split("\n\n")]
    cells = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table] for table in tables]
    return [dict(zip(table[0], row, strict=True)) for table in cells for row in table[2:]]


@pytest.fixture(scope="module")
def printed(folder: Path) -> list[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # a script's engine starts in half the time
        return _benchmark(folder)


@pytest.fixture(scope="module")
def outcomes(folder: Path, printed: list[dict[str, str]]) -> dict[str, Outcome]:
    found = [Outcome.read(file) for file in (folder / "results").glob("*.json")]
    return {one.system: one for one in found}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_every_run_and_every_pair_has_its_row(printed: list[dict[str, str]]) -> None:
    runs, pairs = printed[:4], printed[4:]
    assert [row["system"] for row in runs] == ["fem", "script", "transformers", "unrecorded"]
    assert [row["against"] for row in pairs] == ["script", "transformers", "unrecorded"]
    assert {row["N"] for row in printed} == {"12"}
    for row in runs:
        spent = [float(row[name]) for name in ("drawing s", "evaluating s", "training s", "other s")]
        assert min(spent) > 0 and sum(spent) == pytest.approx(float(row["total s"]), abs=0.3)
    whole = float(runs[1]["total s"]) / float(runs[0]["total s"])
    assert float(pairs[0]["whole run"]) == pytest.approx(whole, abs=0.02)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_all_systems_accept_and_train_on_the_same(outcomes: dict[str, Outcome]) -> None:
    fem, script, transformers, unrecorded = (outcomes[name].work for name in end_to_end.SYSTEMS)
    assert unrecorded == fem
    assert len(fem.train_problems) == 12 and len(fem.test_problems) == 8
    assert fem.train_problems == script.train_problems == transformers.train_problems
    assert fem.test_problems == script.test_problems == transformers.test_problems
    assert 0 < len(fem.rationales[0]) < 12
    assert fem.rationales == script.rationales == transformers.rationales
    assert fem.utilization == script.utilization == transformers.utilization == [len(fem.rationales[0]) / 12]
    assert fem.training_flops == script.training_flops == transformers.training_flops > 0
    assert [score["n"] for score in script.scores] == [score["n"] for score in fem.scores] == [8, 8]
    assert fem.scores[0] == script.scores[0] == transformers.scores[0]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_fem_draws_only_what_is_needed_and_the_script_all(outcomes: dict[str, Outcome]) -> None:
    fem, script, transformers, _ = (outcomes[name].work for name in end_to_end.SYSTEMS)
    accepted = len(fem.rationales[0])
    assert script.draws == transformers.draws == 12 * BUDGET
    assert fem.draws == accepted + (12 - accepted) * BUDGET  # nearly greedy: all of a problem's draws are the same
    assert fem.drawn_tokens < script.drawn_tokens == transformers.drawn_tokens
    assert fem.engine_flops < script.engine_flops


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_what_is_finished_is_not_run_again(folder: Path, printed: list[dict[str, str]]) -> None:
    before = {file: file.stat().st_mtime_ns for file in (folder / "results").iterdir()}
    assert len(before) == 4
    assert _benchmark(folder) == printed
    assert {file: file.stat().st_mtime_ns for file in (folder / "results").iterdir()} == before
