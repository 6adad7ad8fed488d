"""Which runs a recurring audit looks at again."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from forge import RUN, flip
from prefect.logging import disable_run_logger

from fem_core.audit.changed import held_before, mark, remember
from fem_core.audit.findings import Audit
from fem_core.store import layout
from fem_core.store.lease import Lease
from fem_core.store.store import Store
from flows.audit import examined


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


@pytest.mark.parametrize("content", [b"", b"half a", b"\xff", b"{}", b"[]", b"null"])
def test_what_cannot_be_remembered_is_not_held(made: Store, content: bytes) -> None:
    made.root.replace(layout.audited("made"), content)
    assert not held_before(made, "made", mark(made, "made"), deep=False)


def test_whatever_is_wrong_with_one_run_the_others_are_audited(made: Store, tmp_path: Path) -> None:
    """What cannot be read stands for it: the mark of deletion, what the last audit left, the record."""
    runs = tmp_path / "store" / "runs"
    for name in ("a", "b", "c"):
        shutil.copytree(runs / "made", runs / name)
    (tmp_path / "store" / layout.deleted_json("a")).mkdir()
    (tmp_path / "store" / layout.audited("b")).mkdir(parents=True)
    (runs / "c" / "run.json").write_text("half a")
    with disable_run_logger():
        came, same = asyncio.run(examined(made, deep=False, everything=False))
        assert list(came) == ["a", "b", "c", "made"] and same == 0
        assert [isinstance(what, Audit) for what in came.values()] == [False, False, False, True]
        came, same = asyncio.run(examined(made, deep=False, everything=False))
    assert list(came) == ["a", "b", "c"] and same == 1
