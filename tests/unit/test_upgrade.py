"""A run that an older version began, under this one: it goes on, or one sentence says why not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_run import made_config
from prefect.exceptions import ParameterTypeError

from fem_core.config_files import parse_config
from fem_core.errors import StoreConflict
from fem_core.store import layout
from fem_core.store.store import Store
from flows.commands.resume import recorded_config, with_overrides
from flows.fem import fem
from tasks import sample, step

GOLDEN = Path(__file__).parents[1] / "golden" / "store-v1"


def test_parameters_of_an_older_deployment_are_the_same_run() -> None:
    """A deployment keeps what was written; fields that came later have values that mean what was done before."""
    record = json.loads((GOLDEN / "runs" / "made" / "run.json").read_text())
    written = with_overrides(record["config"], record["places"], ())
    kept = fem.validate_parameters({"config": written})["config"]
    assert kept.digest() == record["digest"]
    assert recorded_config("made", str(GOLDEN), ()).digest() == record["digest"]


def test_a_step_of_another_version_is_named_with_the_way_out(made_folder: Path) -> None:
    store = Store.open(str(made_folder), check=False)
    problems, model = store.manifest(layout.problems("made", "train")), store.manifest(layout.model("made"))
    assert problems is not None and model is not None
    todo = sample.work("made", made_config(), 1, problems, model)
    found = store.find(todo.artifact, todo.key, step=todo.record(), inputs=todo.inputs)
    assert found is not None, "the version that made it finds it"
    newer: step.Work = replace(todo, version=todo.version + 1)
    with pytest.raises(StoreConflict) as refused:
        store.find(newer.artifact, newer.key, step=newer.record(), inputs=newer.inputs)
    said = str(refused.value)
    assert f"version: {todo.version} -> {todo.version + 1}" in said and "--run" in said


def test_a_parameter_that_this_version_does_not_know_is_named() -> None:
    config = parse_config({"problems": {"source": "table", "path": "x.jsonl", "test": 1}}).model_dump(mode="json")
    config["train"]["sharpness"] = 1
    with pytest.raises(ParameterTypeError, match=r"config\.train\.sharpness"):
        fem.validate_parameters({"config": config})
