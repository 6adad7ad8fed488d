"""Annotations: versions that two writers cannot lose, and the filter that takes people's word."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from made_run import made_config, make_run, problems_of
from prefect.logging import disable_run_logger

from fem_core import annotations
from fem_core.annotations import Annotation
from fem_core.audit import links
from fem_core.audit.audit import audit
from fem_core.audit.ledger import Ledger
from fem_core.browse.filters import Filter
from fem_core.browse.library import Library
from fem_core.errors import Corrupt, FemError
from fem_core.problems.problem import Problem
from fem_core.schemas import ANNOTATIONS
from fem_core.store import collect, deletion, layout
from fem_core.store.collect import Rules, sweep
from fem_core.store.copy import copy, plans
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from tasks import sample
from tasks.filter import filter_
from tasks.step import Run

BAD_WORDS = "<script>alert(1)</script> '; DROP TABLE x; --\u202e"


def broken(store: Store, run: str) -> list[str]:
    """What a deep audit finds broken."""
    found = audit(store, run, deep=True, cache=Path("none")).findings
    return [f"{one.artifact}: {one.what}" for one in found if one.level == "broken"]


def said(n: int, author: str = "ann") -> Annotation:
    return annotations.annotation(1, f"{n:016x}", 0, f"text {n}", "good", "", author)


def test_nobodys_word_is_lost_when_many_write_at_once(real_store: Store) -> None:
    make_run(real_store, iterations=1)
    stores = [Store.open(real_store.url, check=False) for _ in range(4)]
    with ThreadPoolExecutor(4) as writers:
        list(
            writers.map(
                lambda w: [annotations.append(stores[w], "made", [said(10 * w + n, f"w{w}")]) for n in range(4)],
                range(4),
            )
        )
    last = annotations.latest(real_store, "made")
    assert last is not None and annotations.version_of(last) == 16
    found = annotations.read(real_store, last)
    assert sorted((one.author, one.problem_id) for one in found) == sorted(
        (f"w{w}", f"{10 * w + n:016x}") for w in range(4) for n in range(4)
    )
    assert broken(real_store, "made") == []


def test_what_a_writer_left_unfinished_is_finished_by_the_next(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    make_run(store, iterations=1)
    first = annotations.append(store, "made", [said(1)])
    annotations.append(store, "made", [said(2)])
    (tmp_path / layout.annotations("made", 2) / layout.MANIFEST).unlink()  # died between the rows and the manifest
    third = annotations.append(store, "made", [said(3)])
    assert annotations.version_of(third) == 3
    whole = annotations.read(store, third)
    assert [one.problem_id for one in whole] == [f"{n:016x}" for n in (1, 2, 3)]
    assert annotations.read(store, third, (first, whole[:1])) == annotations.read(store, third, (third, whole)) == whole
    assert annotations.read(store, first, (third, whole)) == whole[:1]
    with pytest.raises(Corrupt, match="not whole"):
        annotations.read(store, third, (first.model_copy(update={"digest": "0" * 64}), whole[:1]))
    (tmp_path / first.artifact / layout.MANIFEST).unlink()
    with pytest.raises(Corrupt, match="not whole"):
        annotations.read(store, third)
    strange = store.write_table(
        layout.annotations("made", 4), layout.part_name(0), pa.Table.from_pylist([], schema=ANNOTATIONS), "k"
    )
    assert strange.rows == 0
    with pytest.raises(FemError, match="no version of annotations that was begun here"):
        annotations.append(store, "made", [said(5)])


def test_what_cannot_be_said_is_refused(tmp_path: Path) -> None:
    for value, comment, author, sentence in (
        ("fine", "", "ann", "annotated 'fine'"),
        ("bad", "", " ", "needs an author"),
        ("bad", "", "a\nb", "needs an author"),
        ("bad", "x" * 5000, "ann", "5000 characters"),
        ("bad", "\ud800", "ann", "half a character"),
    ):
        with pytest.raises(FemError, match=sentence):
            annotations.annotation(1, "0" * 16, 0, "text", value, comment, author)
    store = Store.open(str(tmp_path))
    make_run(store, iterations=1)
    with pytest.raises(FemError, match="no attempts of iteration 2"):
        annotations.append(store, "made", [annotations.annotation(2, "0" * 16, 0, "text", "bad", "", "ann")])
    with pytest.raises(FemError, match="no run 'other'"):
        annotations.append(store, "other", [said(1)])
    with pytest.raises(FemError, match="such as demo@12"):
        made_config(filter={"annotations": "demo"})


def test_a_run_takes_peoples_word_and_audits(real_store: Store, tmp_path: Path) -> None:
    make_run(real_store)
    library = Library(real_store.url, tmp_path / "cache")
    first, second, third, fourth = library.attempts("made", 1, Filter(verdict="accepted"), size=4).rows
    assert library.annotated("made") is None and library.annotations("made") == []
    for row, value in ((first, "bad"), (second, "leaked"), (third, "good"), (fourth, "bad"), (fourth, "none")):
        library.annotate("made", row.id, value, BAD_WORDS, "ann")
    word = library.annotations("made")[0]
    assert (word.value, word.comment, word.author) == ("bad", BAD_WORDS, "ann")
    for wanted, positions in (
        ("bad", [first.position]),
        ("leaked", [second.position]),
        ("any", [first.position, second.position, third.position]),
    ):
        shown = library.attempts("made", 1, Filter(annotation=wanted), size=50).rows
        assert [one.position for one in shown] == sorted(positions)
    assert library.attempts("made", 1, Filter(annotation="none")).total == 10
    assert library.attempts("made", 2, Filter(annotation="any")).total == 0
    for wrong in ("1.zz.0", "../x", f"9.{first.problem_id}.0", f"1.{'0' * 16}.0", f"1.{first.problem_id}.7"):
        with pytest.raises(FemError):
            library.annotate("made", wrong, "good", "", "ann")

    name = library.annotated("made")
    assert name == "made@5"
    config = made_config("next", filter={"annotations": name})
    made = make_run(real_store, config)
    rationales = next(one for one in made if one.kind == "rationales")
    assert rationales.stats["verdicts"] == {"accepted": 8, "annotated": 2, "wrong_answer": 3}
    rows = library.attempts("next", 1, Filter(verdict="annotated")).rows
    assert {(one.problem_id, one.reason) for one in rows} == {
        (first.problem_id, "annotated 'bad' in made@5"),
        (second.problem_id, "annotated 'leaked' in made@5"),
    }
    last = annotations.named(real_store, "made@5")
    assert ("annotations", last.artifact, last.digest) in [(r.role, r.artifact, r.digest) for r in rationales.inputs]

    assert broken(real_store, "next") == []
    annotations.append(real_store, "made", [annotations.annotation(1, *_of(third), "bad", "", "bob")])
    assert broken(real_store, "next") == []  # what is said later changes nothing of what was
    problems, attempts = (real_store.manifest(ref.artifact) for ref in rationales.inputs[:2])
    assert problems is not None and attempts is not None
    with disable_run_logger():
        again = asyncio.run(filter_.fn(Run("next", config, real_store, tmp_path), 1, problems, attempts))
    assert again == rationales  # the step finds what is done, whatever was said since
    silent = rationales.model_copy(update={"inputs": rationales.inputs[:2]})
    found = links.check(ledger := Ledger(real_store), _known(ledger, silent), silent.artifact, {})
    assert "input annotations" in [one.what for one in found]

    other = Store.open(str(tmp_path / "other"))
    with pytest.raises(FemError, match="'next' refers to 'made'"):
        plans(real_store, other, "next")
    for one in plans(real_store, other, "next", with_parents=True):
        copy(real_store, other, one)
    assert broken(other, "next") == []

    deletion.mark(real_store, "made")
    rules = Rules(now=time.time() + 100, grace=0)
    gone = [
        one.path for batch in sweep(real_store, collect.plan(collect.look(real_store), rules), rules) for one in batch
    ]
    assert any("/attempts/" in path for path in gone)
    assert annotations.read(real_store, last)[0].value == "bad"  # what people said outlives the data

    real_store.root.replace(f"{layout.annotations('made', 1)}/{layout.part_name(0)}", b"forged")
    assert any(one.startswith(layout.annotations("made", 1)) for one in broken(real_store, "next"))


def test_problems_of_the_annotated_run_may_be_test_problems_and_its_files_are_hashed_all_the_same(
    tmp_path: Path,
) -> None:
    store = Store.open(str(tmp_path))
    make_run(store)
    annotations.append(store, "made", [annotations.annotation(2, "0" * 16, 0, "text", "bad", "", "ann")])

    def make(asked: range) -> list[Problem]:
        """Its tests are training problems of the run ``made``."""
        return problems_of(range(5, 15) if asked.start == 0 else range(4))

    make_run(store, made_config("next", filter={"annotations": "made@1"}), make=make)
    assert broken(store, "next") == [], "only people's word comes from there, and no weights"
    place = layout.iteration("made", 1, "rationales")
    store.root.replace(f"{place}/{layout.part_name(0)}", b"forged")
    assert any(one.startswith(place) for one in broken(store, "next"))


def _known(ledger: Ledger, manifest: Manifest) -> Manifest:
    ledger.manifest(manifest.artifact)
    return manifest


def _of(row: object) -> tuple[str, int, str]:
    return row.problem_id, row.attempt, row.text  # type: ignore[attr-defined]


def test_annotations_that_are_not_there_stop_a_run_before_it_begins(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    make_run(store, iterations=1)
    for name, way in (("made@3", "Nobody has annotated that run"), ("other@1", "no run 'other'")):
        with pytest.raises(FemError, match=way):
            annotations.named(store, name)


def test_without_annotations_a_run_is_the_run_it_was(tmp_path: Path) -> None:
    made = make_run(Store.open(str(tmp_path)), iterations=1)
    config, asking = made_config(), made_config(filter={"annotations": "made@1"})
    assert "annotations" not in json.dumps(config.identity())
    assert asking.digest() != config.digest()
    drawn = [sample.work("made", one, 1, made[0], made[2]).key for one in (config, asking)]
    assert drawn[0] == drawn[1]  # a fork that asks takes over the draws
