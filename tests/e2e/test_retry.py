"""Retry in the Prefect UI: a served flow whose process was killed goes on from the store when its run is retried."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from place import ask, digests, until, workplace

pytestmark = pytest.mark.slow

SERVE = "from flows.fem import fem; fem.serve(name='retry')"


def test_a_crashed_run_goes_on_when_it_is_retried(tmp_path: Path, prefect_server: str) -> None:
    place = workplace(tmp_path, prefect_server, iterations=1)
    config = yaml.safe_load((place.folder / "demo.yaml").read_text()) | {"name": "demo"}
    _, options = place.command()
    with (tmp_path / "served.txt").open("w") as log:
        served = subprocess.Popen([sys.executable, "-c", SERVE], stdout=log, stderr=log, **options)
    try:
        named = {"deployments": {"name": {"any_": ["retry"]}}}
        (deployment,) = until(lambda: ask(place.api, "/deployments/filter", named), 120, "a deployment")
        run = ask(place.api, f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"config": config}})
        until(lambda: list((place.run_dir / "iteration=001" / "attempts").glob("part-*.parquet")), 240, "a first part")
        flow = until(lambda: _flow_process(served.pid), 10, "the flow's process")
        flow.kill()
        until(lambda: _state(place.api, run) == "CRASHED", 60, "a crashed run")
        kept = {path: digest for path, digest in digests(place.run_dir).items() if not path.startswith("lease/")}
        assert any("attempts/part-" in path for path in kept)
        state = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        ask(place.api, f"/flow_runs/{run['id']}/set_state", state)
        until(lambda: _state(place.api, run) == "COMPLETED", 300, "a completed run")
        now = digests(place.run_dir)
        assert {path: now.get(path) for path in kept} == kept
        assert (place.run_dir / "report" / "_manifest.json").exists()
    finally:
        family = psutil.Process(served.pid).children(recursive=True)
        served.terminate()
        served.wait(60)
        for process in family:
            if process.is_running():
                process.kill()
        print((tmp_path / "served.txt").read_text()[-3000:])


def _flow_process(pid: int) -> psutil.Process | None:
    """The runner's child that runs the flow: the parent of the engine host."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if any("fem_core.sample.host" in word for word in process.cmdline()):
                return process.parent()
        except psutil.NoSuchProcess:
            continue
    return None


def _state(api: str, run: dict) -> str:
    found = ask(api, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    time.sleep(0.5)
    return found[0]["state_type"]
