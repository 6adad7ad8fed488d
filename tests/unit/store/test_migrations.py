"""Old manifests: the golden store of each version stays readable, with every digest it had."""

import json
from pathlib import Path

import pytest

from fem_core.config_files import parse_config
from fem_core.errors import FemError
from fem_core.schemas import SCHEMA_VERSION
from fem_core.store.manifest import Manifest, read_manifest
from fem_core.store.migrations import STEPS, migrate
from fem_core.store.store import Store
from tasks import evaluate, prepare, sample, train
from tasks import filter as filter_task

GOLDEN = Path(__file__).parents[2] / "golden"


def test_there_is_a_step_from_every_version_and_a_golden_store_of_each() -> None:
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))
    assert {folder.name for folder in GOLDEN.iterdir()} == {f"store-v{version}" for version in STEPS}


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_a_golden_store_reads_whole_and_verified(folder: Path) -> None:
    store = Store.open(str(folder), check=False)
    files = sorted((folder / "runs" / "made").rglob("_manifest.json"))
    assert len(files) == 18
    for file in files:
        manifest = store.manifest(str(file.parent.relative_to(folder)))
        assert manifest is not None and manifest.schema_version == SCHEMA_VERSION
        assert manifest.digest == json.loads(file.read_text())["digest"]
        store.verify(manifest)
    attempts = store.manifest("runs/made/iteration=002/attempts")
    assert attempts is not None and store.read_table(attempts).num_rows == attempts.stats["draws"]
    assert [record.name for record in store.runs()] == ["made"]


def test_a_newer_manifest_is_refused_with_a_way_out() -> None:
    text = json.dumps({"schema_version": SCHEMA_VERSION + 1}).encode()
    with pytest.raises(FemError, match=f"schema version {SCHEMA_VERSION + 1}.*Read it with the newer version"):
        read_manifest(text, "here")


def test_a_migration_changes_nothing_but_the_form() -> None:
    values = {"schema_version": 1, "kind": "x"}
    assert migrate(values, "here") == {"schema_version": SCHEMA_VERSION, "kind": "x", "source": None}
    assert values == {"schema_version": 1, "kind": "x"}


@pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)
def test_a_run_made_before_keeps_its_digest_and_step_keys(folder: Path) -> None:
    """Fields that came later take no part at their defaults, so such a run can be resumed."""
    store = Store.open(str(folder), check=False)
    record = store.run("made")
    assert record is not None
    config = parse_config({**record.config, "problems": {**record.config["problems"], "path": "sums.jsonl"}})
    assert config.digest() == record.digest

    def made(artifact: str) -> Manifest:
        found = store.manifest(f"runs/made/{artifact}")
        assert found is not None
        return found

    train_set, test_set, model = made("problems/train"), made("problems/test"), made("model")
    attempts, rationales = made("iteration=001/attempts"), made("iteration=001/rationales")
    keys = {
        "prompts": prepare.prompts_work("made", config, train_set, test_set, model),
        "iteration=001/attempts": sample.work("made", config, 1, train_set, model),
        "iteration=001/rationales": filter_task.work("made", config, 1, "rationales", train_set, attempts),
        "iteration=001/checkpoint": train.work("made", config, 1, rationales, model),
        "iteration=000/predictions": evaluate.predictions_there(store, record, "made", config, 0, test_set, model, 0),
    }
    assert {name: work.key for name, work in keys.items()} == {name: made(name).step.key for name in keys}
