"""theta^(0) from another run's checkpoint: ``init: run:<name>@latest``."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_run import made_config, problems_of

from fem_core.audit.audit import audit
from fem_core.audit.lineage import find, up
from fem_core.config_files import parse_config
from fem_core.errors import FemError, StoreConflict
from fem_core.initial import base_model, recorded, teachers
from fem_core.problems.problem import to_table
from fem_core.store import collect, layout
from fem_core.store.copy import plans
from fem_core.store.deletion import mark
from fem_core.store.manifest import FileRecord, InputRef, Manifest, artifact_digest
from fem_core.store.store import Store
from tasks import prepare, step


def model_folder(folder: Path, weights: bytes) -> Path:
    """What can be told from a model's files without loading it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def trained(store: Store, tmp_path: Path, name: str, created: str, *iterations: int, init: str | None = None) -> None:
    """A run with these checkpoints, as far as those who begin with one of them look at it."""
    config = made_config(name, model={"source": str(tmp_path / "base")}, init=init)
    record = prepare.run_record(name, config).model_copy(update={"created": created})
    store.create_run(record)
    model(store, tmp_path, name, config)
    table = to_table(problems_of(range(10)))
    todo = prepare.problems_work(name, config, "train", ())
    file = store.write_table(todo.artifact, layout.part_name(0), table, todo.key)
    store.commit(todo.manifest([file], step.now(), stats={"problems": 10}))
    for k in iterations:
        folder = model_folder(tmp_path / f"{name}-{k}", f"weights of {name}@{k}".encode())
        (folder / "fem_probe.json").write_text("{}")
        done = step.Work("checkpoint", layout.iteration(name, k, "checkpoint"), "train", 1, {"iteration": k}, ())
        store.commit(done.manifest(store.put_directory(done.artifact, folder), step.now(), stats={}))


def model(store: Store, tmp_path: Path, name: str, config: Any) -> Manifest:
    """What prepare commits as the run's base model."""
    if not (tmp_path / "base").exists():
        model_folder(tmp_path / "base", b"base")
    here, init = base_model(config, store, name, None, tmp_path / "cache")
    todo = prepare.model_work(name, config, init)
    return store.commit(todo.manifest(prepare.model_files(here), step.now(), stats={}, location=here.name))


def begun(store: Store, tmp_path: Path, name: str, init: str, **changes: Any) -> tuple[str, InputRef | None]:
    """What a run with this ``init`` begins with."""
    config = made_config(name, model={"source": str(tmp_path / "base")}, init=init, **changes)
    here, ref = base_model(config, store, name, store.run(name), tmp_path / "cache")
    return here.name, ref


def test_the_latest_checkpoint_of_the_newest_run_that_matches_is_taken(store: Store, tmp_path: Path) -> None:
    trained(store, tmp_path, "nightly-1", "2026-01-01", 1, 2)
    trained(store, tmp_path, "nightly-2", "2026-01-02", 1)
    trained(store, tmp_path, "nightly-3", "2026-01-03")
    trained(store, tmp_path, "other", "2026-01-04", 1, 2)
    name, ref = begun(store, tmp_path, "nightly-4", "run:nightly-*@latest")
    assert name == "run:nightly-2@1" and ref is not None and ref.artifact == "runs/nightly-2/iteration=001/checkpoint"
    assert begun(store, tmp_path, "new", "run:nightly-1@latest")[0] == "run:nightly-1@2"
    assert begun(store, tmp_path, "new", "run:nightly-1@1")[0] == "run:nightly-1@1"
    mark(store, "nightly-2")
    assert begun(store, tmp_path, "nightly-4", "run:nightly-*@latest")[0] == "run:nightly-1@2"


def test_the_first_run_of_a_series_begins_with_the_model_and_a_name_alone_must_be_there(
    store: Store, tmp_path: Path
) -> None:
    model_folder(tmp_path / "base", b"base")
    assert begun(store, tmp_path, "nightly-1", "run:nightly-*@latest") == (str(tmp_path / "base"), None)
    with pytest.raises(
        FemError, match=r"'run:nobody@latest', and .* has no checkpoint yet of that run. Runs here: none"
    ):
        begun(store, tmp_path, "new", "run:nobody@latest")


