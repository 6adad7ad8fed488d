"""Forks refer to what their parent made, by digest, and copy nothing."""

import pytest
from made_run import made_config, make_run

from fem_core.errors import FemError, StoreConflict
from fem_core.store import fork, layout
from fem_core.store.manifest import RunRecord
from fem_core.store.store import Store
from tasks import prepare, sample


def forked(store: Store, parent: str, k: int | None, name: str = "child", **changes: object) -> RunRecord:
    """A fork that has begun."""
    record = prepare.run_record(name, made_config(name, **changes), fork.begin(store, parent, k))
    store.create_run(record)
    fork.inherit(store, record)
    return record


def test_a_fork_has_its_parents_history_by_digest_and_no_file_of_it(real_store: Store) -> None:
    make_run(real_store)
    forked(real_store, "made", 1)
    there = {path.partition("/")[0] for path in real_store.root.files("runs/child")}
    assert there == {"run.json", "iteration=001"}
    for kind in fork.HISTORY:
        theirs = real_store.manifest(layout.iteration("made", 1, kind))
        ours = real_store.manifest(layout.iteration("child", 1, kind))
        assert theirs is not None and ours is not None
        assert (ours.digest, ours.step, ours.inputs, ours.source) == (
            theirs.digest,
            theirs.step,
            theirs.inputs,
            theirs.artifact,
        )
        assert real_store.root.children(ours.artifact) == ["_manifest.json"]
        real_store.verify(ours)
    rationales = real_store.manifest(layout.iteration("child", 1, "rationales"))
    assert rationales is not None
    assert real_store.read_table(rationales).num_rows == rationales.stats["accepted"]


def test_a_fork_of_a_fork_refers_to_where_the_files_are(real_store: Store) -> None:
    make_run(real_store)
    forked(real_store, "made", 1)
    forked(real_store, "child", 1, "grandchild")
    checkpoint = real_store.manifest("runs/grandchild/iteration=001/checkpoint")
    assert checkpoint is not None and checkpoint.source == "runs/made/iteration=001/checkpoint"
    real_store.verify(checkpoint)


def test_beginning_again_changes_nothing(real_store: Store) -> None:
    make_run(real_store)
    record = forked(real_store, "made", 2)
    before = {path: real_store.root.read(f"runs/child/{path}") for path in real_store.root.files("runs/child")}
    fork.inherit(real_store, record)
    assert {path: real_store.root.read(f"runs/child/{path}") for path in before} == before
    assert len(before) == 1 + 2 * len(fork.HISTORY)


def test_after_its_iteration_a_fork_takes_what_would_be_made_again_and_nothing_else(real_store: Store) -> None:
    make_run(real_store)
    problems = real_store.manifest(layout.problems("made", "train"))
    model = real_store.manifest(layout.model("made"))
    assert problems is not None and model is not None
    for name, changes, taken in (("same", {}, True), ("other", {"seed": 7}, False)):
        record = forked(real_store, "made", None, name, **changes)
        todo = sample.work(name, made_config(name, **changes), 1, problems, model)
        looked = fork.find(real_store, record, todo.artifact, todo.key, write=False)
        assert real_store.manifest(todo.artifact) is None, "looking writes nothing"
        found = fork.find(real_store, record, todo.artifact, todo.key)
        assert (found is not None) == taken and looked == found == real_store.manifest(todo.artifact)


def test_a_run_that_is_no_fork_takes_nothing(real_store: Store) -> None:
    make_run(real_store)
    record = prepare.run_record("alone", made_config("alone"))
    assert fork.inherit(real_store, record) == []
    made = real_store.manifest(layout.model("made"))
    assert made is not None
    assert fork.find(real_store, record, layout.model("alone"), made.step.key) is None


def test_what_cannot_be_forked_says_why(real_store: Store) -> None:
    with pytest.raises(FemError, match=r"There is no run 'made' in .*Runs here: none"):
        fork.begin(real_store, "made", 1)
    make_run(real_store, iterations=1)
    with pytest.raises(FemError, match=r"no checkpoint of iteration 2\. Its last checkpoint is made@1"):
        fork.begin(real_store, "made", 2)


def test_the_name_of_a_fork_keeps_its_configuration_and_its_parent(real_store: Store) -> None:
    make_run(real_store)
    record = forked(real_store, "made", 1)
    again = prepare.run_record("child", made_config("child"))
    assert real_store.create_run(again).parent == record.parent
    with pytest.raises(StoreConflict, match="seed: 0 -> 3"):
        real_store.create_run(prepare.run_record("child", made_config("child", seed=3)))


def test_another_checkpoint_than_the_recorded_one_is_refused(real_store: Store) -> None:
    make_run(real_store)
    start = fork.begin(real_store, "made", 1)
    other = fork.Parent(start.run, start.iteration, "0" * 64, start.config)
    record = prepare.run_record("child", made_config("child"), other)
    real_store.create_run(record)
    with pytest.raises(FemError, match="was forked from 000000000000"):
        fork.inherit(real_store, record)


def test_a_fork_with_other_problems_may_not_be_tested_on_what_trained_it(real_store: Store) -> None:
    from made_run import problems_of

    make_run(real_store)
    record = forked(real_store, "made", 1)
    prepare.refuse_seen(real_store, record, problems_of(range(200, 204)))
    with pytest.raises(FemError, match="2 of the 4 test problems are training problems of the run"):
        prepare.refuse_seen(real_store, record, problems_of(range(8, 12)))
    alone = forked(real_store, "made", None, "alone")
    prepare.refuse_seen(real_store, alone, problems_of(range(8, 12)))
