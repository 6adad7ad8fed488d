"""What a Prefect server and an OpenLineage client hear of a step that commits and of one that fails."""

import asyncio
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from made_run import made_config, make_run
from place import speaking_to
from prefect import flow, task

from fem_core.audit.lineage import find
from fem_core.errors import FemError
from fem_core.store import layout
from fem_core.store.store import Store
from tasks import step

pytestmark = pytest.mark.slow


@task(name="filter", on_failure=[step.failed])
async def again(run: step.Run, todo: step.Work, fails: bool) -> str:
    assert await step.find(run, todo) is None
    if fails:
        raise FemError("No rationale. Try hints.")
    files = [run.store.write_bytes(todo.artifact, "part-00000.parquet", b"rows")]
    committed = await step.commit(run, todo.manifest(files, step.now(), stats={}))
    return committed.prefect["task_run"]


@flow(name="fem")
async def twice(run: step.Run, todo: step.Work) -> tuple[str, str]:
    failed = await again(run, todo, True, return_state=True)
    return str(failed.state_details.task_run_id), await again(run, todo, False)


def asset_events(api: str, key: str) -> list[dict[str, Any]]:
    body = {"filter": {"event": {"prefix": ["prefect.asset."]}, "resource": {"id": [key]}}}
    request = urllib.request.Request(
        f"{api}/events/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    for _ in range(60):
        with urllib.request.urlopen(request, timeout=10) as answer:
            if found := json.load(answer)["events"]:
                return list(found)
        time.sleep(0.5)
    return []


def test_a_commit_and_a_failure_reach_prefect_and_openlineage(
    tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    manifest = find(store, "made@1/rationales")
    store.root.remove(f"{manifest.artifact}/{layout.MANIFEST}")
    store.root.remove(f"{manifest.artifact}/part-00000.parquet")
    run = step.Run(name="made", config=made_config(), store=store, cache=tmp_path)
    made = manifest.step
    todo = step.Work(manifest.kind, manifest.artifact, made.name, made.version, made.config, tuple(manifest.inputs))
    told = tmp_path / "events.jsonl"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(told))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    with speaking_to(prefect_server):
        failed, committed = asyncio.run(twice(run, todo))

    found = [json.loads(line) for line in told.read_text().splitlines()]
    assert [(event["eventType"], event["run"]["runId"]) for event in found] == [
        ("START", failed),
        ("FAIL", failed),
        ("START", committed),
        ("COMPLETE", committed),
    ]
    assert found[1]["run"]["facets"]["errorMessage"]["message"] == "No rationale. Try hints."
    assert {event["job"]["name"] for event in found} == {"fem.filter"}

    key = f"file://{tmp_path}/store/{manifest.artifact}"
    (materialized,) = asset_events(prefect_server, key)
    assert materialized["event"] == "prefect.asset.materialization.succeeded"
    related = {entry["prefect.resource.id"]: entry["prefect.resource.role"] for entry in materialized["related"]}
    for ref in manifest.inputs:
        assert related[f"file://{tmp_path}/store/{ref.artifact}"] == "asset"
    assert related[f"prefect.task-run.{committed}"] == "task-run"
    (referenced, *_) = asset_events(prefect_server, f"file://{tmp_path}/store/{manifest.inputs[0].artifact}")
    assert referenced["event"] == "prefect.asset.referenced"
