"""`make demo`'s path at reduced size: killed in the middle, run again, looked at, run a third time."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from place import ROOT, Workplace, ask, children_of, digests, small, until, workplace

pytestmark = pytest.mark.slow


def test_a_killed_run_keeps_its_committed_parts_and_goes_on(
    place: Workplace, killed: dict[str, str], finished: str
) -> None:
    now = digests(place.run_dir)
    assert "iteration=001/attempts/_manifest.json" not in killed
    data = {path: digest for path, digest in killed.items() if path.endswith((".parquet", ".json"))}
    kept = {path: digest for path, digest in data.items() if not path.startswith("lease/")}
    assert any("attempts/part-" in path for path in kept)
    assert {path: now.get(path) for path in kept} == kept
    assert "already done: runs/demo/problems/train" in finished


def test_the_table_shows_every_iteration(finished: str) -> None:
    lines = [line for line in finished.splitlines() if line[:2] in ("0 ", "1 ", "2 ")]
    assert [line.split("  ")[0].strip() for line in lines] == ["0 base, 0 exemplars", "0 base, 2 exemplars", "1", "2"]


def test_every_artifact_has_a_manifest_and_gc_takes_every_other_file(
    place: Workplace, finished: str, tmp_path: Path
) -> None:
    shutil.copytree(place.folder / "fem-store", tmp_path / "store", copy_function=os.link)
    collected = place.fem("gc", "--store", str(tmp_path / "store"), "--grace", "0s", "--yes")
    assert collected.returncode == 0, collected.stderr
    assert "temporary file that nobody finished" in collected.stdout
    for k, kinds in {
        0: {"predictions", "predictions-exemplars", "scores", "scores-exemplars"},
        1: {"attempts", "verdicts", "rationales", "checkpoint", "predictions", "scores"},
        2: {"attempts", "verdicts", "rationales", "checkpoint", "predictions", "scores"},
    }.items():
        folder = tmp_path / "store" / "runs" / "demo" / f"iteration={k:03d}"
        assert {child.name for child in folder.iterdir()} == kinds
        for child in folder.iterdir():
            manifest = json.loads((child / "_manifest.json").read_text())
            on_disk = {f.relative_to(child).as_posix() for f in child.rglob("*") if f.is_file()} - {"_manifest.json"}
            assert on_disk == {file["path"] for file in manifest["files"]}


def test_the_lineage_of_a_checkpoint_leads_back_to_problems_and_model(place: Workplace, finished: str) -> None:
    def manifest(path: str) -> dict:
        return json.loads((place.folder / "fem-store" / path / "_manifest.json").read_text())

    def inputs(path: str) -> dict:
        return {ref["role"]: ref for ref in manifest(path)["inputs"]}

    trained = inputs("runs/demo/iteration=002/checkpoint")
    assert trained["start"]["artifact"] == "runs/demo/iteration=001/checkpoint"
    attempts = inputs(trained["rationales"]["artifact"])["attempts"]
    drawn = inputs(attempts["artifact"])
    assert drawn["checkpoint"]["artifact"] == "runs/demo/iteration=001/checkpoint"
    for reference in (*trained.values(), attempts, *drawn.values()):
        assert manifest(reference["artifact"])["digest"] == reference["digest"]
    assert manifest("runs/demo/iteration=001/attempts")["prefect"].keys() == {"flow_run", "task_run"}


def test_the_readmes_snippets_read_the_run_as_they_stand(place: Workplace, finished: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert len(snippets) == 2
    env = {**os.environ, "HF_HOME": str(place.folder / "hf")}
    for snippet in snippets:
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=place.folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    rationales = place.run_dir / "iteration=001" / "rationales" / "part-00000.parquet"
    rows = pq.read_table(rationales).to_pylist()
    assert rows and all(row["completion"][0]["content"].splitlines()[-1].startswith("Answer:") for row in rows)


def test_the_commands_that_a_run_ends_with_work(place: Workplace, finished: str) -> None:
    further = finished.split("Look further:")[1].splitlines()
    shell = [line.strip() for line in further if " show demo" in line or "duckdb" in line]
    assert len(shell) == 2
    for line in shell:
        done = subprocess.run(["bash", "-c", line], cwd=place.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, line + done.stderr
    assert (place.run_dir / "report" / "curves.svg").read_text().startswith("<?xml")


def test_scores_use_the_training_prompt_and_the_baseline_the_sampling_one(place: Workplace, finished: str) -> None:
    shown = {
        kind: set(pq.read_table(place.run_dir / "iteration=000" / kind).column("exemplars").to_pylist())
        for kind in ("predictions", "predictions-exemplars")
    }
    assert shown == {"predictions": {0}, "predictions-exemplars": {2}}
    engine = json.loads((place.run_dir / "iteration=002" / "attempts" / "_manifest.json").read_text())["engine"]
    assert engine["weights"] in ("reloaded", "restarted", "started")
    assert engine["proved_difference"] < 0.25, "the second iteration must have been drawn with proved weights"


def test_running_a_finished_run_again_does_nothing_and_says_so(place: Workplace, finished: str) -> None:
    before = digests(place.run_dir)
    again = place.fem("run", "demo.yaml")
    assert again.returncode == 0, again.stderr
    assert digests(place.run_dir) == before
    for step in ("prepare", "sample · 1", "filter · 1", "train · 1", "evaluate · 2", "report"):
        assert f"{step}: already done" in again.stdout
    plan = place.fem("run", "demo.yaml", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "21 of 21 artifacts are done." in plan.stdout


def test_another_configuration_under_the_same_name_is_refused_with_the_difference(
    place: Workplace, finished: str
) -> None:
    before = digests(place.run_dir)
    refused = place.fem("run", "demo.yaml", "--set", "sample.temperature=0.5")
    assert refused.returncode == 2
    assert "sample.temperature: 0.8 -> 0.5" in refused.stderr
    assert "--run" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert digests(place.run_dir) == before


def test_the_prefect_page_has_named_steps_a_table_and_progress(place: Workplace, finished: str) -> None:
    flows = ask(place.api, "/flow_runs/filter", {"flow_runs": {"name": {"any_": ["demo"]}}, "sort": "START_TIME_DESC"})
    assert "COMPLETED" in {run["state_type"] for run in flows}
    ids = [run["id"] for run in flows]
    tasks = ask(place.api, "/task_runs/filter", {"flow_runs": {"id": {"any_": ids}}, "limit": 200})
    names = {task["name"] for task in tasks}
    assert {
        "prepare",
        "sample · 1",
        "filter · 2",
        "train · 2",
        "evaluate · 2",
        "evaluate · 0 with exemplars",
        "report",
    } <= names
    artifacts = ask(place.api, "/artifacts/filter", {"flow_runs": {"id": {"any_": ids}}, "limit": 200})
    assert {"markdown", "progress"} <= {artifact["type"] for artifact in artifacts}
    table = next(a for a in artifacts if a["type"] == "markdown" and "| 2 |" in a["data"])
    assert "utilization" in table["data"]


def test_show_reads_the_store_alone(place: Workplace, finished: str) -> None:
    shown = place.fem("show", "demo", "--store", "./fem-store")
    assert shown.returncode == 0, shown.stderr
    assert "demo: pps on needle_haystack, 2 iterations, seed 0, finished" in shown.stdout
    missing = place.fem("show", "nothing", "--store", "./fem-store")
    assert (missing.returncode, "Runs here: demo" in missing.stderr) == (2, True)


def test_an_iteration_without_rationales_names_the_utilization_and_what_to_try(
    tmp_path: Path, prefect_server: str
) -> None:
    place = workplace(
        tmp_path, prefect_server, iterations=1, scheme={"name": "rs", "budget": 1}, prompts={"sample_exemplars": 0},
        problems={"train": 4, "test": 4}, sample={"max_tokens": 4},
    )  # fmt: skip
    failed = place.fem("run", "demo.yaml")
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "utilization is 0.000 of 4 problems after 4 draws" in failed.stderr
    assert "scheme.name pps" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (place.run_dir / "iteration=001" / "attempts" / "_manifest.json").is_file(), "what was drawn is kept"


def trainers_at_work(pid: int) -> list[psutil.Process]:
    """Trainers that have their job; one that was started ahead waits for it."""
    family = children_of(pid, "fem_core.train.sft")
    with contextlib.suppress(psutil.NoSuchProcess):
        jobs = {Path(word) for p in family for word in p.cmdline() if word.endswith("job.json")}
        return family if any(job.exists() for job in jobs) else []
    return []


def test_star_survives_a_killed_engine_and_a_killed_trainer(tmp_path: Path, prefect_server: str) -> None:
    place = workplace(
        tmp_path, prefect_server, iterations=1, scheme={"name": "star"}, problems={"train": 12, "test": 8}
    )
    process = place.start("run", "demo.yaml")
    engine = until(lambda: children_of(process.pid, "fem_core.sample.host"), 120, "the engine host")
    until(lambda: list((place.run_dir / "iteration=000").glob("predictions*")), 120, "a first part")
    engine[0].kill()
    trainer = until(lambda: trainers_at_work(process.pid), 300, "the trainer")
    for one in trainer:
        one.kill()
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    kinds = ask(
        place.api,
        "/task_runs/filter",
        {"task_runs": {"name": {"any_": ["train · 1"]}}, "sort": "EXPECTED_START_TIME_DESC"},
    )
    assert max(task["run_count"] for task in kinds) >= 2, "the trainer's task should have been tried again"


def test_a_stopped_run_leaves_no_process_and_says_how_to_go_on(
    tmp_path: Path, prefect_server: str, taught: Path
) -> None:
    place = small(tmp_path, prefect_server, taught, train={"epochs": 200})
    process = place.start("run", "demo.yaml")
    family = until(lambda: children_of(process.pid, "fem_core.sample.host"), 120, "the engine host")
    until(lambda: list((place.run_dir / "iteration=001").rglob("part-*.parquet")), 200, "a first part")
    second = place.fem("run", "demo.yaml")
    assert (second.returncode, "Another process works on run 'demo'" in second.stderr) == (2, True)
    process.send_signal(2)
    try:
        output, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130, output
    assert "continue with: fem run demo.yaml" in output
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in family), 30, "the end of the host")


def test_ctrl_c_in_a_terminal_reaches_a_run_and_not_the_server_that_it_has_started(
    tmp_path: Path, taught: Path
) -> None:
    """A terminal sends the signal to all of its process group; what the run tells the server then is not waited for."""
    place = small(tmp_path, "", taught, train={"epochs": 200})
    process = place.start("run", "demo.yaml", process_group=0)
    until(lambda: list((place.run_dir / "iteration=001").rglob("part-*.parquet")), 300, "a first part")
    server = children_of(process.pid, "flows.temporary_server")
    assert len(server) == 1
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 130, output
    assert output.splitlines()[-1] == "Stopped. What is committed is kept; continue with: fem run demo.yaml"
    assert "EventsWorker" not in output and "connection" not in output
    until(lambda: not server[0].is_running() or server[0].status() == "zombie", 30, "the end of the server")


def test_a_temporary_server_ends_with_a_run_that_is_killed(tmp_path: Path, taught: Path) -> None:
    place = small(tmp_path, "", taught)
    process = place.start("run", "demo.yaml")
    server = until(lambda: children_of(process.pid, "flows.temporary_server"), 120, "a server")
    process.kill()
    process.wait()
    until(lambda: not server[0].is_running() or server[0].status() == "zombie", 60, "the end of the server")


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path, prefect_server: str) -> None:
    place = workplace(tmp_path, prefect_server, store="./occupied/store")
    (tmp_path / "occupied").write_text("a file, not a folder")
    refused = place.fem("run", "demo.yaml")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "occupied" in refused.stderr and "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
