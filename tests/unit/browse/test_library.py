"""The library over a local store and one on S3: pages, filters, search, problems, artifacts, exports, hostile texts."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from made_run import made_config, make_run

from fem_core.browse import one_problem, tables
from fem_core.browse.filters import SORTS, Filter
from fem_core.browse.library import Library
from fem_core.errors import FemError
from fem_core.problems.problem import make_problem, to_table
from fem_core.schemas import ATTEMPTS
from fem_core.store import deletion, layout
from fem_core.store.manifest import InputRef, Manifest
from fem_core.store.store import Store
from tasks import prepare, sample, step

HOSTILE = [
    "<script>alert(1)</script> <img src=x onerror=alert(1)>",
    "'; DROP TABLE attempts; -- \" %_\\",
    "\x1b[31mred\x1b[0m \u202eesrever \u0000 after a NUL",
    "x" * 1_200_000,
    "",
    "50 % sure_of it\\n",
    "a" * (tables.PIECE - 4) + "straddles the end of a piece" + "b" * 2 * tables.PIECE + " far LAST",
]


@pytest.fixture
def library(real_store: Store, tmp_path: Path) -> Library:
    make_run(real_store)
    return Library(real_store.url, tmp_path / "cache")


def hostile_run(store: Store) -> Manifest:
    """A run whose first iteration has these texts and no verdicts yet."""
    config, problem = made_config("hostile"), make_problem("What <b>is</b> 1 + 1?", "2", "number")
    store.create_run(prepare.run_record("hostile", config))
    todo = prepare.problems_work("hostile", config, "train", (InputRef(role="x", artifact="x", digest="5" * 64),))
    file = store.write_table(todo.artifact, layout.part_name(0), to_table([problem]), todo.key)
    train = store.commit(todo.manifest([file], step.now(), stats={"problems": 1}))
    todo = sample.work("hostile", config, 1, train, train)
    row = dict.fromkeys(("exemplars", "prompt_tokens", "completion_tokens", "seed"), 1)
    row |= {"problem_id": problem.problem_id, "prompt_kind": "hinted", "answer": None, "verdict": "unparsable"}
    row |= {"finish_reason": "stop", "logprob": -1.0}
    rows = [row | {"attempt": n, "text": text} for n, text in enumerate(HOSTILE)]
    table = pa.Table.from_pylist(rows, schema=ATTEMPTS)
    for name in ("kind", "reason", 'a "quoted" name'):  # columns of a later version, two with names of ours
        table = table.append_column(name, pa.array(["later"] * len(rows)))
    file = store.write_table(todo.artifact, layout.part_name(0), table, todo.key)
    return store.commit(todo.manifest([file], step.now(), stats={}))


def test_a_run_is_shown_from_its_list_to_one_attempt(library: Library, tmp_path: Path) -> None:
    (row,) = library.runs()
    assert (row.name, row.scheme, row.seed, row.line.state, row.utilization) == ("made", "star", 0, "finished", 1.0)
    assert row.accuracies == (0.5, 0.5, 0.5) and row.utilizations == (1.0, 1.0)
    assert row.accuracy is not None and row.accuracy.low < row.accuracy.value < row.accuracy.high

    page = library.run("made")
    assert [one.iteration for one in page.summary.rows] == [0, 1, 2] and not page.deleted
    assert {"iteration=001/attempts", "iteration=002/checkpoint"} <= {one.name for one in page.artifacts}

    first = library.attempts("made", 1, size=5)
    assert (first.total, first.pages, [one.position for one in first.rows]) == (13, 3, [0, 1, 2, 3, 4])
    last = library.attempts("made", 1, page=3, size=5)
    assert [one.position for one in last.rows] == [10, 11, 12]
    assert library.attempts("made", 1, page=4, size=5).rows == ()
    stored = library.store.read_table(library.artifact("made@1/attempts").manifest).to_pylist()
    shown = library.attempts("made", 1, size=20).rows
    assert [(one.problem_id, one.attempt, one.text) for one in shown] == [
        (one["problem_id"], one["attempt"], one["text"]) for one in stored
    ]
    wrong = next(one for one in shown if one.verdict == "wrong_answer")
    assert wrong.reason == f"answered '0', wanted '{wrong.label}'" and wrong.question.startswith("What is ")
    assert library.attempt("made", 1, wrong.problem_id, wrong.attempt) == wrong
    assert library.values("made", 1)["verdict"] == {"accepted": 10, "wrong_answer": 3}
    assert library.attempts("made", 2, kind="predictions").total == 4


def test_filters_orders_and_searches_choose_rows(library: Library) -> None:
    def total(**chosen: object) -> int:
        return library.attempts("made", 1, Filter(**chosen)).total  # type: ignore[arg-type]

    everything = library.attempts("made", 1, size=20).rows
    assert total(verdict="accepted") == 10 and total(verdict="wrong_answer", prompt_kind="hinted") == 0
    assert total(prompt_kind="hinted") == 3 and total(label="7") == 1
    assert total(problem_id=everything[0].problem_id) == sum(
        one.problem_id == everything[0].problem_id for one in everything
    )
    assert total(min_length=12, max_length=12) == 13 and total(min_length=13) == 0
    assert total(min_logprob=-3.5, max_logprob=-3.5) == 13 and total(max_logprob=-4.0) == 0
    assert total(max_leak=0) == 10 and total(min_leak=1) == 0  # all that is right is looked at, and none leaks
    assert total(text="TWO adding") == 13 and total(text='"adding two"') == 0 and total(text='"answer: 7"') == 1
    assert total(text="%") == 0 and total(text="' OR 1=1 --") == 0
    for sort in SORTS:
        rows = library.attempts("made", 1, sort=sort, size=20).rows
        assert sorted(one.position for one in rows) == list(range(13))
    assert [one.problem_id for one in library.attempts("made", 1, sort="problem", size=20).rows] == sorted(
        one.problem_id for one in everything
    )


def test_one_problem_is_followed_through_all_iterations(library: Library) -> None:
    wrong = next(one for one in library.attempts("made", 1, size=20).rows if one.verdict == "wrong_answer")
    found = library.problem("made", wrong.problem_id)
    assert [(one.iteration, one.kind, one.attempt, one.prompt_kind) for one in found] == [
        (k, "attempts", n, kind) for k in (1, 2) for n, kind in enumerate(("plain", "hinted"))
    ]
    test = library.attempts("made", 0, kind="predictions").rows[0]
    assert [one.iteration for one in library.problem("made", test.problem_id)] == [0, 1, 2]


def test_without_an_index_a_problem_is_read_from_its_part_and_looks_the_same(real_store: Store, tmp_path: Path) -> None:
    config = made_config(prompts={"hinted": "{question} Adding the two numbers in iteration gives {answer}"})
    make_run(real_store, config)
    library = Library(real_store.url, tmp_path / "cache")
    library.prepare("made")
    assert {one.leak for one in library.attempts("made", 1).rows} == {None, 1}
    (train, _), *_ = library.artifact("made@1/attempts").inputs
    problems = library.artifact(train.artifact).manifest
    for one in library.attempts("made", 1, size=50).rows:
        place = one_problem.find(real_store, problems, one.problem_id)
        assert place is not None
        drawn, decided = (library.artifact(f"made@1/{kind}").manifest for kind in ("attempts", "verdicts"))
        rows = one_problem.rows(real_store, drawn, decided, *place)
        assert rows is not None
        shown = library.attempts("made", 1, Filter(problem_id=one.problem_id)).rows
        own = [{name: getattr(row, name) for name in rows[0] if name != "seed"} for row in shown]
        assert [{name: value for name, value in row.items() if name != "seed"} for row in rows] == own
    assert one_problem.find(real_store, problems, "0" * 16) is None


def test_who_looks_at_a_run_finds_its_iterations_prepared(made_folder: Path, tmp_path: Path) -> None:
    library = Library(str(made_folder), tmp_path / "cache")
    library.run("made")
    library.close()  # waits for what has begun
    begun = len(list((tmp_path / "cache" / "browse").glob("*.duckdb")))
    assert begun
    whole = Library(str(made_folder), tmp_path / "cache")
    whole.prepare("made")
    assert (
        len(list((tmp_path / "cache" / "browse").glob("*.duckdb"))) == 9
    )  # attempts and their leaks, predictions, problems
    whole.close()


def test_many_readers_share_few_open_indexes(
    made_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fem_core.browse.index._ATTACHED", 1)  # every other page opens one and closes another
    library = Library(str(made_folder), tmp_path / "cache")
    problem = library.attempts("made", 1).rows[0].problem_id

    def read(n: int) -> tuple[int, int, int]:
        k = 1 + n % 2
        leaking = library.attempts("made", k, Filter(max_leak=0)).total
        return library.attempts("made", k).total, leaking, len(library.problem("made", problem))

    with ThreadPoolExecutor(8) as readers:
        assert set(readers.map(read, range(40))) == {(13, 10, 2)}
    library.close()


def test_a_page_that_many_read_at_once_is_made_once_and_soon_anew(
    made_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(made_folder, folder)
    library = Library(str(folder), tmp_path / "cache")
    with ThreadPoolExecutor(8) as readers:
        assert len({id(page) for page in readers.map(library.run, ["made"] * 16)}) < 16
    deletion.mark(Store.open(str(folder)), "made")
    monkeypatch.setattr("fem_core.browse.remembered._SHARED", 0.0)
    assert library.run("made").deleted
    library.close()


def test_what_is_prepared_ahead_stands_back_for_who_waits(made_folder: Path, tmp_path: Path) -> None:
    library = Library(str(made_folder), tmp_path / "cache")
    ahead = threading.Thread(target=library.prepare, args=("made",))
    with library._somebody_waits():
        ahead.start()
        ahead.join(0.5)
        assert not list((tmp_path / "cache" / "browse").glob("*.duckdb"))
    ahead.join()
    assert len(list((tmp_path / "cache" / "browse").glob("*.duckdb"))) == 9
    library.close()


def test_an_artifact_is_found_by_path_and_digest_with_its_neighbours(library: Library) -> None:
    page = library.artifact("runs/made/iteration=001/attempts")
    assert [(ref.role, found is not None) for ref, found in page.inputs] == [("problems", True), ("checkpoint", True)]
    assert {one.kind for one in page.consumers} == {"verdicts", "rationales"} and not page.collected
    assert library.artifact(page.manifest.digest[:16]) == page
    outside = library.artifact("runs/made/problems/train").inputs
    assert [found for _, found in outside] == [None]  # the user's file, which is no artifact


def test_an_export_is_what_the_filter_lets_through(library: Library) -> None:
    table = pa.Table.from_batches(library.export("made", 1, Filter(verdict="accepted")))
    shown = library.attempts("made", 1, Filter(verdict="accepted"), size=20).rows
    assert table["position"].to_pylist() == [one.position for one in shown]
    assert table["question"].to_pylist() == [one.question for one in shown]
    assert set(ATTEMPTS.names) <= set(table.column_names)


def test_long_texts_are_exported_and_looked_at_few_at_a_time(
    made_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(str(made_folder), tmp_path / "cache")
    whole = pa.Table.from_batches(library.export("made", 1, Filter(prompt_kind="plain")))
    longest = max(len(one) for one in whole["text"].to_pylist())
    monkeypatch.setattr("fem_core.browse.tables._MOST_TEXT", 3 * longest)
    batches = list(library.export("made", 1, Filter(prompt_kind="plain")))
    assert [one.num_rows for one in batches] == [3, 3, 3, 1] and pa.Table.from_batches(batches) == whole
    monkeypatch.setattr("fem_core.browse.tables._MOST_TEXT", 1)
    assert [one.num_rows for one in library.export("made", 1)] == [1] * 13
    assert library.attempts("made", 1, Filter(max_leak=0)).total == 10, "made with as little text at a time"
    library.close()


def test_what_is_not_there_is_refused_in_a_sentence(library: Library) -> None:
    refused = [
        (lambda: library.run("other"), "There is no run 'other'"),
        (lambda: library.run("../made"), "cannot be the name of a run"),
        (lambda: library.attempts("../../etc", 1), "cannot be the name of a run"),
        (lambda: library.attempts("made", 3), "has no attempts of iteration 3"),
        (lambda: library.attempts("made", 0), "is the base model, which draws no attempts"),
        (lambda: library.attempts("made", -1), "has no attempts of iteration -1"),
        (lambda: library.attempts("made", 1, kind="checkpoint"), "There are no 'checkpoint' to show"),
        (lambda: library.attempts("made", 1, sort="text; DROP TABLE x"), "There is no order"),
        (lambda: library.attempts("made", 1, page=0), "Page 0"),
        (lambda: library.attempts("made", 1, size=100_000), "100000 rows"),
        (lambda: library.attempts("made", 1, Filter(text="a " * 20)), "20 words"),
        (lambda: library.attempts("made", 1, Filter(annotation="fine")), "no annotation 'fine'"),
        (lambda: library.attempt("made", 1, "0" * 16, 13), "no attempt 13"),
        (lambda: library.problem("made", "0" * 16), "no such problem"),
        (lambda: library.artifact("runs/../../etc/passwd"), "names no artifact"),
        (lambda: library.artifact("/etc/passwd"), "names no artifact"),
        (lambda: library.artifact("0" * 64), "has the digest"),
    ]
    for call, sentence in refused:
        with pytest.raises(FemError, match=sentence):
            call()


def test_hostile_texts_come_back_as_they_are(real_store: Store, tmp_path: Path) -> None:
    manifest = hostile_run(real_store)
    library = Library(real_store.url, tmp_path / "cache")
    rows = library.attempts("hostile", 1, size=10).rows
    assert [one.text for one in rows] == HOSTILE
    assert rows[0].more == {'a "quoted" name': "later"} and rows[0].reason == "" and rows[0].question.count("<b>") == 1
    for n, text in ((0, "<script>"), (1, "'; DROP"), (2, "a NUL"), (5, "sure_of"), (5, "it\\n")):
        assert [one.position for one in library.attempts("hostile", 1, Filter(text=f'"{text}"')).rows] == [n]
    for text in ('"Straddles the end"', "end last", "straddles", "bbb far"):
        assert [one.position for one in library.attempts("hostile", 1, Filter(text=text)).rows] == [6], text
    assert library.attempts("hostile", 1, Filter(text="straddles red")).total == 0, "no two texts count as one"
    assert library.attempts("hostile", 1, Filter(text="\u0000")).total == 1
    assert library.attempts("hostile", 1, Filter(verdict="x' OR '1'='1")).total == 0
    exported = pa.Table.from_batches(library.export("hostile", 1))
    assert exported["text"].to_pylist() == HOSTILE and manifest.files[0].rows == len(HOSTILE)


def test_damage_is_named_and_no_index_is_left(made_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(made_folder, folder)
    part = folder / "runs/made/iteration=001/attempts/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    library = Library(str(folder), tmp_path / "cache")
    with pytest.raises(FemError, match="does not hold what its manifest records"):
        library.attempts("made", 1)
    assert library.attempts("made", 2).total == 13  # the rest of the run is there


def test_indexes_are_made_once_and_bounded(made_folder: Path, tmp_path: Path) -> None:
    library = Library(str(made_folder), tmp_path / "cache")
    library.prepare("made")
    files = {file.name: file.stat().st_ino for file in (tmp_path / "cache" / "browse").glob("*.duckdb")}
    again = Library(str(made_folder), tmp_path / "cache")  # another reader of the same cache
    again.prepare("made")
    assert {file.name: file.stat().st_ino for file in (tmp_path / "cache" / "browse").glob("*.duckdb")} == files
    small = Library(str(made_folder), tmp_path / "small", cache_gib=0.001)
    small.prepare("made")
    assert small.attempts("made", 1).total == small.attempts("made", 2).total == 13
    left = sum(file.stat().st_size for file in (tmp_path / "small" / "browse").glob("*.duckdb"))
    assert left < sum((tmp_path / "cache" / "browse" / name).stat().st_size for name in files)


def test_a_damaged_index_is_made_again_and_what_was_left_half_made_goes(made_folder: Path, tmp_path: Path) -> None:
    first = Library(str(made_folder), tmp_path / "cache")
    first.prepare("made")
    first.close()
    folder = tmp_path / "cache" / "browse"
    for file in folder.glob("*.duckdb"):
        file.write_bytes(b"cut off by a crash")
    (folder / ".tmp-spilled").mkdir()
    left = [folder / ".tmp-left.duckdb", folder / ".tmp-left.duckdb.wal", folder / ".tmp-spilled" / "of_another.tmp"]
    for file in (*left, folder / ".tmp-new.duckdb"):
        file.write_bytes(b"half")
        os.utime(file, (0, 0) if file in left else None)
    again = Library(str(made_folder), tmp_path / "cache")
    assert again.attempts("made", 1).total == 13 and again.attempts("made", 1, Filter(max_leak=0)).total == 10
    assert [file.exists() for file in left] == [False] * 3 and (folder / ".tmp-new.duckdb").exists()
    again.close()


def test_the_database_reaches_its_folder_and_nothing_else(made_folder: Path, tmp_path: Path) -> None:
    library = Library(str(made_folder), tmp_path / "cache")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')",
        f"SELECT * FROM '{made_folder}/runs/made/iteration=001/attempts/part-00000.parquet'",
        f"COPY (SELECT 1) TO '{tmp_path / 'written.csv'}'",
        f"ATTACH '{tmp_path / 'other.duckdb'}'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
    ):
        with pytest.raises(duckdb.Error):
            library._indexes._duckdb.cursor().execute(sql)
    library.close()
