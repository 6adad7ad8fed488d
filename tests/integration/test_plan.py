"""`fem plan` for real: a tiny model in a real engine and a real trainer, then the run that it was for."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.crash_matrix import FEM, ROOT, Place, prepare
from fem_core.report.costs import costs
from fem_core.store import layout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """32 training problems that a tiny model answers right about every third time, for RS(3) and one iteration."""
    return prepare(tmp_path_factory.mktemp("plan") / "a place", "local", 1)


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
    assert rows["evaluate · 0"].split()[0] == "8"
    assert int(rows["= the run"].split()[0]) == draws + 16
    found = re.search(r"Utilization (\d\.\d\d) \((\d\.\d\d) to (\d\.\d\d)\), from 16 of 32", planned)
    assert found and 0 < float(found[2]) < float(found[1]) <= float(found[3])
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
    assert rows["train", 1].tokens.estimated and rows["train", 1].tokens.fact
    checkpoint = rows["train", 1].bytes
    assert checkpoint.fact == pytest.approx(checkpoint.estimated, rel=0.01)

    shown = fem(place, "show", "crash", "--costs", "--store", place.url)
    assert re.search(
        r"^sample · 1 +\d+ +\d+ +\d\.\d\d +\d+ +\d+ +\d\.\d\d +\d+\.\d +\d+\.\d +\d+\.\d\d ", shown, re.MULTILINE
    )
    assert re.search(r"^total +\d+ +\d+ +\d\.\d\d ", shown, re.MULTILINE) and "Estimated 20" in shown
    assert "13 of 13 artifacts are done" in fem(place, "run", "crash.yaml", "--dry-run")
    assert "holds: 14 artifacts" in fem(place, "audit", "crash", "--deep", "--store", place.url)
