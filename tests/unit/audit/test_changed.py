"""Which runs a recurring audit looks at again."""

import os
from pathlib import Path

import pytest
from forge import RUN, flip

from fem_core.audit.changed import held_before, mark, remember
from fem_core.store.lease import Lease
from fem_core.store.store import Store


def test_a_run_that_held_is_left_alone_until_an_object_of_it_changes(made: Store, tmp_path: Path) -> None:
    first = mark(made, "made")
    assert not held_before(made, "made", first, deep=False)
    remember(made, "made", first, deep=False)
    Lease(made, "made", "here").acquire()
    assert mark(made, "made") == first, "a lease is no content"
    assert held_before(made, "made", first, deep=False)
    assert not held_before(made, "made", first, deep=True), "what was not derived again is to be"
    path = f"{RUN}/iteration=001/verdicts/part-00000.parquet"
    flip(made, path)
    file = tmp_path / "store" / path
    os.utime(file, (1, file.stat().st_mtime + 5))  # also on a disk whose clock is coarse
    assert not held_before(made, "made", mark(made, "made"), deep=False)


@pytest.mark.parametrize("what", ["added", "removed"])
def test_an_object_more_or_less_is_a_change(made: Store, what: str) -> None:
    remember(made, "made", mark(made, "made"), deep=True)
    if what == "added":
        made.root.create(f"{RUN}/model/more", b"")
    else:
        made.root.remove(f"{RUN}/model/_manifest.json")
    assert not held_before(made, "made", mark(made, "made"), deep=False)