def test_a_run_keeps_what_it_began_with(store: Store, tmp_path: Path) -> None:
    trained(store, tmp_path, "n-1", "2026-01-01", 1)
    trained(store, tmp_path, "n-2", "2026-01-02", 1, init="run:n-*@latest")
    trained(store, tmp_path, "n-3", "2026-01-03", 1)
    assert begun(store, tmp_path, "n-2", "run:n-*@latest")[0] == "run:n-1@1"
    assert begun(store, tmp_path, "n-1", "run:n-*@latest") == (str(tmp_path / "base"), None)
    store.root.remove("runs/n-1/iteration=001/checkpoint/_manifest.json")
    with pytest.raises(
        StoreConflict, match=r"began with runs/n-1/iteration=001/checkpoint .* which is not in the store"
    ):
        begun(store, tmp_path, "n-2", "run:n-*@latest")


def test_where_it_began_is_its_lineage(store: Store, tmp_path: Path) -> None:
    trained(store, tmp_path, "n-1", "2026-01-01", 1)
    trained(store, tmp_path, "n-2", "2026-01-02", 1, init="run:n-*@latest")
    trained(store, tmp_path, "n-3", "2026-01-03", init="run:n-*@latest")
    base = find(store, "runs/n-3/model")
    assert recorded(base) is not None and base.location == "run:n-2@1"
    edges = {(edge.input.split("@")[0], edge.role) for edge in up(store, base).edges}
    assert ("runs/n-2/iteration=001/checkpoint", "init") in edges
    assert list(teachers(store, store.run("n-3"), recorded(base))) == ["n-2", "n-1"]
    with pytest.raises(FemError, match=r"^2 of the 2 test problems are training problems of the run"):
        prepare.refuse_seen(store, store.run("n-3"), problems_of(range(2)), recorded(base))
    prepare.refuse_seen(store, store.run("n-3"), problems_of(range(50, 52)), recorded(base))


def test_weights_that_are_not_the_checkpoints_are_found_by_the_audit(store: Store, tmp_path: Path) -> None:
    trained(store, tmp_path, "n-1", "2026-01-01", 1)
    trained(store, tmp_path, "n-2", "2026-01-02", init="run:n-1@1")
    here = "the same file of runs/n-1/iteration=001/checkpoint"

    def told() -> bool:
        return any(finding.what == here for finding in audit(store, "n-2", cache=tmp_path / "cache").broken)

    assert not told()
    place = "runs/n-2/model/_manifest.json"
    values = json.loads(store.root.read(place))
    (file,) = (one for one in values["files"] if one["path"] == "model.safetensors")
    file["sha256"] = "0" * 64
    values["digest"] = artifact_digest("model", [FileRecord(**one) for one in values["files"]])
    store.root.replace(place, json.dumps(values).encode())
    assert told()


def test_the_files_stay_that_a_later_run_began_with(store: Store, tmp_path: Path) -> None:
    trained(store, tmp_path, "n-1", "2026-01-01", 1)
    trained(store, tmp_path, "n-2", "2026-01-02", init="run:n-1@1")
    mark(store, "n-1")
    weights = "runs/n-1/iteration=001/checkpoint/model.safetensors"

    def doomed() -> set[str]:
        rules = collect.Rules(now=4e9, grace=1.0)
        return {one.path for one in collect.plan(collect.look(store), rules).doomed}

    assert weights not in doomed() and "runs/n-1/problems/train/part-00000.parquet" in doomed()
    mark(store, "n-2")
    assert weights in doomed()


def test_a_copy_with_parents_takes_along_what_a_run_began_with(store: Store, tmp_path: Path) -> None:
    trained(store, tmp_path, "n-1", "2026-01-01", 1)
    trained(store, tmp_path, "n-2", "2026-01-02", init="run:n-1@1")
    target = Store.open(str(tmp_path / "target"))
    found = [plan.record.name for plan in plans(store, target, "n-2", with_parents=True)]
    assert found == ["n-1", "n-2"]
    with pytest.raises(FemError, match=r"^The run 'n-2' refers to 'n-1', .* or all together with --with-parents\.$"):
        plans(store, target, "n-2")  # alone there, it could not go on, and its audit would miss its first weights


@pytest.mark.parametrize("wrong", ["nightly@latest", "run:nightly", "run:../x@latest", "run:a@0", "run:@latest"])
def test_another_form_is_refused(wrong: str) -> None:
    with pytest.raises(FemError, match="init: "):
        parse_config({"problems": {"source": "table", "path": "x.jsonl", "test": 1}, "init": wrong})


def test_without_init_a_configuration_keeps_its_digest() -> None:
    assert "init" not in made_config().identity() and "init" in made_config(init="run:a@latest").identity()
