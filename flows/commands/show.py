"""`fem show`: the table of a run."""

from flows.commands.options import DEFAULT_STORE, StoreUrl


def show(run: str, *, store: StoreUrl = None) -> None:
    """Show the table of a run, finished or not.

    Parameters
    ----------
    run
        Name of the run.
    store
        Folder or URL of the store; ./fem-store by default.
    """
    from rich.console import Console
    from rich.table import Table

    from fem_core.report.summary import HEADERS, cells, notes, summarise, title
    from fem_core.store.store import Store

    summary = summarise(Store.open(store or DEFAULT_STORE, check=False), run)
    table = Table(box=None, pad_edge=False)
    for header in HEADERS:
        table.add_column(header, justify="right" if header != "iteration" else "left", no_wrap=True)
    for row in cells(summary):
        table.add_row(*row)
    print(title(summary))
    Console(width=max(Console().width, 140), highlight=False).print(table)  # a narrow terminal wraps, and hides nothing
    for note in notes(summary):
        print(note)
