"""Copying runs: verified on the way, manifest last, continued where it stopped, forks after their parents."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from made_run import made_config, make_run

from deployments.s3 import BUCKET
from fem_core.digest import digest_file
from fem_core.errors import Corrupt, FemError, StoreConflict
from fem_core.store import copy, fork, layout, lease
from fem_core.store.manifest import FileRecord, Manifest, artifact_digest
from fem_core.store.store import Store
from flows.commands.cp import cp

MIB = 1024 * 1024


@pytest.fixture
def here(made_folder: Path, tmp_path: Path) -> Store:
    """A copy of it to do with as one likes."""
    shutil.copytree(made_folder, tmp_path / "here")
    return Store.open(str(tmp_path / "here"))


@pytest.fixture
def far(s3_server: object) -> Store:
    return Store.open(f"s3://{BUCKET}/{uuid4().hex}")


def copied(source: Store, target: Store, run: str = "made", **options: bool) -> list[copy.Copied]:
    return [copy.copy(source, target, plan) for plan in copy.plans(source, target, run, **options)]


def forked(store: Store, name: str = "forked", parent: str = "made", k: int = 1) -> None:
    record = store.run(parent)
    assert record is not None
    child = record.model_copy(update={"name": name, "digest": "f" * 64, "parent": fork.begin(store, parent, k).dump()})
    store.create_run(child)
    fork.inherit(store, child)


def objects(store: Store, run: str = "made") -> dict[str, bytes]:
    return {path: store.root.read(f"runs/{run}/{path}") for path in store.root.files(f"runs/{run}")}


def test_a_run_arrives_byte_for_byte_there_and_back(real_store: Store, here: Store) -> None:
    copied(here, real_store)
    assert objects(real_store) == objects(here)
    assert all(real_store.verify(m) is None for m in real_store.artifacts("made") if m.location is None)
    back = Store.open(f"{here.url}-back")
    copied(real_store, back)
    assert objects(back) == objects(here)


def test_what_has_arrived_is_not_sent_again(real_store: Store, here: Store) -> None:
    (first,) = copied(here, real_store)
    (plan,) = copy.plans(here, real_store, "made")
    assert first.sent > 20 and plan.missing == () and plan.bytes == 0
    assert copy.copy(here, real_store, plan) == copy.Copied(sent=0, found=0, bytes=0)


def test_a_copy_that_stops_in_the_middle_is_continued(real_store: Store, here: Store) -> None:
    (plan,) = copy.plans(here, real_store, "made")
    stop_at = plan.bytes // 2
    done = 0

    def unplugged(more: int, file: str) -> None:
        nonlocal done
        done += more
        if done > stop_at:
            raise ConnectionError("the line is cut")

    with pytest.raises(ConnectionError):
        copy.copy(here, real_store, plan, unplugged)
    arrived = real_store.artifacts("made")
    assert 0 < len(arrived) < len(plan.missing)
    made_first = [manifest.artifact for manifest in plan.missing[: len(arrived)]]
    assert sorted(manifest.artifact for manifest in arrived) == sorted(made_first)

    (rest,) = copy.plans(here, real_store, "made")
    again = copy.copy(here, real_store, rest)
    assert again.bytes < plan.bytes - sum(f.bytes for m in arrived for f in m.files if copy.holds(m)) + 1
    assert objects(real_store) == objects(here)


def test_a_file_that_an_earlier_try_left_whole_is_kept_and_a_torn_one_is_replaced(
    real_store: Store, here: Store
) -> None:
    names = [layout.part_name(n) for n in (0, 1)]
    attempts = layout.iteration("made", 1, "attempts")
    whole, torn = (here.root.read(f"{attempts}/{name}") for name in names)
    real_store.root.replace(f"{attempts}/{names[0]}", whole)
    real_store.root.replace(f"{attempts}/{names[1]}", torn[:-1] + bytes([torn[-1] ^ 1]))
    (result,) = copied(here, real_store)
    assert result.found == 1
    assert objects(real_store) == objects(here)


def test_a_flipped_byte_at_the_source_is_named_and_its_artifact_does_not_arrive(real_store: Store, here: Store) -> None:
    name = f"{layout.iteration('made', 1, 'checkpoint')}/model.safetensors"
    data = bytearray(here.root.read(name))
    data[3] ^= 1
    here.root.replace(name, bytes(data))
    with pytest.raises(Corrupt, match=r"here/runs/made/iteration=001/checkpoint/model\.safetensors does not hold"):
        copied(here, real_store)
    assert real_store.manifest(layout.iteration("made", 1, "checkpoint")) is None
    assert real_store.root.size(name) is None
    assert real_store.manifest(layout.iteration("made", 1, "rationales")) is not None


def test_a_file_that_is_missing_at_the_source_is_named(real_store: Store, here: Store) -> None:
    here.root.remove(f"{layout.problems('made', 'test')}/part-00000.parquet")
    with pytest.raises(Corrupt, match=r"problems/test/part-00000\.parquet is missing"):
        copied(here, real_store)
    assert real_store.manifest(layout.problems("made", "test")) is None


def test_a_file_that_arrives_otherwise_than_it_was_sent_is_found(
    here: Store, far: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = far.root.stream

    def careless(path: str, pieces: Iterator[bytes]) -> None:
        stream(path, [b"".join(pieces)[::-1]])

    monkeypatch.setattr(far.root, "stream", careless)
    with pytest.raises(Corrupt, match="did not arrive as it was sent"):
        copied(here, far)
    assert far.artifacts("made") == []


def test_a_large_file_travels_in_parts_and_whole_or_not_at_all(here: Store, far: Store) -> None:
    here.root.at("big").write_bytes(b"0123456789abcdef" * (40 * MIB // 16))
    record = FileRecord(path="big", bytes=40 * MIB, rows=None, sha256=digest_file(here.root.at("big")))
    pieces: list[int] = []
    with pytest.raises(Corrupt):
        copy.send(here.root, "big", far.root, "big", record.model_copy(update={"sha256": "0" * 64}))
    assert far.root.size("big") is None, "the parts that were sent must not become an object"
    assert copy.send(here.root, "big", far.root, "big", record, lambda n, _: pieces.append(n))
    assert pieces == [16 * MIB, 16 * MIB, 8 * MIB]
    assert far.root.size("big") == 40 * MIB
    back = Store.open(f"{here.url}-back")
    assert copy.send(far.root, "big", back.root, "big", record)
    assert digest_file(back.root.at("big")) == record.sha256


def test_another_configuration_under_the_name_is_refused_before_anything_is_sent(
    real_store: Store, here: Store
) -> None:
    make_run(real_store, made_config(seed=1), iterations=1)
    before = objects(real_store)
    with pytest.raises(StoreConflict, match=r"another configuration: seed: 1 -> 0"):
        copied(here, real_store)
    assert objects(real_store) == before


def test_a_run_that_went_its_own_way_at_the_destination_is_refused(real_store: Store, here: Store) -> None:
    copied(here, real_store)
    artifact = layout.iteration("made", 2, "checkpoint")
    original = here.manifest(artifact)
    assert original is not None
    other = real_store.write_bytes(f"{artifact}-other", "config.json", b"{}")
    real_store.root.replace(f"{artifact}/{layout.MANIFEST}", _with_files(original, [other]))
    with pytest.raises(StoreConflict, match="iteration=002/checkpoint is finished with another content"):
        copied(here, real_store)


def test_what_was_finished_at_the_destination_since_the_plan_is_left_as_it_is(real_store: Store, here: Store) -> None:
    (plan,) = copy.plans(here, real_store, "made")
    artifact = layout.iteration("made", 1, "checkpoint")
    original = here.manifest(artifact)
    assert original is not None
    other = real_store.write_bytes(artifact, "config.json", b"{}")
    real_store.root.replace(f"{artifact}/{layout.MANIFEST}", _with_files(original, [other]))
    with pytest.raises(StoreConflict, match="iteration=001/checkpoint is finished with another content"):
        copy.copy(here, real_store, plan)
    there = real_store.manifest(artifact)
    assert there is not None and there.files == [other] and real_store.verify(there) is None


def test_no_copy_begins_where_another_machine_works_on_the_run(
    real_store: Store, here: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEM_CACHE", str(tmp_path / "cache"))
    worker, stop = lease.Lease(real_store, "made", "another machine", seconds=3.0), threading.Event()
    worker.acquire()

    def renew() -> None:
        while not stop.wait(worker.every):
            worker.renew()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(FemError, match="Another process works on run 'made'"):
            cp("made", to=real_store.url, store=here.url)
    finally:
        stop.set()
        thread.join()
    assert real_store.runs() == [] and all("/lease/" in f"/{path}" for path in objects(real_store))
    worker.release()
    cp("made", to=real_store.url, store=here.url)
    assert objects(real_store) == objects(here)


def test_of_two_copies_on_one_machine_the_second_leaves(
    here: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEM_CACHE", str(tmp_path / "cache"))
    there = Store.open(str(tmp_path / "there"))
    with (
        lease.held(there, "made", tmp_path / "cache", lambda _: None),
        pytest.raises(FemError, match="Another process works on run 'made'"),
    ):
        cp("made", to=there.url, store=here.url)
    assert there.runs() == []


def test_a_copy_whose_lease_is_taken_over_stops(here: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Store.open(str(tmp_path / "there"))
    monkeypatch.setattr(lease.Lease, "every", 0.05)
    with lease.held(there, "made", tmp_path / "cache", lambda _: None) as still:
        still()
        heir = lease.Lease(there, "made", lease.machine_id(tmp_path / "cache"))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(FemError):
                heir.acquire()
                break
        with pytest.raises(lease.LeaseLost, match="taken over run 'made'"):
            while time.monotonic() < deadline:
                still()
                time.sleep(0.01)
    assert there.root.children(layout.lease("made")), "the heir's stays"


def test_a_fork_waits_for_what_it_refers_to(real_store: Store, here: Store) -> None:
    forked(here)
    forked(here, "grandchild", parent="forked", k=1)
    with pytest.raises(FemError, match=r"'forked' refers to 'made', .*--with-parents"):
        copy.plans(here, real_store, "forked")
    assert real_store.runs() == []

    copied(here, real_store, "grandchild", with_parents=True)
    assert [record.name for record in real_store.runs()] == ["forked", "grandchild", "made"]
    for name in ("forked", "grandchild"):
        assert objects(real_store, name) == objects(here, name)
        assert all(real_store.verify(manifest) is None for manifest in real_store.artifacts(name))


def test_a_fork_follows_a_parent_that_was_copied_before(real_store: Store, here: Store) -> None:
    forked(here)
    copied(here, real_store)
    (plan,) = copy.plans(here, real_store, "forked")
    assert plan.bytes == 0 and len(plan.references) == len(fork.HISTORY)
    copy.copy(here, real_store, plan)
    assert objects(real_store, "forked") == objects(here, "forked")


def test_a_model_outside_of_the_store_is_copied_as_a_record(real_store: Store, here: Store) -> None:
    model = here.manifest(layout.model("made"))
    assert model is not None
    path = f"{model.artifact}/{layout.MANIFEST}"
    here.root.replace(path, model.model_copy(update={"location": "/models/m"}).model_dump_json().encode())
    here.root.remove(f"{model.artifact}/model.safetensors")
    (plan,) = copy.plans(here, real_store, "made")
    assert [m.location for m in plan.outside] == ["/models/m"]
    copy.copy(here, real_store, plan)
    arrived = real_store.manifest(model.artifact)
    assert arrived is not None and arrived.location == "/models/m"


def test_a_run_that_is_not_there_and_a_store_onto_itself_are_told(here: Store, tmp_path: Path) -> None:
    with pytest.raises(FemError, match=r"There is no run 'mad' in .*Runs here: made"):
        copy.plans(here, Store.open(str(tmp_path / "there")), "mad")
    with pytest.raises(FemError, match="Name another one with --to"):
        copy.plans(here, Store.open(here.url), "made")


def _with_files(manifest: Manifest, files: list[FileRecord]) -> bytes:
    changed = {"files": files, "digest": artifact_digest(manifest.kind, files)}
    return manifest.model_copy(update=changed).model_dump_json().encode()
