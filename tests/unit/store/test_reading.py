"""What is read is what was recorded, or Corrupt names the file."""

import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from fem_core.digest import digest_file
from fem_core.errors import Corrupt, FemError
from fem_core.store import reading, tables
from fem_core.store.manifest import FileRecord
from fem_core.store.store import Store

ARTIFACT = "runs/demo/iteration=001/checkpoint"
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def nothing_verified_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_verified", set())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    (folder / "nested").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "nested" / "config.json").write_text("{}")
    (folder / "_manifest.json").write_text("not one of ours")
    return folder


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)


def test_tables_come_in_path_order_with_the_columns_asked_for(store: Store, table: pa.Table, make_manifest) -> None:
    records = [store.write_table(ARTIFACT, f"part-0000{n}.parquet", table.slice(n, 1), "k" * 64) for n in (2, 0, 1)]
    manifest = store.commit(make_manifest(ARTIFACT, records))
    assert store.read_table(manifest).equals(table)
    assert [one.num_rows for one in store.iter_tables(manifest)] == [1, 1, 1]
    assert store.read_table(manifest, columns=["attempt"]).equals(table.select(["attempt"]))


def test_a_flipped_byte_in_a_part_names_the_file(local: Store, table: pa.Table, make_manifest) -> None:
    manifest = local.commit(
        make_manifest(ARTIFACT, [local.write_table(ARTIFACT, "part-00000.parquet", table, "k" * 64)])
    )
    _flip(Path(local.url) / ARTIFACT / "part-00000.parquet")
    with pytest.raises(Corrupt, match=r"part-00000\.parquet does not hold what its manifest records.*run again"):
        local.read_table(manifest)
    with pytest.raises(Corrupt, match=r"part-00000\.parquet"):
        local.verify(manifest)


def test_tables_before_a_damaged_part_are_read_and_the_damaged_one_is_never_handed_out(
    local: Store, table: pa.Table, make_manifest
) -> None:
    records = [local.write_table(ARTIFACT, f"part-0000{n}.parquet", table.slice(n, 1), "k" * 64) for n in range(3)]
    manifest = local.commit(make_manifest(ARTIFACT, records))
    _flip(Path(local.url) / ARTIFACT / "part-00001.parquet")
    tables = local.iter_tables(manifest)
    assert next(tables).equals(table.slice(0, 1))
    with pytest.raises(Corrupt, match=r"part-00001\.parquet does not hold"):
        next(tables)


