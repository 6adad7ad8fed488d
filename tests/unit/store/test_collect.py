"""Collection: what goes, what stays, and that nothing which a live manifest reaches is ever lost."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_run import made_config, make_run

from deployments.s3 import BUCKET
from fem_core.errors import FemError
from fem_core.store import collect, deletion, fork, layout, s3
from fem_core.store.collect import Look, Rules, Seen
from fem_core.store.local import LocalRoot
from fem_core.store.manifest import Manifest, artifact_digest
from fem_core.store.reading import holder
from fem_core.store.root import Object
from fem_core.store.store import Store
from flows.commands.gc import SERVES, gc
from tasks.prepare import run_record

DAY = 86400.0
GRACE = 7 * DAY
PART = "part-00000.parquet"


@cache
def made_files() -> dict[str, bytes]:
    """What ``make_run`` writes, made once."""
    with TemporaryDirectory() as folder:
        store = Store.open(folder)
        make_run(store)
        return {path: store.root.read(f"runs/{path}") for path in store.root.files("runs")}


def run_in(store: Store, iterations: int = 2) -> list[Manifest]:
    """The run ``made``, finished or with the first iterations only; its manifests."""
    root = store.root
    kept = [path for path in made_files() if "iteration=" not in path or int(path[15:18]) <= iterations]

    def write(path: str) -> None:
        if isinstance(root, LocalRoot):  # without waiting for the disk
            file = root.at(f"runs/{path}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(made_files()[path])
        else:
            root.replace(f"runs/{path}", made_files()[path])

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(write, kept))
    return store.artifacts("made")


def stands_on(store: Store, run: str, k: int) -> fork.Parent:
    """As ``fork.begin``, which refuses a deleted parent: the mark may come just after it has looked."""
    record, checkpoint = store.existing_run(run), store.manifest(layout.iteration(run, k, "checkpoint"))
    return fork.Parent(run, k, checkpoint.digest if checkpoint else None, record.digest)


def rules(days: float) -> Rules:
    """The rules so many days from now, with seven days of grace."""
    return Rules(time.time() + days * DAY, GRACE, SERVES)


def decided(store: Store, days: float = 8) -> collect.Plan:
    return collect.plan(collect.look(store), rules(days))


def paths(plan: collect.Plan) -> dict[str, str]:
    """What may go, with the reason."""
    return {one.path: one.why for one in plan.doomed}


def swept(store: Store, days: float = 8) -> list[str]:
    """Collect, and what was removed."""
    return [one.path for batch in collect.sweep(store, decided(store, days), rules(days)) for one in batch]


def everything(store: Store) -> set[str]:
    """All objects, unfinished local files too."""
    return {f"{top}/{path}" for top in ("runs", ".fem-probe") for path in store.root.objects(top)}


def verify(store: Store, *runs: str) -> None:
    """Every manifest of these runs holds."""
    for run in runs:
        found = store.artifacts(run)
        assert found
        for manifest in found:
            store.verify(manifest)


def make_fork(store: Store, name: str = "child", parent: str = "made", iteration: int = 1) -> None:
    """A fork that refers to its parent's files and has made nothing yet."""
    record = run_record(name, made_config(name), stands_on(store, parent, iteration))
    store.create_run(record)
    fork.inherit(store, record)


def state(store: Store, step: int, run: str = "made", k: int = 2) -> Manifest:
    """A trainer's state after so many steps."""
    artifact = layout.trainer_state(run, k, step)
    record = store.write_bytes(artifact, "optimizer.safetensors", b"momenta" * step)
    like = store.manifest(layout.iteration(run, 1, "checkpoint"))
    assert like is not None
    made = like.model_copy(update={"kind": "trainer_state", "artifact": artifact, "files": [record]})
    return store.commit(made.model_copy(update={"digest": artifact_digest(made.kind, made.files)}))


