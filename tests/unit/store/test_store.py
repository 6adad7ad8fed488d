"""Artifacts and runs: data first, manifest last, first writer wins, one configuration per run."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from fem_core.digest import digest, step_key
from fem_core.errors import Corrupt, FemError, StoreConflict
from fem_core.schemas import SCHEMA_VERSION
from fem_core.store.manifest import RunRecord
from fem_core.store.store import Store

ARTIFACT = "runs/demo/iteration=001/attempts"
KEY = "a" * 64


def test_a_reader_sees_no_artifact_before_its_manifest(store: Store, table: pa.Table, make_manifest) -> None:
    manifest = make_manifest(ARTIFACT, [])
    record = store.write_table(ARTIFACT, "part-00000.parquet", table, manifest.step.key)
    assert store.manifest(ARTIFACT) is None
    assert store.find(ARTIFACT, manifest.step.key) is None

    manifest = store.commit(make_manifest(ARTIFACT, [record]))
    assert store.find(ARTIFACT, manifest.step.key) == manifest
    assert store.read_table(manifest).equals(table)


def test_a_manifest_whose_data_is_missing_or_short_is_not_committed(
    store: Store, table: pa.Table, make_manifest
) -> None:
    record = store.write_table(ARTIFACT, "part-00000.parquet", table, KEY)
    missing = record.model_copy(update={"path": "part-00001.parquet"})
    short = record.model_copy(update={"bytes": record.bytes + 1})
    for files, said in ([record, missing], "part-00001.parquet should have .* and is missing"), ([short], "and has"):
        with pytest.raises(Corrupt, match=said):
            store.commit(make_manifest(ARTIFACT, files))
    assert store.manifest(ARTIFACT) is None


def test_of_many_committers_one_wins_and_all_return_its_manifest(store: Store, make_manifest) -> None:
    def commit(n: int):
        record = store.write_bytes(ARTIFACT, f"draw-{n}.json", str(n).encode())
        return store.commit(make_manifest(ARTIFACT, [record], stats={"n": n}))

    with ThreadPoolExecutor(64) as pool:
        returned = list(pool.map(commit, range(64)))
    kept = store.manifest(ARTIFACT)
    assert kept is not None
    assert returned == [kept] * 64


def test_a_full_disk_leaves_nothing_half_written_and_loses_nothing(
    local: Store, table: pa.Table, make_manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = local.write_table(ARTIFACT, "part-00000.parquet", table, KEY)
    before = local.root.files("runs")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("fem_core.store.local.os.fsync", full)
        for write in (
            lambda: local.write_table(ARTIFACT, "part-00001.parquet", table, KEY),
            lambda: local.write_bytes(ARTIFACT, "scores.json", b"{}"),
            lambda: local.commit(make_manifest(ARTIFACT, [first])),
        ):
            with pytest.raises(OSError, match="No space left"):
                write()
    assert local.root.files("runs") == before
    assert local.manifest(ARTIFACT) is None
    second = local.write_table(ARTIFACT, "part-00001.parquet", table, KEY)
    assert local.commit(make_manifest(ARTIFACT, [first, second])).files == [first, second]


def test_a_digest_that_is_not_that_of_the_files_is_not_committed(store: Store, make_manifest) -> None:
    with pytest.raises(ValueError, match="another digest"):
        store.commit(make_manifest(ARTIFACT, [], digest="0" * 64))


def test_a_value_that_has_no_stable_form_is_not_committed(store: Store, make_manifest) -> None:
    for stats, said in (({"loss": float("nan")}, r"stats\.loss is nan"), ({"ids": {1, 2}}, r"stats\.ids is a set")):
        with pytest.raises(TypeError, match=said):
            store.commit(make_manifest(ARTIFACT, [], stats=stats))
    assert store.manifest(ARTIFACT) is None


def test_another_step_key_is_a_conflict_that_lists_what_differs(store: Store, make_manifest) -> None:
    old = store.commit(make_manifest(ARTIFACT, []))
    new = make_manifest(ARTIFACT, [], config={"sample": {"temperature": 0.7}}, inputs={"problems": "e" * 64})
    with pytest.raises(StoreConflict) as conflict:
        store.find(ARTIFACT, new.step.key, step=new.step, inputs=new.inputs)
    said = str(conflict.value)
    assert ARTIFACT in said and old.step.key[:12] in said and new.step.key[:12] in said
    assert "sample.temperature: 1.0 -> 0.7" in said
    assert 'input problems: "dddddddddddd" -> "eeeeeeeeeeee"' in said
    assert "--run NAME" in said
    with pytest.raises(StoreConflict, match=r"sample\.temperature: 1\.0 -> 0\.7"):
        store.commit(new)
    assert store.manifest(ARTIFACT) == old


def test_a_manifest_of_a_newer_program_is_refused(store: Store, make_manifest) -> None:
    store.commit(make_manifest(ARTIFACT, [], schema_version=SCHEMA_VERSION, stats={"x": 1}))
    path = f"{ARTIFACT}-new"
    text = (
        make_manifest(path, [])
        .model_dump_json()
        .replace(f'"schema_version":{SCHEMA_VERSION}', '"schema_version":99,"news":true')
    )
    store.write_bytes(path, "_manifest.json", text.encode())
    with pytest.raises(
        FemError, match=r"has schema version 99, and this program reads versions up to \d+\. Read it with"
    ):
        store.manifest(path)


def test_a_part_that_is_there_stays_and_its_record_is_returned(store: Store, table: pa.Table) -> None:
    first = store.write_table(ARTIFACT, "part-00000.parquet", table, KEY)
    again = store.write_table(ARTIFACT, "part-00000.parquet", table.slice(1), KEY)
    assert again == first
    assert store.parts(ARTIFACT, KEY) == {"part-00000.parquet": first}


def test_all_parts_come_by_name_with_the_record_that_writing_gave(store: Store, table: pa.Table) -> None:
    written = {
        name: store.write_table(ARTIFACT, name, table.slice(n % 3), KEY)
        for n, name in enumerate(f"part-{n:05d}.parquet" for n in range(9))
    }
    found = store.parts(ARTIFACT, KEY)
    assert found == written and list(found) == sorted(written)


def test_the_artifacts_of_a_run_are_those_with_a_manifest_in_path_order(store: Store, make_manifest) -> None:
    places = ["runs/demo/iteration=001/scores", "runs/demo/model", "runs/demo/iteration=000/scores"]
    for place in places:
        store.commit(make_manifest(place, [store.write_bytes(place, "scores.json", b"{}")]))
    store.write_bytes("runs/demo/iteration=002/scores", "scores.json", b"unfinished")
    store.write_bytes("runs/demo/model", "hub/_manifest.json", b"a file of the model's own")
    store.create_run(RUN)
    assert [manifest.artifact for manifest in store.artifacts("demo")] == sorted(places)


def test_a_part_of_another_step_key_is_a_conflict(store: Store, table: pa.Table) -> None:
    store.write_table(ARTIFACT, "part-00000.parquet", table, KEY)
    with pytest.raises(
        StoreConflict, match=r"part-00000\.parquet was written for step key aaaaaaaaaaaa.*is bbbbbbbbbbbb"
    ):
        store.write_table(ARTIFACT, "part-00000.parquet", table, "b" * 64)
    with pytest.raises(StoreConflict, match="--run NAME"):
        store.parts(ARTIFACT, "b" * 64)


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_a_damaged_part_is_found_before_a_manifest_vouches_for_it(local: Store, damage: str) -> None:
    table = pa.table({"text": ["It is Paris."]})  # so short that compression leaves it readable: the flip parses well
    local.write_table(ARTIFACT, "part-00000.parquet", table, KEY)
    file = Path(local.url) / ARTIFACT / "part-00000.parquet"
    data = bytearray(file.read_bytes())
    if damage == "torn":
        data = data[: len(data) // 2]
    else:
        data[data.index(b"Paris")] ^= 1
    file.write_bytes(data)
    with pytest.raises(Corrupt, match=r"part-00000\.parquet is not a whole parquet file"):
        local.parts(ARTIFACT, KEY)


def test_the_same_table_and_key_give_the_same_file_and_key_under_two_roots(tmp_path: Path, table: pa.Table) -> None:
    keys, files = set(), set()
    for root in (str(tmp_path / "one"), "memory://two-roots"):
        store = Store.open(root)
        record = store.write_table(ARTIFACT, "part-00000.parquet", table, KEY)
        files.add(record)
        keys.add(step_key("filter", 1, {"min": 0}, {"attempts": digest([record.path, record.sha256])}))
    assert len(keys) == len(files) == 1


def test_other_readers_take_the_parts_and_nothing_else(local: Store, table: pa.Table, make_manifest) -> None:
    record = local.write_table(ARTIFACT, "part-00000.parquet", table, KEY)
    local.commit(make_manifest(ARTIFACT, [record]))
    (Path(local.url) / ARTIFACT / ".tmp-left").write_bytes(b"torn")
    found = pyarrow.dataset.dataset(f"{local.url}/runs", format="parquet", partitioning="hive").to_table()
    assert found.select(table.column_names).equals(table)
    assert set(found.column("iteration").to_pylist()) == {1}


def test_bytes_of_a_crashed_try_are_replaced_and_those_of_a_finished_one_stay(store: Store, make_manifest) -> None:
    store.write_bytes(ARTIFACT, "scores.json", b"crashed try")
    record = store.write_bytes(ARTIFACT, "scores.json", b"second try")
    manifest = store.commit(make_manifest(ARTIFACT, [record]))
    assert store.write_bytes(ARTIFACT, "scores.json", b"second try") == record
    with pytest.raises(StoreConflict, match=r"scores\.json is finished"):
        store.write_bytes(ARTIFACT, "scores.json", b"third try")
    assert store.read_bytes(manifest, "scores.json") == b"second try"


RUN = RunRecord(
    name="demo",
    config={"scheme": {"name": "pps", "budget": 1}, "seed": 0},
    digest="1" * 64,
    created="2026-01-01T00:00:00Z",
    places={"store": "https://me:hunter2@host/path?sig=hunter2", "model": "/models/m"},
    parent=None,
)


def test_a_run_is_created_once_and_found_again(store: Store) -> None:
    assert store.run("demo") is None and store.runs() == []
    assert store.create_run(RUN) == RUN
    assert store.create_run(RUN.model_copy(update={"created": "later"})) == RUN
    assert store.run("demo") == RUN
    store.create_run(RUN.model_copy(update={"name": "another"}))
    assert [run.name for run in store.runs()] == ["another", "demo"]


def test_a_run_of_the_same_name_with_another_configuration_lists_each_difference(store: Store) -> None:
    store.create_run(RUN)
    other = {"scheme": {"name": "rs", "budget": 4}, "seed": 0}
    with pytest.raises(StoreConflict) as conflict:
        store.create_run(RUN.model_copy(update={"config": other, "digest": "2" * 64}))
    said = str(conflict.value)
    assert 'scheme.budget: 1 -> 4; scheme.name: "pps" -> "rs"' in said and "seed" not in said and "--run NAME" in said


def test_a_run_record_keeps_no_credentials() -> None:
    assert RUN.places == {"store": "https://host/path", "model": "/models/m"}
