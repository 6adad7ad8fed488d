"""Old manifests: the golden store of each version stays readable, with every digest it had."""

import json
from pathlib import Path

import pytest

from fem_core.errors import FemError
from fem_core.schemas import SCHEMA_VERSION
from fem_core.store.manifest import read_manifest
from fem_core.store.migrations import STEPS, migrate
from fem_core.store.store import Store

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
