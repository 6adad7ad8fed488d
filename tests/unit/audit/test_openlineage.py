import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from made_run import make_run
from prefect.client.schemas.objects import State, StateType, TaskRun

from fem_core.audit import lineage, openlineage
from fem_core.errors import FemError
from fem_core.schemas import RATIONALES
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from tasks import announce, filter, step
from tasks.sample import sample

TASK = str(uuid4())
FLOW = str(uuid4())


@pytest.fixture
def made(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    make_run(store)
    return store


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the real client writes events, one per line, for the lifetime of a test."""
    file = tmp_path / "events.jsonl"
    config = tmp_path / "openlineage.yml"
    config.write_text(f"transport: {{type: file, log_file_path: {file}, append: true}}\n")
    monkeypatch.setenv("OPENLINEAGE_CONFIG", str(config))
    yield file
    announce._open.clear()


def events(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def by_prefect(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"prefect": {"task_run": TASK, "flow_run": FLOW}})


def work_of(manifest: Manifest) -> step.Work:
    made = manifest.step
    return step.Work(manifest.kind, manifest.artifact, made.name, made.version, made.config, tuple(manifest.inputs))


def failure(error: Exception) -> "State[Any]":
    return State(type=StateType.FAILED, message="Task run encountered an exception", data=error)


def task_run(run_id: str) -> TaskRun:
    return TaskRun(id=UUID(run_id), task_key="sample", dynamic_key="0", flow_run_id=UUID(FLOW))


def test_a_lineage_gives_one_complete_event_per_artifact(real_store: Store) -> None:
    manifests = {manifest.artifact: manifest for manifest in make_run(real_store)}
    graph = lineage.up(real_store, lineage.find(real_store, "made@2"))
    found = [json.loads(line) for line in openlineage.lines(graph, "lab")]
    place = real_store.url if "://" in real_store.url else f"file://{real_store.url}"
    assert {event["eventType"] for event in found} == {"COMPLETE"}
    assert len({event["run"]["runId"] for event in found}) == len(found) == 8
    outputs = {}
    for event in found:
        (output,) = event["outputs"]
        outputs[output["name"]] = event
        assert output["namespace"] == place and event["job"]["namespace"] == "lab"
        assert output["facets"]["version"]["datasetVersion"] == manifests[output["name"]].digest
        assert event["eventTime"] == manifests[output["name"]].finished
    filtered = outputs["runs/made/iteration=002/rationales"]
    assert filtered["job"]["name"] == "fem.filter"
    assert filtered["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 10
    fields = filtered["outputs"][0]["facets"]["schema"]["fields"]
    assert [field["name"] for field in fields] == RATIONALES.names
    assert fields[2]["description"] == RATIONALES.field("problem_id").metadata[b"description"].decode()
    inputs = {entry["name"]: entry for entry in filtered["inputs"]}
    attempts = inputs["runs/made/iteration=002/attempts"]
    assert attempts["inputFacets"]["dataQualityMetrics"]["rowCount"] == 13
    assert attempts["facets"]["version"]["datasetVersion"] == manifests[attempts["name"]].digest
    (source,) = outputs["runs/made/problems/train"]["inputs"]
    assert (source["namespace"], source["name"]) == ("lab", "sums.jsonl@555555555555")


def test_a_steps_events_share_the_task_runs_id_and_name_its_flow_run(made: Store, sent: Path) -> None:
    manifest = by_prefect(lineage.find(made, "made@2/attempts"))
    asyncio.run(announce.committed(made, manifest, manifest))
    start, complete = events(sent)
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert (start["eventTime"], complete["eventTime"]) == (manifest.started, manifest.finished)
    for event in (start, complete):
        assert event["run"]["runId"] == TASK
        assert event["run"]["facets"]["parent"]["run"]["runId"] == FLOW
        assert (event["job"]["namespace"], event["job"]["name"]) == ("fem", "fem.sample")
        assert [entry["name"] for entry in event["inputs"]] == [ref.artifact for ref in manifest.inputs]
    assert start["outputs"] == [] and complete["outputs"][0]["name"] == manifest.artifact


def test_each_run_has_one_start_and_one_end_though_a_task_makes_two_artifacts(made: Store, sent: Path) -> None:
    verdicts, rationales = (by_prefect(lineage.find(made, f"made@1/{kind}")) for kind in ("verdicts", "rationales"))
    for manifest in (verdicts, rationales):
        asyncio.run(announce.committed(made, manifest, manifest))
    found = events(sent)
    assert [(event["job"]["name"], event["eventType"]) for event in found] == [
        ("fem.filter.verdicts", "START"),
        ("fem.filter.verdicts", "COMPLETE"),
        ("fem.filter", "START"),
        ("fem.filter", "COMPLETE"),
    ]
    assert [event["run"]["runId"] == TASK for event in found] == [False, False, True, True]
    assert found[0]["run"]["runId"] == found[1]["run"]["runId"]


def test_without_a_task_run_the_run_id_follows_from_the_step_key(made: Store) -> None:
    manifest = lineage.find(made, "made@1/attempts")
    ids = {openlineage.act_of(m, "fem").run_id for m in (manifest, manifest)}
    other = openlineage.act_of(lineage.find(made, "made@2/attempts"), "fem").run_id
    odd = openlineage.act_of(manifest.model_copy(update={"prefect": {"task_run": "local"}}), "fem").run_id
    assert ids == {odd} and other not in ids and UUID(odd).version == 5


def test_a_step_that_began_and_commits_has_one_start(made: Store, sent: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__TASK_RUN__ID", TASK)
    manifest = by_prefect(lineage.find(made, "made@2/attempts"))
    asyncio.run(announce.began(made, work_of(manifest)))
    monkeypatch.delenv("PREFECT__RUNTIME__TASK_RUN__ID")
    asyncio.run(announce.committed(made, manifest, manifest))
    assert [event["eventType"] for event in events(sent)] == ["START", "COMPLETE"]


def test_a_failed_step_ends_what_it_began_with_its_error(made: Store, sent: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__TASK_RUN__ID", TASK)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "lab")
    todo = work_of(lineage.find(made, "made@2/attempts"))
    asyncio.run(announce.began(made, todo))
    asyncio.run(announce.failed(sample, task_run(TASK), failure(FemError("No engine. Start it."))))
    start, fail = events(sent)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert start["run"]["runId"] == fail["run"]["runId"] == TASK
    assert {start["job"]["namespace"], fail["job"]["namespace"]} == {"lab"}
    assert fail["run"]["facets"]["errorMessage"]["message"] == "No engine. Start it."


def test_a_step_that_fails_before_it_begins_starts_and_fails(sent: Path) -> None:
    error = OSError("could not read https://me:secret@host/file")
    asyncio.run(announce.failed(filter.filter_, task_run(TASK), failure(error)))
    start, fail = events(sent)
    assert [(event["job"]["name"], event["eventType"]) for event in (start, fail)] == [
        ("fem.filter", "START"),
        ("fem.filter", "FAIL"),
    ]
    assert fail["run"]["facets"]["errorMessage"]["message"] == "OSError: could not read https://host/file"


def test_what_another_process_committed_first_is_not_told_as_ours(made: Store, sent: Path) -> None:
    winner = lineage.find(made, "made@2/attempts")
    asyncio.run(announce.committed(made, by_prefect(winner), winner))
    assert [(event["eventType"], event["outputs"]) for event in events(sent)] == [("START", []), ("ABORT", [])]


@pytest.mark.parametrize("disabled", [False, True])
def test_nothing_is_sent_or_imported_when_nobody_asks(
    made: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disabled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if disabled:
        monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
        monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openlineage"]:
        monkeypatch.delitem(sys.modules, name)
    manifest = lineage.find(made, "made@2/attempts")

    async def all_three() -> None:
        await announce.began(made, work_of(manifest))
        await announce.committed(made, manifest, manifest)
        await announce.failed(sample, task_run(TASK), failure(FemError("no")))

    asyncio.run(all_three())
    assert not [name for name in sys.modules if name.partition(".")[0] == "openlineage"]
    assert not caplog.records


def test_a_server_that_does_not_answer_is_a_warning_without_secrets(
    made: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {
        "OPENLINEAGE__TRANSPORT__TYPE": "http",
        "OPENLINEAGE__TRANSPORT__URL": "http://me:secret@127.0.0.1:9",
        "OPENLINEAGE__TRANSPORT__RETRY": '{"total": 0}',
    }.items():
        monkeypatch.setenv(name, value)
    manifest = lineage.find(made, "made@2/attempts")
    monkeypatch.setattr(logging.getLogger("prefect"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        asyncio.run(announce.committed(made, manifest, manifest))
    announce._open.clear()
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "no.such.secret")
    with caplog.at_level(logging.WARNING):
        asyncio.run(announce.committed(made, manifest, manifest))
    announce._open.clear()
    told = [record.getMessage() for record in caplog.records if record.name == "prefect.fem"]
    assert len(told) == 4 and all("fem.sample could not be sent" in text for text in told)
    assert not any("secret" in text for text in told)


def test_places_are_uris_without_credentials_and_asset_keys_are_what_prefect_takes() -> None:
    from prefect.assets import Asset

    assert openlineage.place("https://me:secret@host/store?token=1") == "https://host/store"
    assert openlineage.place("s3://bucket/prefix/") == "s3://bucket/prefix"
    key = announce.asset_key("/home/my store", "runs/demo/iteration=003/attempts")
    assert Asset(key=key).key == "file:///home/my_store/runs/demo/iteration=003/attempts"
