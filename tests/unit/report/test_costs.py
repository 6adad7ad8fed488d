"""What `fem show --costs` makes of a run's manifests and its estimate."""

import asyncio
import dataclasses
import re
from pathlib import Path

import pytest
from made_run import made_config, make_run
from test_estimate import CALIBRATION

from fem_core.audit.audit import audit
from fem_core.report.costs import ESTIMATE, NOTHING, CostRow, Pair, Step, cells, costs, shared_out, side_by_side
from fem_core.report.estimate import Estimate, estimate
from fem_core.store import fork, layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from flows.commands.show import show
from tasks import estimate as kept
from tasks import step


def of_made() -> Estimate:
    """An estimate of the run of tests/made_run.py: ten training problems, four test problems, two iterations."""
    sample = dataclasses.replace(CALIBRATION.sample, of=10)
    evaluate = dataclasses.replace(CALIBRATION.evaluate, of=4)
    found = dataclasses.replace(CALIBRATION, sample=sample, evaluate=evaluate)
    return estimate(
        found, 2, 1.0, "2026-01-02T03:04:05.000+00:00", {"cores": 2, "cpu": "a \x1b[31mCPU", "gpus": [], "load": 0.25}
    )


def inputs(store: Store) -> tuple[Manifest, Manifest, Manifest]:
    found = [
        store.manifest(name) for name in (*(layout.problems("made", s) for s in ("train", "test")), "runs/made/model")
    ]
    train, test, model = (one for one in found if one is not None)
    return train, test, model


def with_estimate(store: Store, cache: Path) -> None:
    """What prepare does where an estimate is kept."""
    sides = inputs(store)
    kept.keep(cache, kept.work("made", made_config(), *sides), of_made())
    run = step.Run("made", made_config(), store, cache, record=store.run("made"))
    asyncio.run(kept.take_along(run, *sides))


def row(rows: list[CostRow], name: str, iteration: int | None) -> CostRow:
    return next(one for one in rows if (one.step, one.iteration) == (name, iteration))


def test_estimate_and_fact_stand_side_by_side(real_store: Store, tmp_path: Path) -> None:
    made = make_run(real_store)
    with_estimate(real_store, tmp_path / "cache")
    found = costs(real_store, "made")
    drawn = row(found.rows, "sample", 1)
    stats = next(one.stats for one in made if one.kind == "attempts")
    assert drawn.draws == Pair(15.0, stats["draws"])
    assert drawn.tokens == Pair(350.0, stats["completion_tokens"])
    bytes_ = [
        sum(f.bytes for f in one.files) for one in made if one.artifact.startswith("runs/made/iteration=001/atte")
    ]
    assert drawn.bytes == Pair(pytest.approx(3500.0), bytes_[0])
    assert row(found.rows, "evaluate", 2).draws == Pair(4.0, 4)
    assert [one.done for one in found.rows] == [True] * len(found.rows)
    last = cells(found)[-1]
    assert last[4] == "1,060", "twice 350 and three times 120 drawn; what is trained on is no part of it"
    assert last[0] == "total" and last[1] == "42" and last[3] == f"{(2 * stats['draws'] + 3 * 4) / 42:.2f}"


def test_an_evaluation_has_the_draws_of_its_probes_too(real_store: Store) -> None:
    made = make_run(real_store, made_config(evaluate={"bound": {"problems": 6, "draws": 2}}))
    scored = row(side_by_side((), made), "evaluate", 1)
    drawn = [one.stats for one in made if one.artifact.rpartition("/iteration=001/")[2] in ("predictions", "probes")]
    assert [one["draws"] for one in drawn] == [4, 12]
    assert (scored.draws.fact, scored.tokens.fact) == (4 + 12, sum(one["completion_tokens"] for one in drawn))


def test_an_evaluation_leaves_its_seconds_to_the_sample_step_beside_it(real_store: Store, tmp_path: Path) -> None:
    made = [timed(one) for one in make_run(real_store)]
    rows = side_by_side(of_made().steps, made)
    # 3.5 prompts' seconds and 35 tokens' as estimated for 10 problems, start and evaluation 0 with its tail
    assert row(rows, "evaluate", 0).seconds == NOTHING
    assert row(rows, "sample", 1).seconds == Pair(pytest.approx(10 + 35 + 11 + 2 + 12 + 3), 30.0)
    assert row(rows, "sample", 2).seconds.fact == 12.0, (
        "evaluation 1 had the engine for 12 s, the 5 s of sample 2 among them"
    )
    assert row(rows, "evaluate", 2).seconds == Pair(pytest.approx(2 + 12 + 3 + 2), 9.0)


def test_an_evaluation_keeps_its_seconds_while_the_sample_step_is_not_done(real_store: Store) -> None:
    made = [one for one in make_run(real_store) if "/iteration=002/" not in one.artifact]
    rows = side_by_side(of_made().steps, [timed(one) for one in made])
    assert row(rows, "evaluate", 1).seconds == Pair(pytest.approx(2 + 12 + 3), 12.0)
    assert row(rows, "sample", 2).seconds == Pair(pytest.approx(10 + 35 + 2), None)
    assert not row(rows, "sample", 2).done


TIMES = {
    "iteration=001/attempts": (0, 20),
    "iteration=000/predictions": (0, 30),
    "iteration=001/predictions": (100, 112),
    "iteration=002/attempts": (100, 105),
    "iteration=002/predictions": (200, 209),
}


