"""Several runs set against each other: fields that differ, and paired tests on the test problems that they share.

Contract: reads manifests and three columns of predictions, verified; nothing is written.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fem_core.browse.rows import RunPage
from fem_core.evaluate.paired import holm, mcnemar, paired_bootstrap
from fem_core.filter.verdict import ACCEPTED
from fem_core.store import layout, reading
from fem_core.store.deletion import collected
from fem_core.store.store import Store

MOST = 8
"""Runs on one page: as many as there are colours."""

_LONGEST = 300

_WHERE = ("name", "store", "s3")
_CONTENT = ("model", "problems/train", "problems/test")


@dataclass(frozen=True)
class Paired:
    """Two runs on the test problems that both have answered."""

    first: str
    second: str
    iteration: int = 0
    """The last that both have scored."""
    problems: int = 0
    """How many they share; 0 where there is nothing to test."""
    only_first: int = 0
    only_second: int = 0
    difference: float = 0.0
    """Accuracy of the second less that of the first."""
    low: float = 0.0
    high: float = 0.0
    """95 % interval, paired bootstrap."""
    p: float = 1.0
    """Exact McNemar test."""
    p_holm: float = 1.0
    """The same, adjusted for the number of pairs."""


def fields(pages: Sequence[RunPage]) -> list[tuple[str, list[str]]]:
    """What is not the same in all runs, with the value in each: fields of the configuration with those that are in no
    digest, then the digests of base model and problems, which say whether the same name means the same."""
    configs = [dict(_leaves(page.record.config, "")) | _places(page) for page in pages]
    contents = [
        {f"{line.name} (digest)": line.manifest.digest[:12] for line in page.artifacts if line.name in _CONTENT}
        for page in pages
    ]
    return [row for flat in (configs, contents) for row in _different(flat)]


def _different(flat: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    rows = [(name, [one.get(name, "(absent)") for one in flat]) for name in sorted(set().union(*flat))]
    return [(name, [_short(value) for value in values]) for name, values in rows if len(set(values)) > 1]


def _places(page: RunPage) -> dict[str, str]:
    """Fields that are in no digest, but for those that say where a run is rather than what it does."""
    found = {name: value for name, value in page.record.places.items() if name.partition(".")[0] not in _WHERE}
    return {name: json.dumps(value, sort_keys=True, ensure_ascii=False) for name, value in found.items()}


def paired(store: Store, pages: Sequence[RunPage]) -> list[Paired]:
    """Every two of the runs.

    Raises:
        FemError: predictions are missing or do not hold.
    """
    found = []
    right: dict[tuple[str, int], dict[str, bool]] = {}
    for first, second in itertools.combinations(pages, 2):
        names = first.record.name, second.record.name
        both = sorted(_scored(first) & _scored(second))
        if not both:
            found.append(Paired(*names))
            continue
        for name in names:
            if (name, both[-1]) not in right:
                right[name, both[-1]] = _right(store, name, both[-1])
        found.append(_pair(*names, both[-1], right[names[0], both[-1]], right[names[1], both[-1]]))
    tested = [one for one in found if one.problems]
    adjusted = iter(holm([one.p for one in tested]))
    return [replace(one, p_holm=next(adjusted)) if one.problems else one for one in found]


def _pair(first: str, second: str, k: int, a: Mapping[str, bool], b: Mapping[str, bool]) -> Paired:
    differences = [b[problem] - a[problem] for problem in sorted(a.keys() & b.keys())]
    if not differences:
        return Paired(first, second)
    low, high = paired_bootstrap(differences)
    only_first, only_second = differences.count(-1), differences.count(1)
    return Paired(
        first=first,
        second=second,
        iteration=k,
        problems=len(differences),
        only_first=only_first,
        only_second=only_second,
        difference=sum(differences) / len(differences),
        low=low,
        high=high,
        p=mcnemar(only_first, only_second),
    )


def _scored(page: RunPage) -> set[int]:
    rows = page.summary.rows
    return {row.iteration for row in rows if row.scores and row.exemplars == rows[0].exemplars}


def _right(store: Store, run: str, k: int) -> dict[str, bool]:
    manifest = store.manifest(layout.iteration(run, k, "predictions"))
    if manifest is None or collected(store, reading.holder(manifest)) is not None:
        return {}
    return {
        row["problem_id"]: row["verdict"] == ACCEPTED
        for table in store.iter_tables(manifest, ["problem_id", "attempt", "verdict"])
        for row in table.to_pylist()
        if row["attempt"] == 0  # the greedy one, before sampled ones
    }


def _leaves(value: Any, where: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [
            leaf for name, item in value.items() for leaf in _leaves(item, f"{where}.{name}" if where else str(name))
        ]
    return [(where, json.dumps(value, sort_keys=True, ensure_ascii=False))]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
