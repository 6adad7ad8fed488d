"""`fem audit`: whether a run is what its records say."""

from typing import TYPE_CHECKING

from flows.commands.options import DEFAULT_STORE, StoreUrl
from flows.ending import safe

if TYPE_CHECKING:
    from fem_core.audit.findings import Audit, Checked

_HEADERS = ("artifact", "files", "MB", "rows", "inputs", "again", "state")


def audit(run: str, *, store: StoreUrl = None, deep: bool = False) -> None:
    """Check a run against its records: every file, every link, what was trained on. Exit 1 when something does not hold.

    Parameters
    ----------
    run
        Name of the run, finished or not.
    store
        Folder or URL of the store; ./fem-store by default.
    deep
        Read every page of tables and do the deterministic steps again, too: prompts, verdicts, rationales, scores.
    """
    from fem_core.audit.audit import audit as examine
    from fem_core.model import default_cache
    from fem_core.store.store import Store

    result = examine(Store.open(store or DEFAULT_STORE, check=False), run, deep=deep, cache=default_cache())
    _show_rows(result)
    for level in ("note", "unchecked", "broken"):
        for finding in result.findings:
            if finding.level == level:
                print(_line_of(f"{level}: {finding.sentence()}"))
    print(_line_of(summary(result)))
    if not result.holds:
        raise SystemExit(1)


def summary(result: "Audit") -> str:
    """One line: what was checked, and the first thing that does not hold."""
    rows = result.checked
    done = (
        f"{len(rows)} artifacts, {sum(row.files for row in rows)} files, {sum(row.bytes for row in rows) / 1e6:.1f} MB"
    )
    if result.deep:
        done += f", {sum(row.rederived for row in rows)} derived again"
    if result.missing:
        first = result.missing[0].split("/", 2)[2]
        done += f"; the run is unfinished, {len(result.missing)} artifacts from {first} on are still to be made"
    open_ends = [finding for finding in result.findings if finding.level == "unchecked"]
    if open_ends:
        done += f"; {len(open_ends)} checks could not be done here"
    if result.holds:
        return f"Run {result.run} holds: {done}."
    return (
        f"Run {result.run} does not hold ({len(result.broken)} findings; {done}). First broken link: "
        f"{result.broken[0].sentence()}"
    )


def _show_rows(result: "Audit") -> None:
    """A table for people, plain lines for what is not a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        for row in result.checked:
            print(_line_of(_line(row)))
        return
    table = Table(box=None, pad_edge=False)
    for header in _HEADERS:
        table.add_column(header, justify="left" if header in ("artifact", "state") else "right", no_wrap=True)
    for row in result.checked:
        table.add_row(*(Text(safe(cell)) for cell in _cells(row)))
    Console(width=max(console.width, 120), highlight=False).print(table)


def _cells(row: "Checked") -> tuple[str, ...]:
    inputs = str(row.inputs) + (f" + {row.external} external" if row.external else "")
    rows = "-" if row.rows is None else str(row.rows)
    again = "yes" if row.rederived else "-"
    return row.artifact, str(row.files), f"{row.bytes / 1e6:.2f}", rows, inputs, again, row.state


def _line(row: "Checked") -> str:
    artifact, _, size, _, _, again, state = _cells(row)
    told = f"{_counted(row.files, 'file')}, {size} MB, {_counted(row.inputs, 'input')}"
    told += f" and {row.external} external" if row.external else ""
    told += "" if row.rows is None else f", {_counted(row.rows, 'row')}"
    return f"{state:9} {artifact}: {told}" + (", derived again" if again == "yes" else "")


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _line_of(text: str) -> str:
    """Text from a store as one line."""
    return safe(text).replace("\n", " ")