def leave(store: Store) -> dict[str, str]:
    """What crashed tries leave in a run, with the reason for which it may go."""
    at = partial(layout.iteration, "made")
    left = {
        f"{at(1, 'attempts')}/part-00099.parquet": collect.STRAY,
        f"{at(1, 'checkpoint')}/nested/model-00002.safetensors": collect.STRAY,
        f"{at(3, 'attempts')}/{PART}": collect.UNFINISHED,
        f"{layout.trainer_state('made', 3, 7)}/optimizer.safetensors": collect.UNFINISHED,
        f"{at(2, 'scores')}/.tmp-0123": collect.UNWRITTEN,
        "runs/made/.tmp-4567": collect.UNWRITTEN,
        ".fem-probe/89ab": collect.PROBE,
    }
    for path in left:
        store.root.replace(path, b"left over")
    return left


def test_a_finished_run_keeps_everything_for_ever(local: Store) -> None:
    run_in(local)
    make_fork(local)
    before = everything(local)
    assert decided(local, days=10_000) == collect.Plan((), ())
    assert swept(local, days=10_000) == []
    assert everything(local) == before


def test_leftovers_go_after_the_grace_period_and_not_before(real_store: Store) -> None:
    run_in(real_store)
    make_fork(real_store)
    whole = everything(real_store)
    left = leave(real_store)
    assert paths(decided(real_store, days=6.9)) == {}
    assert swept(real_store, days=6.9) == []
    assert paths(decided(real_store, days=8)) == left
    assert sorted(swept(real_store, days=8)) == sorted(left)
    assert everything(real_store) == whole
    verify(real_store, "made", "child")


