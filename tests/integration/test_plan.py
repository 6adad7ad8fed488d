"""`fem plan` for real: a tiny model in a real engine and a real trainer, then the run that it was for."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks.crash_matrix import FEM, ROOT, Place, prepare
from fem_core.report.costs import ESTIMATE, costs
from fem_core.report.estimate import load
from fem_core.store import layout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """32 training problems that a tiny model answers right about every third time, for RS(3) and one iteration.

    What draws beside the plan is in it: second looks, a bound, sampled answers to the test problems.
    """
    place = prepare(tmp_path_factory.mktemp("plan") / "a place", "local", 1)
    file = place.folder / "crash.yaml"
    more = {
        "filter": {"blind": True, "max_rationales": 8},
        "evaluate": {"draws": 2, "bound": {"problems": 8, "draws": 2}},
    }
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | more))
    return place


def fem(place: Place, *arguments: str) -> str:
    env = {**os.environ, **place.environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [FEM, *arguments], cwd=place.folder, env=env, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def planned(place: Place) -> str:
    return fem(place, "plan", "crash.yaml", "--problems", "16")


def test_the_table_is_of_the_whole_run_and_the_store_is_untouched(place: Place, planned: str) -> None:
    rows = dict(re.findall(r"^(\S+(?: · \d)?|= .+?)  +(\S.*)$", planned, re.MULTILINE))
    assert {"prepare", "evaluate · 0", "sample · 1", "filter · 1", "train · 1", "evaluate · 1", "= the run"} <= set(
        rows
    )
    draws = int(rows["sample · 1"].split()[0])
    assert 32 <= draws <= 96, "one to three draws for each of 32 problems, from 16 of them"
    assert rows["evaluate · 0"].split()[0] == "40", (
        "a greedy and two sampled ones for each of 8, two for each of 8 probes"
    )
    assert int(rows["= the run"].split()[0]) == draws + 80
    found = re.search(r"Utilization (\d\.\d\d) \((\d\.\d\d) to (\d\.\d\d)\), from 16 of 32 .* at most 8", planned)
    assert found and 0 < float(found[2]) <= float(found[1]) <= float(found[3]) == 0.25, "eight of 32"
    assert re.search(r"Second looks at draws read [\d,]+ tokens more, at [\d,]+ tokens/s", planned)
    assert "near zero" not in planned and "no attempt was accepted" not in planned
    assert not Path(place.url).exists()
    assert list((place.folder / "cache" / "staging").iterdir()) == [], "the calibration's own store is gone"


def test_the_run_takes_the_estimate_along_and_shows_it_beside_the_facts(place: Place, planned: str) -> None:
    fem(place, "run", "crash.yaml")
    estimate = place.store.manifest(layout.estimate("crash"))
    assert estimate is not None and estimate.step.name == "prepare"
    rows = {(row.step, row.iteration): row for row in costs(place.store, "crash").rows}
    for step, row in rows.items():
        assert row.done, step
        if row.bytes.estimated:
            assert 0.3 < (row.bytes.fact or 0) / row.bytes.estimated < 3, step
    drawn = rows["sample", 1]
    assert drawn.draws.estimated and 0.5 < (drawn.draws.fact or 0) / drawn.draws.estimated < 2
    for k in (0, 1):
        assert rows["evaluate", k].draws.estimated == rows["evaluate", k].draws.fact == 40
    trained = rows["train", 1].tokens
    assert trained.estimated and 0.5 < (trained.fact or 0) / trained.estimated < 2
    estimated = load(place.store.read_bytes(estimate, ESTIMATE), "here")
    looked = {(one.step, one.iteration): one.look_tokens for one in estimated.steps}
    for kind, step in (("attempts", "sample"), ("probes", "evaluate")):
        manifest, guess = place.store.manifest(layout.iteration("crash", 1, kind)), looked[step, 1]
        assert manifest and guess and 0.4 < manifest.stats["look_tokens"] / guess.value < 2.5, kind
    checkpoint = rows["train", 1].bytes
    assert checkpoint.fact == pytest.approx(checkpoint.estimated, rel=0.01)

    shown = fem(place, "show", "crash", "--costs", "--store", place.url)
    assert re.search(
        r"^sample · 1 +\d+ +\d+ +\d\.\d\d +\d+ +\d+ +\d\.\d\d +\d+\.\d +\d+\.\d +\d+\.\d\d ", shown, re.MULTILINE
    )
    assert re.search(r"^total +\d+ +\d+ +\d\.\d\d ", shown, re.MULTILINE) and "Estimated 20" in shown
    assert "17 of 17 artifacts are done" in fem(place, "run", "crash.yaml", "--dry-run")
    assert "holds: 18 artifacts" in fem(place, "audit", "crash", "--deep", "--store", place.url)
