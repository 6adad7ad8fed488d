"""`fem compare`: the runs of a comparison, and what they say against each other."""

import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fem_core.compare.cells import Cell, beside, cells
from fem_core.compare.comparison import Comparison, load_comparison
from fem_core.errors import FemError
from flows.commands.options import Set, StoreUrl
from flows.ending import leave, part, safe, sentence

if TYPE_CHECKING:
    from fem_core.compare.results import Results
    from fem_core.store.store import Store


def compare(
    comparison: Path,
    *,
    store: StoreUrl = None,
    set_: Set = (),
    concurrency: int | None = None,
    dry_run: bool = False,
    report: bool = False,
) -> None:
    """Do the runs of a comparison that are not finished, and show all of them against each other.

    Parameters
    ----------
    comparison
        YAML file; docs/compare.md describes it.
    store
        Folder or URL of the store of all runs; the base configuration's by default.
    set_
        Override a field of the base, such as ``--set iterations=2``; may be repeated.
    concurrency
        Runs at a time; the file's number by default, and that is 1.
    dry_run
        List the runs, and which are finished; write nothing.
    report
        Report on what the store has; run nothing.
    """
    if concurrency is not None and concurrency < 1:
        raise FemError(f"--concurrency {concurrency} does no runs. Write 1 or more.")
    described = load_comparison(comparison, set_, store)
    found = cells(described)
    if dry_run:
        _list(_open(found), described, found)
        return
    if report:
        _report(described, found)
        return
    _execute(described, found, concurrency)


def _list(store: "Store", described: Comparison, found: Sequence[Cell]) -> None:
    from fem_core.compare.results import FINISHED, state

    width = max(len(cell.name) for cell in found)
    states = {cell.name: state(store, cell) for cell in found}
    first = beside(found)
    for cell in found:
        name = first[cell.name].name
        shares = "" if name == cell.name else f"shares what {name} has made alike"
        print(f"{cell.name:{width}}  {states[cell.name]:21}  {cell.config.digest()[:12]}  {shares}".rstrip())
    done = sum(one == FINISHED for one in states.values())
    print(f"\n{described.name}: {done} of {len(found)} runs are finished, store {store.url}")


def _report(described: Comparison, found: Sequence[Cell]) -> None:
    from fem_core.compare.report import write
    from fem_core.compare.results import results

    store = _open(found)
    came = results(store, described, found)
    if not came.rows:
        raise FemError(
            f"No run of {described.name!r} has begun in {store.url}. Begin with: {_again(without='--report')}"
        )
    _show(came, write(store, came))


def _execute(described: Comparison, found: Sequence[Cell], concurrency: int | None) -> None:
    from flows.commands.execute import keep_traceback, provide_server, quiet_prefect

    quiet_prefect()
    from prefect.exceptions import CancelledRun, TerminationSignal
    from rich.console import Console

    from flows.compare import RunsFailed
    from flows.compare import compare as flow
    from flows.terminal import follower
    from tasks.step import LISTENER

    failures: dict[str, BaseException] = {}
    with follower(Console()) as listener:
        LISTENER.set(listener)
        provide_server()
        try:
            asyncio.run(flow(described, concurrency))
        except FemError:
            raise
        except RunsFailed as failed:
            failures = failed.failures
        except (KeyboardInterrupt, TerminationSignal) as stop:
            code = 130 if isinstance(stop, KeyboardInterrupt) else 143
            leave(f"Stopped. What is committed is kept; continue with: {_again()}", code)
        except CancelledRun:
            leave(f"Cancelled in the Prefect UI. What is committed is kept; continue with: {_again()}", 1)
        except Exception as error:  # noqa: BLE001 (told in a sentence, its traceback kept in a file)
            log = keep_traceback(described.name)
            leave(f"The comparison failed: {sentence(error)}\nThe traceback is in {log}. Continue with: {_again()}", 1)
    from fem_core.compare.results import results
    from fem_core.store.layout import comparison as place

    store = _open(found)
    _show(results(store, described, found), f"{store.url}/{place(described.name)}")
    if failures:
        for name, failure in failures.items():
            print(f"{name} failed: {sentence(failure)}", file=sys.stderr)
        leave(f"{len(failures)} of {len(found)} runs failed. Continue with: {_again()}", 1)
    part("the comparison is complete in its store.", 0)


def _open(found: Sequence[Cell]) -> "Store":
    from fem_core.store import access
    from fem_core.store.store import Store

    access.use(found[0].config.s3)
    return Store.open(found[0].config.store, check=False)


def _show(came: "Results", place: str) -> None:
    from fem_core.compare.report import fairness, line_table, notes, pair_table, title

    print(title(came))
    print(fairness(came))
    _table(line_table(came.lines))
    if came.at_budget:
        print("\nAt equal draws:")
        _table(line_table(came.at_budget))
    if came.pairs:
        print("\nArms against each other:")
        _table(pair_table(came))
    for note in notes(came):
        print(safe(note))
    print(f"\nThe report, the figures and the rows are in {place}")


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first row is the headers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for i, header in enumerate(rows[0]):
        table.add_column(header, justify="left" if i < 2 else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    width = Console().measure(table, options=Console(width=10_000).options).maximum
    Console(width=max(Console().width, width), highlight=False).print(table)


def _again(without: str = "") -> str:
    return shlex.join(["fem", *(word for word in sys.argv[1:] if word != without)])