def test_few_tables_are_made_ready_ahead_of_the_one_in_use(
    local: Store, table: pa.Table, make_manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [local.write_table(ARTIFACT, f"part-0000{n}.parquet", table, "k" * 64) for n in range(9)]
    manifest = local.commit(make_manifest(ARTIFACT, records))
    read_file, fetched = reading.read_file, []

    def noted(root, manifest, record):
        fetched.append(record.path)
        return read_file(root, manifest, record)

    monkeypatch.setattr(reading, "read_file", noted)
    for used, _ in enumerate(local.iter_tables(manifest)):
        assert len(fetched) <= used + 3
    assert sorted(fetched) == [record.path for record in records]


def test_one_table_is_made_at_a_time_and_in_the_callers_thread(
    local: Store, make_manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that come and go would each leave in Arrow's allocator what they freed: memory would grow with the rows."""
    table = pa.table({"text": [f"{n:01000d}" for n in range(4000)]})
    records = [local.write_table(ARTIFACT, f"part-0000{n}.parquet", table, "k" * 64) for n in range(6)]
    manifest = local.commit(make_manifest(ARTIFACT, records))
    read_file, decode, fetched, threads = reading.read_file, tables.decode, [], []

    def noted(root, manifest, record):
        data = read_file(root, manifest, record)
        fetched.append(record.path)
        return data

    def made(data, columns=None):
        threads.append(threading.get_ident())
        return decode(data, columns)

    monkeypatch.setattr(reading, "read_file", noted)
    monkeypatch.setattr(tables, "decode", made)
    before = pa.total_allocated_bytes()
    for used, one in enumerate(local.iter_tables(manifest), start=1):
        deadline = time.monotonic() + 10
        while len(fetched) < min(used + 2, 6) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(fetched) >= min(used + 2, 6), "the next files are read meanwhile"
        # Arrow's own threads may give back what they decompressed a moment later.
        while pa.total_allocated_bytes() - before >= 2.5 * one.nbytes and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pa.total_allocated_bytes() - before < 2.5 * one.nbytes, "the table in use, and the one before it"
        assert len(threads) == used
    assert set(threads) == {threading.get_ident()}


def test_a_directory_is_stored_whole_without_a_manifest_of_its_own(
    store: Store, checkpoint: Path, make_manifest
) -> None:
    records = store.put_directory(ARTIFACT, checkpoint)
    assert [record.path for record in records] == ["model.safetensors", "nested/config.json"]
    assert store.manifest(ARTIFACT) is None
    manifest = store.commit(make_manifest(ARTIFACT, records))
    assert store.read_bytes(manifest, "model.safetensors") == WEIGHTS


def test_a_local_folder_holds_exactly_the_files(store: Store, checkpoint: Path, make_manifest, tmp_path: Path) -> None:
    manifest = store.commit(make_manifest(ARTIFACT, store.put_directory(ARTIFACT, checkpoint)))
    for _ in range(2):
        folder = store.local_dir(manifest, tmp_path / "cache")
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert (folder / "nested/config.json").read_text() == "{}"
    assert (folder == tmp_path / "cache" / manifest.digest) == ("://" in store.url)
    assert not list((tmp_path / "cache").glob(".tmp-*"))


def test_a_flipped_byte_in_a_checkpoint_names_the_file(
    local: Store, checkpoint: Path, make_manifest, tmp_path: Path
) -> None:
    manifest = local.commit(make_manifest(ARTIFACT, local.put_directory(ARTIFACT, checkpoint)))
    _flip(Path(local.url) / ARTIFACT / "model.safetensors")
    with pytest.raises(Corrupt, match=r"model\.safetensors does not hold"):
        local.local_dir(manifest, tmp_path / "cache")


def test_a_damaged_cache_is_found_and_the_message_says_which_folder_to_delete(
    checkpoint: Path, make_manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open("memory://damaged-cache")
    manifest = store.commit(make_manifest(ARTIFACT, store.put_directory(ARTIFACT, checkpoint)))
    folder = store.local_dir(manifest, tmp_path / "cache")
    _flip(folder / "model.safetensors")
    monkeypatch.setattr(reading, "_verified", set())
    with pytest.raises(Corrupt, match=rf"model\.safetensors is damaged\. Delete the folder {folder}"):
        store.local_dir(manifest, tmp_path / "cache")


def test_a_directory_put_again_after_a_crash_replaces_what_was_left(
    store: Store, checkpoint: Path, make_manifest, tmp_path: Path
) -> None:
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    (crashed / "model.safetensors").write_bytes(b"other weights")
    (crashed / "adapter.safetensors").write_bytes(b"a file that the second try does not have")
    store.put_directory(ARTIFACT, crashed)

    manifest = store.commit(make_manifest(ARTIFACT, store.put_directory(ARTIFACT, checkpoint)))
    store.put_directory(ARTIFACT, checkpoint)
    folder = store.local_dir(manifest, tmp_path / "cache")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "adapter.safetensors").exists()


def test_a_finished_directory_is_not_touched_by_a_late_writer(
    store: Store, checkpoint: Path, make_manifest, tmp_path: Path
) -> None:
    winner = store.commit(make_manifest(ARTIFACT, store.put_directory(ARTIFACT, checkpoint)))
    late = tmp_path / "late"
    late.mkdir()
    (late / "model.safetensors").write_bytes(b"other weights")
    assert store.commit(make_manifest(ARTIFACT, store.put_directory(ARTIFACT, late))) == winner
    store.verify(winner)


def test_a_writer_that_is_overtaken_writes_no_further_file(
    store: Store, checkpoint: Path, make_manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = tmp_path / "late"
    (late / "nested").mkdir(parents=True)
    (late / "model.safetensors").write_bytes(b"other weights")
    (late / "nested/config.json").write_text("{ }")
    put, winner = store.root.put, []

    def overtaken(path: str, source: Path) -> None:
        put(path, source)
        monkeypatch.setattr(store.root, "put", put)
        winner.append(store.commit(make_manifest(ARTIFACT, store.put_directory(ARTIFACT, checkpoint))))

    monkeypatch.setattr(store.root, "put", overtaken)
    assert store.commit(make_manifest(ARTIFACT, store.put_directory(ARTIFACT, late))) == winner[0]
    store.verify(winner[0])


def test_a_writer_that_has_lost_its_right_writes_no_further_file(store: Store, checkpoint: Path) -> None:
    asked: list[None] = []

    def still() -> None:
        asked.append(None)
        if len(asked) > 1:
            raise FemError("lost")

    with pytest.raises(FemError, match="lost"):
        store.put_directory(ARTIFACT, checkpoint, still)
    assert list(store.root.files(ARTIFACT)) == ["model.safetensors"]


def test_putting_a_folder_again_leaves_no_temporary_files(local: Store, checkpoint: Path) -> None:
    local.put_directory(ARTIFACT, checkpoint)
    local.put_directory(ARTIFACT, checkpoint)
    assert [path.name for path in Path(local.url).rglob(".tmp-*")] == []


def test_an_empty_folder_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FemError, match="holds no files"):
        store.put_directory(ARTIFACT, tmp_path / "nothing")


def test_an_artifact_outside_the_store_is_verified_where_it_lies(
    store: Store, checkpoint: Path, make_manifest, tmp_path: Path
) -> None:
    weights = checkpoint / "model.safetensors"
    record = FileRecord(path=weights.name, bytes=len(WEIGHTS), rows=None, sha256=digest_file(weights))
    manifest = store.commit(make_manifest("runs/demo/model", [record], location=str(checkpoint)))
    assert store.local_dir(manifest, tmp_path / "cache") == checkpoint
    assert store.read_bytes(manifest, "model.safetensors") == WEIGHTS
    _flip(weights)
    with pytest.raises(Corrupt, match=str(weights)):
        store.verify(manifest)
    weights.unlink()
    with pytest.raises(Corrupt, match="is missing"):
        store.verify(manifest)
    with pytest.raises(FemError, match="no folder here"):
        store.verify(manifest.model_copy(update={"location": "org/hub-name"}))


def test_asking_for_a_file_that_is_not_there_names_those_that_are(store: Store, make_manifest) -> None:
    manifest = store.commit(make_manifest(ARTIFACT, [store.write_bytes(ARTIFACT, "scores.json", b"{}")]))
    with pytest.raises(FemError, match=r"has no file 'score\.json'\. It has: scores\.json\."):
        store.read_bytes(manifest, "score.json")
    with pytest.raises(FemError, match="holds no tables"):
        store.read_table(manifest)
