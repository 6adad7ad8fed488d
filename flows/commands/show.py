"""`fem show`: the table of a run, its diagnostics, or what it was estimated to cost and did cost."""

from collections.abc import Sequence

from flows.commands.options import DEFAULT_STORE, StoreUrl


def show(run: str, *, store: StoreUrl = None, costs: bool = False, diagnostics: bool = False) -> None:
    """Show the table of a run, finished or not, and what in it gives reason to look closer.

    Parameters
    ----------
    run
        Name of the run.
    store
        Folder or URL of the store; ./fem-store by default.
    costs
        Show what each step was estimated to cost by ``fem plan``, and what it did cost.
    diagnostics
        Show per iteration what was accepted, by label and difficulty, how long rationales are, how much of the accepted
        set is the last one's, and how the model's answers spread.
    """
    if diagnostics:
        _show_diagnostics(run, store or DEFAULT_STORE)
        return
    if costs:
        _show_costs(run, store or DEFAULT_STORE)
        return
    from rich.console import Console
    from rich.table import Table

    from fem_core.report.diagnosis import answers
    from fem_core.report.signatures import signatures
    from fem_core.report.summary import HEADERS, cells, further, notes, summarise, title
    from fem_core.store.store import Store
    from flows.ending import safe

    opened = Store.open(store or DEFAULT_STORE, check=False)
    summary = summarise(opened, run)
    console = Console(width=max(Console().width, 140), highlight=False)  # a narrow terminal wraps, and hides nothing

    def print_table(rows: Sequence[Sequence[str]]) -> None:
        table = Table(box=None, pad_edge=False)
        for header in rows[0]:
            table.add_column(header, justify="right" if header != "iteration" else "left", no_wrap=True)
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)

    print(title(summary))
    print_table([HEADERS, *cells(summary)])
    for note in notes(summary):
        print(note)
    for rows in further(summary):
        print_table(rows)
    for one in signatures(summary, answers(opened, run)):
        print(safe(f"Warning: {one.sentence}"))


def _show_diagnostics(run: str, store_url: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fem_core.report.diagnosis import diagnosis
    from fem_core.report.summary import summarise, title
    from fem_core.store.store import Store
    from flows.ending import safe

    store = Store.open(store_url, check=False)
    summary = summarise(store, run)
    table = Table(box=None, pad_edge=False)
    for header in ("iteration", "measure", "part", "value", "over"):
        table.add_column(header, justify="right" if header in ("value", "over") else "left", no_wrap=True)
    for row in diagnosis(store, run).to_pylist():
        cells = (str(row["iteration"]), row["measure"], row["part"], f"{row['value']:.3f}", str(row["over"]))
        table.add_row(*(Text(safe(cell).replace("\n", " ")) for cell in cells))
    print(title(summary))
    Console(width=max(Console().width, 120), highlight=False).print(table)


def _show_costs(run: str, store_url: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from fem_core.report.costs import HEADERS, cells, costs, notes
    from fem_core.report.summary import summarise, title
    from fem_core.store.store import Store
    from flows.ending import safe

    store = Store.open(store_url, check=False)
    found = costs(store, run)
    table = Table(box=None, pad_edge=False)
    for header in HEADERS:
        table.add_column(header, justify="left" if header == "step" else "right", no_wrap=True)
    for row in cells(found):
        table.add_row(*row)
    print(title(summarise(store, run)))
    Console(width=max(Console().width, 160), highlight=False).print(table)
    for note in notes(found):
        print(safe(note))
