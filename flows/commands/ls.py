"""``fem ls``: what is in a store, or in a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.commands.options import DEFAULT_STORE, StoreUrl

_DIGITS = 12
"""Of a digest, for people."""


def ls(run: str | None = None, *, store: StoreUrl = None) -> None:
    """List the runs of a store, or the artifacts of one run.

    Parameters
    ----------
    run
        Name of a run; without it, the runs are listed.
    store
        Folder or URL of the store; ./fem-store by default.
    """
    from rich.filesize import decimal

    from fem_core.report import listing
    from fem_core.store.store import Store

    opened = Store.open(store or DEFAULT_STORE, check=False)
    if run is None:
        lines = listing.runs(opened)
        if not lines:
            print(f"There are no runs in {opened.url}.")
            return
        _print(
            ("run", "state", "iterations", "last score", "95 % interval", ">size", "created"),
            [(line.name, line.state, *_scored(line), decimal(line.bytes), line.created[:19]) for line in lines],
        )
        for line in lines:
            if line.trouble is not None:
                print(_clean(f"{line.name}: {line.trouble}"))
        return
    found = listing.artifacts(opened, run)
    _print(
        ("artifact", "kind", "digest", ">rows", ">size", "step", "finished", "files lie in"),
        [
            (
                line.name,
                line.manifest.kind,
                line.manifest.digest[:_DIGITS],
                "-" if line.rows is None else str(line.rows),
                decimal(line.bytes),
                f"{line.manifest.step.name} v{line.manifest.step.version}",
                line.manifest.finished[:19],
                line.elsewhere,
            )
            for line in found
        ],
    )


def _scored(line: Any) -> tuple[str, str, str]:
    """Iterations done of K, accuracy and interval; dashes for what is not there."""
    done = "-" if line.iterations is None else f"{line.scored or 0} of {line.iterations}"
    scores: Mapping[str, Any] = line.scores or {}
    if not {"accuracy", "low", "high"} <= scores.keys():
        return done, "-", "-"
    return done, f"{scores['accuracy']:.3f}", f"{scores['low']:.3f} to {scores['high']:.3f}"


def _print(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as wide as it needs to be; ``>`` before a header sets its column to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for header in headers:
        right = header.startswith(">")
        table.add_column(header.removeprefix(">"), justify="right" if right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_clean(cell)) for cell in row))  # Text: what is in a store is no markup
    width = Console().measure(table, options=Console(width=10_000).options).maximum
    Console(width=max(Console().width, width), highlight=False).print(table)


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isprintable())
