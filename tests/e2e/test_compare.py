"""`fem compare` with a tiny model: two arms by two seeds really run side by side, one arm that cannot, and what is left."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from place import Workplace, ask

from benchmarks.tiny_model import answering_llama, letters
from fem_core.audit.audit import audit
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model
from fem_core.store.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Workplace:
    """Letters that the model answers with A, a third of them wrong."""
    folder = tmp_path_factory.mktemp("compare")
    questions = letters(folder, 20)
    base = {
        "iterations": 1,
        "problems": {
            "source": "table",
            "path": "letters.jsonl",
            "answer_kind": "choice",
            "choices": "choices",
            "test": 8,
        },
        "model": {"source": str(answering_llama(packaged_model(default_cache()), folder / "model", questions))},
        "scheme": {"name": "rs"},
        "sample": {"max_tokens": 32, "problems_per_part": 4, "engine": {"dtype": "float32", "kv_cache_gib": 0.5}},
        "train": {"batch_size": 4, "micro_batch_size": 4, "precision": "fp32"},
        "evaluate": {"draws": 3, "bound": {"problems": 6, "draws": 3}},
    }
    comparison = {
        "base": base,
        "arms": [
            {"name": "one", "set": {"scheme.budget": 1}},
            {"name": "two", "set": {"scheme.budget": 2}},
            {"name": "long", "set": {"sample.max_tokens": 5000}},
        ],
        "axes": {"seed": [0, 1]},
        "exclude": [{"arm": "long", "seed": 1}],
        "fair": "draws",
        "concurrency": 2,
    }
    (folder / "letters.yaml").write_text(yaml.safe_dump(comparison, sort_keys=False))
    return Workplace(folder, prefect_server)


@pytest.fixture(scope="module")
def done(bench: Workplace) -> "subprocess.CompletedProcess[str]":
    return bench.fem("compare", "letters.yaml", timeout=1700)


def manifest(bench: Workplace, run: str, artifact: str) -> Any:
    return json.loads((bench.folder / "fem-store" / "runs" / run / artifact / "_manifest.json").read_text())


def test_a_run_that_fails_stops_no_other_and_the_end_says_how_to_go_on(
    bench: Workplace, done: "subprocess.CompletedProcess[str]"
) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "letters.long.seed-0 failed:" in done.stderr and "do not fit the model's context" in done.stderr
    assert done.stderr.strip().endswith("1 of 5 runs failed. Continue with: fem compare letters.yaml")
    assert "Traceback" not in done.stderr
    assert "letters: 4 of 5 runs finished" in done.stdout
    assert not (bench.folder / "fem-store" / "runs" / "letters.long.seed-0").exists(), "it was refused before it began"


def test_runs_are_done_side_by_side_and_say_which_of_them_did_what(
    bench: Workplace, done: "subprocess.CompletedProcess[str]"
) -> None:
    spans = {}
    for run in ("letters.one.seed-0", "letters.one.seed-1"):
        made = [
            json.loads(file.read_text()) for file in (bench.folder / "fem-store/runs" / run).rglob("_manifest.json")
        ]
        spans[run] = min(one["started"] for one in made), max(one["finished"] for one in made)
    (began, ended), (other_began, other_ended) = spans.values()
    assert began < other_ended and other_began < ended, "the first runs of both seeds wait for no other"
    steps = re.findall(r"^\[ *[0-9.]+ s\] (.*?)(sample|train|evaluate|bound) · \d: begins", done.stdout, re.MULTILINE)
    finished = {f"letters.{arm}.seed-{seed} " for arm in ("one", "two") for seed in (0, 1)}
    assert {run for run, _ in steps} == finished
    assert [run for run, kind in steps if kind == "train"].count("letters.two.seed-1 ") == 1


def test_the_report_compares_the_arms(bench: Workplace, done: "subprocess.CompletedProcess[str]") -> None:
    folder = bench.folder / "fem-store" / "compare" / "letters"
    text = (folder / "report.md").read_text()
    assert "| one | 1 | 2 |" in text and "| two | 1 | 2 |" in text
    assert "## Arms against each other" in text and "| one | two |" in text
    assert "letters.long.seed-0 (to run)" in text
    assert (folder / "figures.svg").read_text().startswith("<?xml")
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    assert {(row["run"], row["iteration"]) for row in rows} == {
        (f"letters.{arm}.seed-{seed}", k) for arm in ("one", "two") for seed in (0, 1) for k in (0, 1)
    }
    assert all(row["accuracy"] is not None for row in rows)


def test_runs_of_one_seed_share_what_the_first_made_and_audit_green(
    bench: Workplace, done: "subprocess.CompletedProcess[str]", tmp_path: Path
) -> None:
    shared = (
        *("problems/train", "problems/test", "model"),
        *(f"iteration=000/{kind}" for kind in ("predictions", "scores", "probes", "bound")),
    )
    for seed in (0, 1):
        first, second = f"letters.one.seed-{seed}", f"letters.two.seed-{seed}"
        for artifact in shared:
            ours = manifest(bench, second, artifact)
            assert ours["digest"] == manifest(bench, first, artifact)["digest"]
            assert ours["source"] == (f"runs/{first}/{artifact}" if artifact != "model" else None)
        assert manifest(bench, second, "iteration=001/attempts")["source"] is None
    store = Store.open(str(bench.folder / "fem-store"), check=False)
    for run in ("letters.one.seed-0", "letters.two.seed-0", "letters.two.seed-1"):
        assert audit(store, run, deep=True, cache=tmp_path).broken == ()


def test_scores_of_choices_hold_the_judges_figures(bench: Workplace, done: "subprocess.CompletedProcess[str]") -> None:
    scores = manifest(bench, "letters.one.seed-0", "iteration=001/scores")
    assert scores["step"]["version"] == 4
    counts = scores["stats"]["judge"]["confusion"]["counts"]
    assert sum(map(sum, counts)) == 8 and len(counts[0]) == 4


def test_repeated_draws_say_how_sure_the_model_is_and_probes_bound_its_likelihood(
    bench: Workplace, done: "subprocess.CompletedProcess[str]"
) -> None:
    sure = manifest(bench, "letters.one.seed-0", "iteration=001/scores")["stats"]["calibration"]
    assert sure["draws"] == 3 and 0 <= sure["error"] <= 1 and sum(one["n"] for one in sure["bins"]) == 8
    before, after = (manifest(bench, "letters.one.seed-0", f"iteration=00{k}/bound")["stats"] for k in (0, 1))
    assert (before["problems"], before["draws"]) == (6, 3) and "change" not in before
    assert before["low"] <= before["bound"] <= before["high"] and before["acceptance"] > 0
    change = after["change"]
    known = change["problems"] + max(before["without"], after["without"])
    assert known <= 6 and before["without"] + change["lost"] - change["gained"] == after["without"]
    shown = (bench.folder / "fem-store/compare/letters/report.md").read_text()
    assert "| accuracy | calibration error | bound, nats |" in shown


def test_the_same_command_does_only_what_is_missing(bench: Workplace, done: "subprocess.CompletedProcess[str]") -> None:
    listed = bench.fem("compare", "letters.yaml", "--dry-run")
    assert listed.returncode == 0, listed.stderr
    assert "letters: 4 of 5 runs are finished" in listed.stdout
    again = bench.fem("compare", "letters.yaml")
    assert again.returncode == 1
    assert again.stdout.count("already done") == 4
    reported = bench.fem("compare", "letters.yaml", "--report")
    assert reported.returncode == 0 and "letters: 4 of 5 runs finished" in reported.stdout


DEPLOY = """
import asyncio
from pathlib import Path
from prefect.client.orchestration import get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType
from flows import server
from flows.fem import fem