def test_batches_of_any_size_remove_the_same(real_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(real_store)
    whole = everything(real_store)
    left = leave(real_store)
    monkeypatch.setattr(collect, "_BATCH", 3)
    monkeypatch.setattr(s3, "_REQUEST", 2)
    batches = list(collect.sweep(real_store, decided(real_store), rules(8)))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert sum(one.bytes for batch in batches for one in batch) == 9 * len(left)
    assert everything(real_store) == whole


def test_without_yes_nothing_is_removed_and_all_is_told(local: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run_in(local)
    whole = everything(local)
    left = leave(local)
    before = everything(local)
    gc(store=local.url, grace=timedelta(0))
    said = capsys.readouterr().out
    assert everything(local) == before
    assert all(f"{path}  1 file, 9 bytes: {why}\n" in said for path, why in left.items())
    assert f"7 files, 63 bytes may go from {local.url}. Nothing was removed; remove it with --yes." in said
    gc(store=local.url, grace=timedelta(0), yes=True)
    assert f"7 files, 63 bytes removed from {local.url}." in capsys.readouterr().out
    assert everything(local) == whole


def test_the_old_parts_of_an_unfinished_step_stay_while_the_run_goes_on_writing(local: Store) -> None:
    run_in(local)
    part = f"{layout.iteration('made', 3, 'attempts')}/{PART}"
    local.root.replace(part, b"a")
    local.root.replace(f"{layout.lease('made')}/000000001.json", b"{}")
    seen = collect.look(local)
    assert paths(collect.plan(seen, rules(8))) == {part: collect.UNFINISHED}
    working = aged(seen, {f"{layout.lease('made')}/000000001.json": time.time() + 8 * DAY})
    assert paths(collect.plan(working, rules(8))) == {}


def test_a_lease_and_what_lies_beside_the_artifacts_are_left_alone(local: Store) -> None:
    run_in(local)
    for path in ("lease/000000001.json", "notes.txt", "iteration=001/notes.txt"):
        local.root.replace(f"runs/made/{path}", b"mine")
    assert paths(decided(local)) == {}


def test_a_file_that_was_old_before_it_came_into_the_store_is_young(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "root"))
    run_in(store)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    os.utime(file, (1e9, 1e9))
    store.root.put(f"{layout.iteration('made', 1, 'checkpoint')}/stray.safetensors", file)
    assert paths(decided(store, days=6.9)) == {}
    assert len(paths(decided(store, days=8))) == 1


def aged(seen: Look, times: dict[str, float]) -> Look:
    """The same store with other times of some objects."""

    def of(run: Seen) -> Seen:
        return replace(run, objects={p: Object(o.bytes, times.get(p, o.modified)) for p, o in run.objects.items()})

    return replace(seen, runs={name: of(run) for name, run in seen.runs.items()})


# -- artifacts that serve others ---------------------------------------------------------------------------------------


def test_trainer_states_go_once_the_checkpoint_is_there(local: Store) -> None:
    run_in(local)
    first, second = state(local, 10), state(local, 20)
    by = f"superseded by {layout.iteration('made', 2, 'checkpoint')}"
    assert set(paths(decided(local)).values()) <= {by, f"superseded by {second.artifact}"}
    assert sorted(swept(local)) == sorted(f"{one.artifact}/optimizer.safetensors" for one in (first, second))
    assert local.manifest(first.artifact) == first
    assert "superseded" in (deletion.collected(local, first.artifact) or {})["why"]
    assert paths(decided(local)) == {}
    verify(local, "made")


def test_of_an_unfinished_m_step_the_newest_whole_state_stays(local: Store) -> None:
    run_in(local, 1)
    states = [state(local, step) for step in (9, 10, 11)]
    local.root.replace(f"{states[2].artifact}/optimizer.safetensors", b"torn")
    assert paths(decided(local)) == {
        f"{states[0].artifact}/optimizer.safetensors": f"superseded by {states[1].artifact}"
    }
    swept(local)
    local.verify(states[1])


def test_states_stay_while_the_records_of_a_fork_cannot_be_read(local: Store) -> None:
    run_in(local)
    make_fork(local)
    state(local, 10)
    assert len(paths(decided(local))) == 1
    local.root.replace(f"{layout.iteration('child', 1, 'checkpoint')}/{layout.MANIFEST}", b"{torn")
    assert paths(decided(local)) == {}


def test_a_state_that_was_written_anew_is_read_anew(local: Store) -> None:
    run_in(local, 1)
    old = state(local, 10)
    before = collect.look(local)
    local.root.remove(f"{old.artifact}/{layout.MANIFEST}")
    new = local.commit(old.model_copy(update={"stats": {"written": "anew"}}))
    assert collect.look(local, before).runs["made"].manifests[old.artifact] == new


def test_a_state_of_another_iteration_supersedes_nothing(local: Store) -> None:
    run_in(local, 1)
    state(local, 10, k=2)
    state(local, 20, k=3)
    assert paths(decided(local)) == {}


# -- deleted runs ------------------------------------------------------------------------------------------------------


def test_a_deleted_run_leaves_its_records(real_store: Store) -> None:
    made = run_in(real_store)
    deletion.mark(real_store, "made")
    assert paths(decided(real_store, days=6.9)) == {}
    data = {f"{manifest.artifact}/{record.path}" for manifest in made for record in manifest.files}
    assert paths(decided(real_store)) == dict.fromkeys(data, collect.DELETED)
    records = real_store.run("made"), real_store.artifacts("made"), deletion.deleted_at(real_store, "made")
    assert set(swept(real_store)) == data
    assert not everything(real_store) & data
    assert records == (
        real_store.run("made"),
        real_store.artifacts("made"),
        collect.deleted_at(real_store, "made"),
    )
    assert (deletion.collected(real_store, made[0].artifact) or {})["why"] == collect.DELETED
    assert paths(decided(real_store, days=100)) == {}


def test_the_leftovers_of_a_deleted_run_go_with_it(local: Store) -> None:
    run_in(local)
    left = leave(local)
    deletion.mark(local, "made")
    assert left.keys() <= paths(decided(local)).keys()


def test_a_run_that_is_worked_on_keeps_its_files_though_it_is_marked_deleted(local: Store) -> None:
    run_in(local)
    lease = f"{layout.lease('made')}/000000001.json"
    local.root.replace(lease, b"{}")
    deletion.mark(local, "made")
    working = collect.plan(aged(collect.look(local), {lease: time.time() + 8 * DAY}), rules(8))
    assert paths(working) == {}
    assert "something was written to it within the grace period" in working.notes[0]


def test_a_run_with_forks_is_deleted_only_after_them(local: Store) -> None:
    run_in(local)
    make_fork(local, "child")
    make_fork(local, "grandchild", "child")
    with pytest.raises(FemError, match="'made' cannot be deleted, as 'child', 'grandchild' are forks"):
        deletion.mark(local, "made")
    with pytest.raises(FemError, match=r"'child' cannot be deleted, as 'grandchild' is a fork .*fem delete grandchild"):
        deletion.mark(local, "child")
    assert collect.deleted_at(local, "made") is None
    for run in ("grandchild", "child", "made"):
        deletion.mark(local, run)
    assert all(path.startswith("runs/made/") for path in swept(local))
    assert paths(decided(local)) == {}


def test_a_deleted_fork_takes_nothing_of_its_parent_with_it(local: Store) -> None:
    run_in(local)
    make_fork(local)
    local.write_bytes(layout.iteration("child", 2, "attempts"), PART, b"its own")
    deletion.mark(local, "child")
    assert swept(local) == [f"{layout.iteration('child', 2, 'attempts')}/{PART}"]
    verify(local, "made", "child")


def test_a_deleted_run_keeps_its_files_for_a_fork_that_came_too_late(local: Store) -> None:
    run_in(local)
    deletion.mark(local, "made")
    make_fork(local)
    plan = decided(local)
    assert (paths(plan), len(plan.notes)) == ({}, 1)
    assert "'made' is marked deleted and keeps its files: its fork 'child' is not deleted" in plan.notes[0]
    swept(local)
    verify(local, "made", "child")


def test_a_grandchild_keeps_what_it_reaches_of_a_deleted_run(local: Store) -> None:
    run_in(local)
    make_fork(local, "child")
    deletion.mark(local, "child")
    local.root.replace(layout.deleted_json("made"), b"{}")
    record = run_record("grandchild", made_config("grandchild"), stands_on(local, "child", 1))
    local.create_run(record.model_copy(update={"parent": {**(record.parent or {}), "run": "elsewhere"}}))
    for manifest in local.artifacts("child"):
        fork.reference(local, manifest, "grandchild")
    assert layout.iteration("made", 2, "checkpoint") + "/model.safetensors" in swept(local)
    verify(local, "grandchild")


def test_undo_brings_a_run_back_until_its_data_are_gone(local: Store) -> None:
    run_in(local)
    with pytest.raises(FemError, match="is not marked deleted"):
        deletion.unmark(local, "made")
    deletion.mark(local, "made")
    deletion.unmark(local, "made")
    assert collect.deleted_at(local, "made") is None
    assert swept(local) == []
    since = deletion.mark(local, "made")
    swept(local)
    with pytest.raises(FemError, match="cannot come back, as gc removed the files of"):
        deletion.unmark(local, "made")
    assert collect.deleted_at(local, "made") == since


def test_a_fork_does_not_come_back_to_a_parent_without_data(local: Store) -> None:
    run_in(local)
    make_fork(local)
    deletion.mark(local, "child")
    deletion.mark(local, "made")
    swept(local)
    with pytest.raises(FemError, match=r"'child' cannot come back, as gc removed the files of runs/made/"):
        deletion.unmark(local, "child")


def test_an_unknown_run_is_refused_with_those_that_are_there(local: Store) -> None:
    run_in(local)
    with pytest.raises(FemError, match=r"no run 'mode' .* Runs here: made"):
        deletion.mark(local, "mode")


# -- while others work -------------------------------------------------------------------------------------------------


def finish_the_step(store: Store) -> None:
    """The step whose parts are there commits them."""
    like = store.manifest(layout.iteration("made", 1, "attempts"))
    assert like is not None
    store.commit(like.model_copy(update={"artifact": layout.iteration("made", 2, "attempts")}))


def another_fork(store: Store) -> None:
    make_fork(store, "late", iteration=1)


@pytest.mark.parametrize(
    ("mark", "happens", "saved"),
    [
        (False, finish_the_step, layout.iteration("made", 2, "attempts")),
        (True, lambda store: deletion.unmark(store, "made"), layout.iteration("made", 1, "attempts")),
        (True, another_fork, layout.iteration("made", 1, "checkpoint")),
    ],
    ids=["a manifest", "an undo", "a fork"],
)
def test_what_appears_between_deciding_and_removing_saves_its_files(
    local: Store, mark: bool, happens: Callable[[Store], None], saved: str
) -> None:
    run_in(local, 1)
    theirs = local.manifest(layout.iteration("made", 1, "attempts"))
    assert theirs is not None
    for record in theirs.files:
        copy = local.read_bytes(theirs, record.path)
        local.write_bytes(layout.iteration("made", 2, "attempts"), record.path, copy)
    if mark:
        deletion.mark(local, "made")
    plan = decided(local)
    assert any(path.startswith(saved) for path in paths(plan))
    happens(local)
    gone = [one.path for batch in collect.sweep(local, plan, rules(8)) for one in batch]
    assert not any(path.startswith(saved) for path in gone)
    verify(local, *(run.name for run in local.runs()))
    assert not [path for path in everything(local) if path.endswith(layout.COLLECTED)]


# -- records that cannot be read ---------------------------------------------------------------------------------------


def test_a_run_with_an_unreadable_manifest_loses_nothing_and_others_go_on(local: Store) -> None:
    run_in(local)
    make_run(local, made_config("other"))
    leave(local)
    stray = f"{layout.iteration('other', 1, 'attempts')}/part-00099.parquet"
    local.root.replace(stray, b"left over")
    local.root.replace(f"{layout.iteration('made', 1, 'scores')}/{layout.MANIFEST}", b"{torn")
    plan = decided(local)
    assert set(paths(plan)) == {stray, ".fem-probe/89ab"}
    (note,) = plan.notes
    assert "iteration=001/scores/_manifest.json cannot be read: it is not valid JSON" in note
    assert note.endswith("Nothing of the run 'made' is collected.")


@pytest.mark.parametrize("broken", [f"iteration=001/checkpoint/{layout.MANIFEST}", "run.json"])
def test_an_unreadable_fork_keeps_what_it_may_refer_to(local: Store, broken: str) -> None:
    run_in(local)
    make_fork(local, "child")
    make_fork(local, "grandchild", "child")
    for run in ("child", "made"):
        local.root.replace(layout.deleted_json(run), b"{}")
    local.root.replace(f"runs/grandchild/{broken}", b"{torn")
    plan = decided(local)
    assert paths(plan) == {}
    assert any("'made' is marked deleted and keeps its files" in note for note in plan.notes)


def test_a_manifest_of_another_place_is_trusted_with_nothing(local: Store) -> None:
    run_in(local)
    moved = layout.iteration("made", 3, "attempts")
    local.root.replace(f"{moved}/{PART}", b"x")
    text = local.root.read(f"{layout.iteration('made', 1, 'attempts')}/{layout.MANIFEST}")
    local.root.replace(f"{moved}/{layout.MANIFEST}", text)
    plan = decided(local)
    assert (paths(plan), len(plan.notes)) == ({}, 1)


def test_what_is_no_run_is_left_alone(local: Store) -> None:
    local.root.replace("runs/mine/folder/file.bin", b"x")
    local.root.replace("elsewhere/folder/file.bin", b"x")
    plan = decided(local)
    assert paths(plan) == {}
    assert plan.notes == ("runs/mine has no run.json, so it is no run, and nothing of it is collected.",)


# -- uploads -----------------------------------------------------------------------------------------------------------


def test_uploads_that_nobody_finished_are_given_up(s3_server: object) -> None:
    store, near = (Store.open(f"s3://{BUCKET}/{name}") for name in (uuid4().hex, uuid4().hex))
    run_in(store)
    run_in(near)
    filesystem = store.root._fs  # type: ignore[attr-defined]

    def begin(one: Store, path: str) -> None:
        _, key, _ = filesystem.split_path(one.root._at(path))  # type: ignore[attr-defined]
        begun = filesystem.call_s3("create_multipart_upload", Bucket=BUCKET, Key=key)
        filesystem.call_s3(
            "upload_part", Bucket=BUCKET, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"z" * 5_242_880
        )

    big = f"{layout.iteration('made', 3, 'checkpoint')}/model.safetensors"
    begin(store, big)
    begin(store, "elsewhere/big")
    begin(near, big)
    assert paths(decided(store, days=6.9)) == {}
    (found,) = decided(store).doomed
    assert (found.path, found.why, found.bytes) == (big, collect.UPLOAD, 5_242_880)
    assert swept(store) == [big]
    assert store.root.uploads("runs") == []
    assert [upload.path for upload in store.root.uploads("elsewhere")] == ["elsewhere/big"]
    assert [upload.path for upload in near.root.uploads("runs")] == [big]


def test_all_pages_of_uploads_are_read_and_no_upload_elsewhere_is_taken() -> None:
    class Careless:
        """A server that gives two pages and heeds no prefix."""

        def split_path(self, path: str) -> tuple[str, str, None]:
            bucket, _, key = path.partition("/")
            return bucket, key, None

        def call_s3(self, method: str, **asked: str) -> dict[str, object]:
            if method == "list_parts":
                return {"Parts": [{"Size": 3}, {"Size": 4}]}
            keys, more = (["a/runs/x", "b/runs/y"], True) if "KeyMarker" not in asked else (["a/runs/z"], False)
            began = datetime(2026, 1, 1, tzinfo=UTC)
            page = [{"Key": key, "UploadId": "1", "Initiated": began} for key in keys]
            return {"Uploads": page, "IsTruncated": more, "NextKeyMarker": "b", "NextUploadIdMarker": "1"}

    found = s3.uploads(Careless(), "bucket/a/runs")
    assert [(upload.path, upload.bytes) for upload in found] == [("bucket/a/runs/x", 7), ("bucket/a/runs/z", 7)]


# -- whatever the ages and marks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Two runs, a fork and its fork, states, and leftovers."""
    store = Store.open(str(tmp_path_factory.mktemp("crowded")))
    run_in(store)
    make_run(store, made_config("other"))
    leave(store)
    make_fork(store, "child", iteration=2)
    make_fork(store, "grandchild", "child", 1)
    for step in (1, 2):
        state(store, step)
    return collect.look(store)


RUNS = ("made", "other", "child", "grandchild")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ages=st.lists(st.floats(0, 20), min_size=1, max_size=40),
    marks=st.dictionaries(st.sampled_from(RUNS), st.floats(0, 20)),
    doubtful=st.sets(st.sampled_from(RUNS), max_size=1),
)
def test_nothing_young_no_record_and_nothing_that_a_live_run_reaches_may_go(
    crowded: Look, ages: list[float], marks: dict[str, float], doubtful: set[str]
) -> None:
    rule = Rules(1e9, GRACE, SERVES)
    runs = {}
    for name, seen in crowded.runs.items():
        objects = {
            path: Object(one.bytes, rule.now - ages[i % len(ages)] * DAY)
            for i, (path, one) in enumerate(seen.objects.items())
        }
        if name in marks:
            objects[layout.deleted_json(name)] = Object(2, rule.now - marks[name] * DAY)
        runs[name] = replace(seen, objects=objects, doubts=("It is torn.",) if name in doubtful else ())
    found = collect.plan(replace(crowded, runs=runs, probes={}), rule)
    objects = {path: one for seen in runs.values() for path, one in seen.objects.items()}
    gone = {one.path for one in found.doomed}
    assert all(objects[path].modified < rule.now - GRACE for path in gone)
    assert not [path for path in gone if path.endswith((layout.MANIFEST, "run.json", "deleted.json"))]
    assert not [path for path in gone if layout.run_of(path) in doubtful]
    dead = {name for name, days in marks.items() if days > 7} - doubtful
    for name in set(RUNS) - dead:
        for manifest in runs[name].manifests.values():
            if manifest.kind != "trainer_state":
                assert not gone & {f"{holder(manifest)}/{record.path}" for record in manifest.files}
