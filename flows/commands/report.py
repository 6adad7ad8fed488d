"""``fem report``: a run as one HTML file."""

from pathlib import Path

from flows.commands.options import DEFAULT_STORE, StoreUrl


def report(run: str, *, out: Path | None = None, attempts: int = 10, store: StoreUrl = None) -> None:
    """Write a run as one HTML file that needs nothing else: curves, verdicts, warnings, lineage, rationales.

    Parameters
    ----------
    run
        Name of the run.
    out
        The file; RUN.html by default. A file that is there is replaced.
    attempts
        How many attempts of each iteration to show, 0 to 200.
    store
        Folder or URL of the store; ./fem-store by default.
    """
    from fem_core.browse.alone import report as written
    from fem_core.browse.library import MOST_ROWS, Library
    from fem_core.errors import FemError

    if not 0 <= attempts <= MOST_ROWS:
        raise FemError(f"{attempts} attempts of each iteration cannot be shown. Choose 0 to {MOST_ROWS}.")
    library = Library(store or DEFAULT_STORE)
    try:
        text = written(library, run, attempts)
    finally:
        library.close()
    place = out or Path(f"{run}.html")
    try:
        place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FemError(f"{str(place)!r} cannot be written ({error.strerror}). Name another file with --out.") from error
    print(f"{place}: {len(text.encode()):,} bytes")
