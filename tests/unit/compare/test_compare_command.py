"""`fem compare` short of running: its list, its report, its refusals, and how runs begin beside each other."""

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_run import make_run
from prefect.logging import disable_run_logger

from fem_core.audit.audit import audit
from fem_core.compare.cells import Cell, cells
from fem_core.compare.comparison import load_comparison
from fem_core.config import RunConfig
from fem_core.errors import FemError
from fem_core.store import fork
from fem_core.store.deletion import mark
from fem_core.store.store import Store
from flows.commands.compare import compare
from flows.compare import _run, begin_beside, in_order
from tasks import prepare, step
from tasks.report import report

ROOT = Path(__file__).parents[3]
BASE: dict[str, Any] = {
    "iterations": 2,
    "problems": {"source": "table", "path": "sums.jsonl", "answer_kind": "number", "test": 4},
    "scheme": {"name": "star", "budget": 1},
    "sample": {"problems_per_part": 4},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two arms that differ in training, one seed."""
    data = {"base": BASE | {"store": str(tmp_path / "store")}, "axes": {"train.epochs": [1, 2]}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "c.yaml"


def test_a_dry_run_lists_the_runs_and_writes_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(file, dry_run=True)
    said = capsys.readouterr().out
    assert re.search(r"^c\.epochs-1\.seed-0  to run +[0-9a-f]{12}$", said, flags=re.MULTILINE)
    assert "c.epochs-2.seed-0  to run" in said and "shares what c.epochs-1.seed-0 has made alike" in said
    assert "c: 0 of 2 runs are finished" in said
    assert [path.name for path in file.parent.iterdir()] == ["c.yaml"]
    make_run(Store.open(str(file.parent / "store")), cells(load_comparison(file))[0].config)
    compare(file, dry_run=True)
    assert "c: 1 of 2 runs are finished" in capsys.readouterr().out


def test_a_report_reads_what_is_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FemError, match="No run of 'c' has begun in"):
        compare(file, report=True)
    store = Store.open(str(file.parent / "store"))
    for cell in cells(load_comparison(file)):
        make_run(store, cell.config)
    compare(file, report=True)
    said = capsys.readouterr().out
    assert "c: 2 of 2 runs finished" in said and "Nothing is made equal" in said
    assert re.search(r"^epochs-1 +2 +1 +0\.500 +1\.000 +12\.0 +10 +26 +312$", said, flags=re.MULTILINE)
    assert re.search(r"^epochs-1 +epochs-2 +2 and 2 +1 +4 +0 +0 +\+0\.000", said, flags=re.MULTILINE)
    assert f"The report, the figures and the rows are in {store.url}/compare/c" in said


def test_no_runs_at_a_time_are_refused(file: Path) -> None:
    with pytest.raises(FemError, match="--concurrency 0 does no runs"):
        compare(file, concurrency=0)


def test_the_list_and_a_mistake_load_nothing_heavy(file: Path) -> None:
    code = (
        "import sys, flows.cli\n"
        "try:\n    flows.cli.app(sys.argv[1:], exit_on_error=False)\n"
        "except flows.cli.FemError as error:\n    print(error)\n"
        "bad = {'torch', 'vllm', 'prefect', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(','.join(bad) or 0)"
    )
    for more, said in ((), "0 of 2"), (("--set", "scheme.nam=rs"), "did you mean 'scheme.name'?"):
        command = [sys.executable, "-c", code, "compare", str(file), "--dry-run", *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr


def test_the_pages_own_example_is_a_valid_comparison(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/compare.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "which.yaml").write_text(example)
    shutil.copy(ROOT / "configs" / "demo.yaml", tmp_path)
    names = [cell.name for cell in cells(load_comparison(tmp_path / "which.yaml"))]
    assert len(names) == 9 and names[0] == "which.rs-1.train-160.seed-0"


# -- runs that begin beside each other ---------------------------------------------------------------------------------


def test_a_run_begins_as_a_fork_of_the_first_and_refers_to_what_is_alike(file: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    first, second = cells(load_comparison(file))
    begin_beside(store, second, first, check=False)
    assert store.run(second.name) is None, "the first one has not begun"
    make_run(store, first.config)
    begin_beside(store, second, first, check=False)
    record = store.run(second.name)
    parent = fork.parent_of(record)
    assert record is not None and record.digest == second.config.digest()
    assert parent == fork.begin(store, first.name, None) and parent.iteration == 0
    theirs = store.manifest(f"runs/{first.name}/problems/train")
    assert theirs is not None
    todo = prepare.problems_work(second.name, second.config, "train", tuple(theirs.inputs))
    found = fork.find(store, record, todo.artifact, todo.key)
    assert found is not None and (found.digest, found.source) == (theirs.digest, theirs.artifact)
    assert audit(store, second.name, deep=True, cache=tmp_path).broken == ()
    begin_beside(store, first, first, check=False)
    assert fork.parent_of(store.run(first.name)) is None


@pytest.mark.parametrize("why", ["another configuration", "deleted"])
def test_a_first_run_that_cannot_be_referred_to_is_left_alone(file: Path, tmp_path: Path, why: str) -> None:
    store = Store.open(str(tmp_path / "store"))
    first, second = cells(load_comparison(file))
    other = first.config.model_copy(update={"iterations": 1}) if why != "deleted" else first.config
    make_run(store, other)
    if why == "deleted":
        mark(store, first.name)
    begin_beside(store, second, first, check=False)
    assert store.run(second.name) is None, "it makes everything itself"


class Told(step.Silent):
    """Keeps what people are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def noted(self, step: str, text: str) -> None:
        self.lines.append(f"{step}: {text}")


def test_a_run_that_is_marked_deleted_is_told_and_not_done(file: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    cell, _ = cells(load_comparison(file))
    make_run(store, cell.config)
    mark(store, cell.name)
    told = Told()

    async def did(config: RunConfig) -> None:
        raise AssertionError(f"{config.name} is deleted")

    async def run() -> None:
        step.LISTENER.set(told)
        await _run(store, cell, cell, did, "run 1 of 2")

    with disable_run_logger():
        asyncio.run(run())
    said = "marked deleted, so it is left out; fem delete c.epochs-1.seed-0 --undo brings it back"
    assert told.lines == [f"c.epochs-1.seed-0: {said}"]


def test_a_run_that_is_scored_and_has_no_report_is_begun_again(file: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    cell, _ = cells(load_comparison(file))
    make_run(store, cell.config)
    begun: list[RunConfig] = []

    async def did(config: RunConfig) -> None:
        begun.append(config)
        await report.fn(step.Run(cell.name, config, store, Path()))

    async def run() -> None:
        for _ in range(2):
            await _run(store, cell, cell, did, "run 1 of 2")

    with disable_run_logger():
        asyncio.run(run())
    assert begun == [cell.config]


def test_runs_that_are_done_side_by_side_name_themselves_with_every_line(file: Path, tmp_path: Path) -> None:
    store, told = Store.open(str(tmp_path / "store")), Told()
    first, second = cells(load_comparison(file))

    async def did(config: RunConfig) -> None:
        step.LISTENER.get().noted("sample · 1", "a part of it")

    async def run() -> None:
        step.LISTENER.set(told)
        await _run(store, first, first, did, "run 1 of 2", alone=False)
        await _run(store, second, second, did, "run 2 of 2")

    with disable_run_logger():
        asyncio.run(run())
    assert told.lines == [
        "c.epochs-1.seed-0: run 1 of 2",
        "c.epochs-1.seed-0 sample · 1: a part of it",
        "c.epochs-2.seed-0: run 2 of 2",
        "sample · 1: a part of it",
    ]


@pytest.mark.parametrize(
    ("at_a_time", "began"),
    [(1, ["1a", "1b", "1c", "2a", "2b", "2c"]), (2, ["1a", "2a", "1b", "1c", "2b", "2c"]), (9, None)],
)
def test_runs_are_done_in_order_and_wait_for_the_first_of_their_group(
    file: Path, at_a_time: int, began: list[str] | None
) -> None:
    data = yaml.safe_load(file.read_text()) | {"axes": {"train.epochs": [1, 2, 3], "seed": [1, 2]}}
    file.write_text(yaml.safe_dump(data))
    found = cells(load_comparison(file))
    names = {cell.name: f"{cell.seed}{'abc'[int(cell.config.train.epochs) - 1]}" for cell in found}
    said: list[str] = []
    most = 0

    async def one(cell: Cell) -> None:
        nonlocal most
        said.append(names[cell.name])
        most = max(most, len(said) - sum(word.startswith("end") for word in said) * 2)
        await asyncio.sleep(0.01)
        said.append(f"end {names[cell.name]}")

    asyncio.run(in_order(found, at_a_time, one))
    first = [word for word in said if not word.startswith("end")]
    assert sorted(first) == sorted(names.values())
    assert began is None or first == began
    assert all(said.index(f"end {seed}a") < said.index(f"{seed}{other}") for seed in "12" for other in "bc")
    assert most <= at_a_time