async def pool():
    async with get_client() as client:
        await server.work_pool(client, "compared", "process", Path("."))

asyncio.run(pool())
entry = EntrypointType.MODULE_PATH
RunnerDeployment.from_flow(fem, "here", work_pool_name="compared", entrypoint_type=entry).apply()
"""


def test_a_work_pool_does_what_is_missing_two_runs_at_a_time(
    bench: Workplace, done: "subprocess.CompletedProcess[str]"
) -> None:
    comparison = yaml.safe_load((bench.folder / "letters.yaml").read_text())
    served = comparison | {"name": "letters", "arms": comparison["arms"][:2], "exclude": [], "deployment": "fem/here"}
    (bench.folder / "served.yaml").write_text(yaml.safe_dump(served, sort_keys=False))
    runs = ("letters.one.seed-1", "letters.two.seed-0")
    missing = [bench.folder / f"fem-store/runs/{run}/iteration=001/scores/_manifest.json" for run in runs]
    for file in missing:
        file.unlink()
    nowhere = bench.fem("compare", "served.yaml")
    assert nowhere.returncode == 1
    assert "There is no deployment 'fem/here' on this Prefect server." in nowhere.stderr
    _, options = bench.command()
    options["env"]["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    subprocess.run([sys.executable, "-c", DEPLOY], check=True, timeout=240, **options)
    prefect = str(Path(sys.executable).with_name("prefect"))
    with (bench.folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [prefect, "worker", "start", "--pool", "compared", "--type", "process"], stdout=log, stderr=log, **options
        )
        try:
            through = bench.fem("compare", "served.yaml", timeout=600)
        finally:
            worker.terminate()
            worker.wait(60)
    assert through.returncode == 0, through.stdout + through.stderr + (bench.folder / "worker.log").read_text()[-3000:]
    assert all(file.is_file() for file in missing) and "letters: 4 of 4 runs finished" in through.stdout
    asked = {"flow_runs": {"name": {"any_": list(runs)}}, "work_pools": {"name": {"any_": ["compared"]}}}
    flow_runs = ask(bench.api, "/flow_runs/filter", asked)
    assert sorted(one["name"] for one in flow_runs) == sorted(runs)
    last_asked = max(one["created"] for one in flow_runs)
    assert last_asked < min(one["end_time"] for one in flow_runs), "the pool had both before one of them had ended"