def timed(manifest: Manifest) -> Manifest:
    """Drawing at the given seconds, everything else in no time."""
    begin, end = TIMES.get(manifest.artifact.split("/", 2)[2], (300, 300))
    if manifest.kind == "scores":
        begin = end = TIMES[manifest.artifact.split("/", 2)[2].replace("scores", "predictions")][1]
    stamp = "2026-01-01T00:{:02d}:{:02d}+00:00"
    return manifest.model_copy(
        update={"started": stamp.format(*divmod(begin, 60)), "finished": stamp.format(*divmod(end, 60))}
    )


def test_a_second_counts_once_for_the_step_that_ended_first() -> None:
    spans: dict[Step, list[tuple[float, float]]] = {
        ("filter", 1): [(0.0, 10.0)],
        ("sample", 1): [(2.0, 14.0), (20.0, 25.0)],
        ("train", 1): [(9.0, 11.0)],
    }
    assert shared_out(spans) == {("filter", 1): 10.0, ("train", 1): 1.0, ("sample", 1): 3.0 + 5.0}


def test_a_run_without_an_estimate_shows_its_facts_and_how_to_get_one(
    made_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show("made", store=str(made_folder), costs=True)
    out = capsys.readouterr().out
    assert "made: star on table, 2 iterations, seed 0, finished" in out
    assert re.search(r"^sample · 1 +- +13 +- +- +156 +- +- +\d+\.\d +- +- +\d+\.\d kB +- *$", out, re.MULTILINE)
    assert "There is no estimate: `fem plan CONFIG` makes one" in out
    assert "fem_core" not in out


def test_an_unfinished_run_is_compared_as_far_as_it_is(
    real_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(real_store, iterations=1)
    with_estimate(real_store, tmp_path / "cache")
    show("made", store=real_store.url, costs=True)
    out = capsys.readouterr().out
    assert re.search(r"^train · 2 +- +- +- +900 +- +-", out, re.MULTILINE)
    assert re.search(r"^done so far +23 +21 +0\.91 ", out, re.MULTILINE), "15 and 8 estimated, 13 and 8 drawn"
    assert re.search(r"^total +42 +- +-", out, re.MULTILINE)
    assert "Estimated 2026-01-02T03:04:05 on 2 cores of a [31mCPU at load 0.2." in out and "\x1b[31m" not in out


def test_a_base_model_that_lies_outside_takes_nothing_of_the_store(real_store: Store) -> None:
    made = make_run(real_store)
    outside = [one.model_copy(update={"location": "/models/base"}) if one.kind == "model" else one for one in made]
    inside, without = (row(side_by_side((), some), "prepare", None).bytes.fact for some in (made, outside))
    assert inside is not None and without == inside - len(b"base")


def test_what_a_fork_has_from_its_parent_cost_it_nothing(real_store: Store) -> None:
    make_run(real_store)
    record = real_store.run("made")
    assert record is not None
    parent = fork.begin(real_store, "made", 1).dump()
    fork.inherit(real_store, real_store.create_run(record.model_copy(update={"name": "child", "parent": parent})))
    assert costs(real_store, "child").rows == []
    assert len(cells(costs(real_store, "child"))) == 1


def test_a_run_takes_its_estimate_along_and_no_other(real_store: Store, tmp_path: Path) -> None:
    make_run(real_store)
    assert real_store.manifest(layout.estimate("made")) is None
    run = step.Run("made", made_config(), real_store, tmp_path, record=real_store.run("made"))
    train, test, model = inputs(real_store)
    asyncio.run(kept.take_along(run, train, test, model))
    assert real_store.manifest(layout.estimate("made")) is None, "without one the run is as it was"

    kept.keep(tmp_path, kept.work("other", made_config(seed=7), train, test, model), of_made())
    other = model.model_copy(update={"digest": "0" * 64})
    kept.keep(tmp_path, kept.work("other", made_config(), train, test, other), of_made())
    asyncio.run(kept.take_along(run, train, test, model))
    assert real_store.manifest(layout.estimate("made")) is None, "other seed, other weights"

    file = kept.keep(tmp_path, kept.work("other", made_config(), train, test, model), of_made())
    asyncio.run(kept.take_along(run, train, test, model))
    manifest = real_store.manifest(layout.estimate("made"))
    assert manifest is not None and manifest.kind == "estimate"
    assert real_store.read_bytes(manifest, ESTIMATE) == file.read_bytes()
    file.unlink()
    kept.keep(
        tmp_path, kept.work("made", made_config(), train, test, model), dataclasses.replace(of_made(), made="later")
    )
    asyncio.run(kept.take_along(run, train, test, model))
    assert real_store.manifest(layout.estimate("made")) == manifest, "the first one stays"
    assert audit(real_store, "made", cache=tmp_path).holds


def test_a_broken_file_is_named_and_ends_nothing(
    real_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(real_store)
    said: list[str] = []
    monkeypatch.setattr(step, "noted", lambda _, text: said.append(text))
    train, test, model = inputs(real_store)
    kept.keep(tmp_path, kept.work("made", made_config(), train, test, model), of_made()).write_text("{")
    run = step.Run("made", made_config(), real_store, tmp_path, record=real_store.run("made"))
    asyncio.run(kept.take_along(run, train, test, model))
    assert real_store.manifest(layout.estimate("made")) is None
    assert len(said) == 1 and "Make it again with fem plan" in said[0]
