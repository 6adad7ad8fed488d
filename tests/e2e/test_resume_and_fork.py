"""`fem resume` and `fem fork` on a real run: what is there is used, what was changed is done, nothing is copied."""

import json
import subprocess
from pathlib import Path

import pytest
from place import Workplace, digests, small, until

pytestmark = pytest.mark.slow


def test_resuming_a_finished_run_says_what_is_there_and_does_nothing(place: Workplace, finished: str) -> None:
    before = digests(place.run_dir)
    done = place.fem("resume", "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    checkpoint = json.loads((place.run_dir / "iteration=002" / "checkpoint" / "_manifest.json").read_text())
    lines = done.stdout.splitlines()
    assert any(checkpoint["digest"][:12] in line and "done" in line for line in lines)
    announced = lines.index("21 of 21 artifacts are there, 0 are to be made.")
    assert all("already done" not in line for line in lines[:announced]), "it says so before it begins"
    assert digests(place.run_dir) == before


def test_a_killed_run_says_what_is_there_and_what_is_to_be_done(finished: str) -> None:
    said = finished[: finished.index("already done")]
    assert "runs/demo/problems/train" in said and "waits for its inputs" in said
    assert "sample · 1" in said and "to do" in said


def test_a_change_is_refused_on_resuming_and_the_fork_is_named(place: Workplace, finished: str) -> None:
    refused = place.fem("resume", "demo", "--set", "sample.temperature=0.5")
    assert refused.returncode == 2
    assert "sample.temperature: 0.8 -> 0.5" in refused.stderr and "fem fork demo --run NEW" in refused.stderr


def test_a_fork_of_the_last_iteration_but_one_draws_its_own_last_one(place: Workplace, finished: str) -> None:
    before = digests(place.run_dir)
    arguments = ("fork", "demo@1", "--run", "other", "--set", "scheme.name=star")
    dry = place.fem(*arguments, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert 'iteration=002/attempts  (scheme.name: "pps" -> "star")' in dry.stdout
    assert not (place.run_dir.parent / "other").exists()
    done = place.fem(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests(place.run_dir) == before
    other = place.run_dir.parent / "other"
    first = other / "iteration=001" / "checkpoint"
    assert [file.name for file in first.iterdir()] == ["_manifest.json"]
    assert json.loads((first / "_manifest.json").read_text())["source"] == "runs/demo/iteration=001/checkpoint"
    trained = json.loads((other / "iteration=002" / "checkpoint" / "_manifest.json").read_text())
    start = {ref["role"]: ref for ref in trained["inputs"]}["start"]
    assert start["digest"] == json.loads((first / "_manifest.json").read_text())["digest"]
    shown = place.fem("show", "other")
    assert shown.returncode == 0 and "star on needle_haystack, 2 iterations, seed 0, finished" in shown.stdout
    audited = place.fem("audit", "other", "--deep")
    assert audited.returncode == 0, audited.stdout + audited.stderr


def test_a_fork_with_nothing_to_do_is_refused(place: Workplace, finished: str) -> None:
    refused = place.fem("fork", "demo@2", "--run", "third")
    assert refused.returncode == 2
    assert "starts from iteration 2 of 2" in refused.stderr and "iterations=3" in refused.stderr


def test_the_run_of_two_lives_audits_green(place: Workplace, finished: str) -> None:
    audited = place.fem("audit", "demo", "--deep")
    assert audited.returncode == 0, audited.stdout + audited.stderr


def test_another_machine_leaves_a_run_that_is_worked_on(tmp_path: Path, prefect_server: str, taught: Path) -> None:
    place = small(tmp_path / "one", prefect_server, taught, train={"epochs": 200})
    command, options = place.command("run", "demo.yaml")
    lease = {**options["env"], "FEM_LEASE_SECONDS": "12"}
    with (tmp_path / "first.txt").open("w") as log:
        first = subprocess.Popen(command, stdout=log, stderr=log, **(options | {"env": lease}))
    try:
        until(lambda: (place.run_dir / "run.json").exists(), 120, "a run")
        other = {**lease, "FEM_CACHE": str(tmp_path / "another machine")}
        second = place.fem("resume", "demo", env=other)
        assert second.returncode == 2, second.stdout + second.stderr
        assert "its last process may still be alive on another machine" in second.stdout
        assert "Another process works on run 'demo'" in second.stderr
        assert first.poll() is None
    finally:
        first.terminate()
        first.wait(60)
    assert not list((place.run_dir / "lease").iterdir()), "a run that is stopped gives its lease back"
