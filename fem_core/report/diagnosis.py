"""A run's diagnostics from the store: those that its report holds, or made now from what is committed.

Contract: ``evaluate/diagnostics.py`` has the arithmetic; this reads. Works on a finished, running or failed run. One
iteration's narrow columns are in memory at a time, and its rationales as digests.
"""

from collections.abc import Sequence

import pyarrow as pa

from fem_core.errors import FemError
from fem_core.evaluate.diagnostics import (
    ATTEMPT_COLUMNS,
    PREDICTION_COLUMNS,
    RATIONALE_COLUMNS,
    Past,
    Row,
    as_table,
    of_iteration,
    of_predictions,
)
from fem_core.problems.problem import Problem, from_table
from fem_core.store import layout, tables
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

FILE = "diagnostics.parquet"
"""In the report's artifact."""


def sources(store: Store, run: str, iterations: int) -> list[Manifest]:
    """The committed artifacts that diagnostics are made from, in order."""
    places = [layout.problems(run, "train"), layout.problems(run, "test")]
    for k in range(iterations + 1):
        kinds = ("predictions",) if k == 0 else ("attempts", "rationales", "predictions")
        places += [layout.iteration(run, k, kind) for kind in kinds]
    return [manifest for place in places if (manifest := store.manifest(place)) is not None]


def diagnosis(store: Store, run: str) -> pa.Table:
    """The diagnostics of a run, with ``schemas.DIAGNOSTICS``.

    Raises:
        FemError: there is no such run, or a file does not hold.
    """
    stored = _stored(store, run)
    return made(store, run) if stored is None else stored


def made(store: Store, run: str) -> pa.Table:
    """The same, made now."""
    iterations = int(store.existing_run(run).config["iterations"])
    there = {manifest.artifact: manifest for manifest in sources(store, run, iterations)}
    train, test = (_problems(store, there.get(layout.problems(run, side))) for side in ("train", "test"))
    rows: list[Row] = []
    past = Past()
    for k in range(iterations + 1):
        attempts, rationales, predictions = (
            there.get(layout.iteration(run, k, kind)) for kind in ("attempts", "rationales", "predictions")
        )
        if attempts is not None and rationales is not None:
            drawn, kept = store.iter_tables(attempts, ATTEMPT_COLUMNS), store.iter_tables(rationales, RATIONALE_COLUMNS)
            more, past = of_iteration(k, train, drawn, kept, past)
            rows += more
        if predictions is not None:
            rows += of_predictions(k, test, store.iter_tables(predictions, PREDICTION_COLUMNS))
    return as_table(rows)


def answers(store: Store, run: str) -> list[Row]:
    """What the signatures need of the diagnostics, without reading any attempt: how the model's answers spread.

    Of data that were collected, or do not hold, there are no rows: looking at a run does not fail for them.
    """
    try:
        stored = _stored(store, run)
        if stored is not None:
            return list(stored.to_pylist())
        test = _problems(store, store.manifest(layout.problems(run, "test")))
        rows: list[Row] = []
        for k in range(int(store.existing_run(run).config["iterations"]) + 1):
            predictions = store.manifest(layout.iteration(run, k, "predictions"))
            if predictions is not None:
                rows += of_predictions(k, test, store.iter_tables(predictions, PREDICTION_COLUMNS))
        return rows
    except FemError:
        return []


def _stored(store: Store, run: str) -> pa.Table | None:
    report = store.manifest(layout.report(run))
    if report is None or all(record.path != FILE for record in report.files):
        return None
    return tables.decode(store.read_bytes(report, FILE))


def _problems(store: Store, manifest: Manifest | None) -> Sequence[Problem]:
    return [] if manifest is None else from_table(store.read_table(manifest))
