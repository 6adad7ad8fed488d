"""What the runs of a comparison came to: figures over seeds, and tests between arms. Read from the store alone.

Contract: reads manifests and predictions, writes nothing, and takes what is committed: an unfinished run gives the
iterations that it has. Means and Student intervals are over seeds. Tests pair what two arms answered to the same test
problem under the same seed, at the last iteration, or with ``fair: draws`` at the last one that both can pay for.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import pyarrow as pa

from fem_core.compare.cells import Cell
from fem_core.compare.comparison import Comparison
from fem_core.compare.controls import label_fitting
from fem_core.errors import FemError
from fem_core.evaluate.paired import holm, mcnemar, paired_bootstrap, t_interval
from fem_core.filter.verdict import ACCEPTED
from fem_core.report.signatures import below_rs, hints_hurt
from fem_core.report.summary import Row, Summary, summarise
from fem_core.schemas import COMPARISON
from fem_core.store import layout
from fem_core.store.deletion import deleted_at
from fem_core.store.store import Store

FINISHED, UNFINISHED, TO_RUN = "finished", "unfinished", "to run"
"""States of a run: scored to its last iteration, begun, and not in the store."""

OTHER, DELETED = "another configuration", "deleted"
"""States of a run that takes no part: in the store as another one, and marked deleted."""


@dataclass(frozen=True)
class Mean:
    """A mean over seeds."""

    value: float
    """The mean."""
    half: float | None
    """Half of the 95 % Student interval; None for one seed."""


@dataclass(frozen=True)
class Line:
    """One arm after one iteration, over the seeds that have come so far."""

    arm: str
    """The arm."""
    iteration: int
    """k."""
    last: int
    """k, or the last one where seeds end at different iterations."""
    exemplars: int
    """How many exemplars the evaluation's prompt showed."""
    seeds: int
    """Scored runs, which this is over."""
    figures: Mapping[str, Mean]
    """By column of ``schemas.COMPARISON``; what no run has is left out."""


@dataclass(frozen=True)
class Pair:
    """Two arms on the same test problems."""

    first: str
    second: str
    """The arms."""
    seeds: int
    """Seeds in which both are there."""
    iterations: str
    """Of the first and of the second, by seed where they differ."""
    pairs: int
    """Test problems over all these seeds."""
    only_first: int
    only_second: int
    """Problems that only one of the two got right."""
    difference: float
    """Accuracy of the second less that of the first, over all pairs."""
    low: float
    high: float
    """95 % interval of it over groups of test problems, by paired bootstrap."""
    over_seeds: Mean
    """The mean of the seeds' differences."""
    p: float
    """McNemar's exact test."""
    p_holm: float = 1.0
    """The same, adjusted for the number of pairs of arms."""


@dataclass(frozen=True)
class Results:
    """All there is to report."""

    comparison: Comparison
    states: Mapping[str, str]
    """State by run."""
    rows: Sequence[Mapping[str, Any]]
    """As ``schemas.COMPARISON``."""
    lines: Sequence[Line]
    """The rows over seeds."""
    pairs: Sequence[Pair]
    """Every two arms that can be compared."""
    budget: Mapping[int, int] = field(default_factory=dict)
    """With ``fair: draws``, by seed: the draws that every arm may use. None where all arms are controls."""
    at_budget: Sequence[Line] = ()
    """With ``fair: draws``, the arms where their budget ends."""
    notes: Sequence[str] = ()
    """What the tables do not say by themselves."""

    def table(self) -> pa.Table:
        """The rows."""
        return pa.Table.from_pylist([dict(row) for row in self.rows], schema=COMPARISON)


def state(store: Store, cell: Cell) -> str:
    """How far a run is."""
    record = store.run(cell.name)
    if record is None:
        return TO_RUN
    if record.digest != cell.config.digest():
        return OTHER
    if deleted_at(store, cell.name) is not None:
        return DELETED
    last = store.manifest(layout.iteration(cell.name, cell.config.iterations, "scores"))
    return UNFINISHED if last is None else FINISHED


def results(store: Store, comparison: Comparison, found: Sequence[Cell]) -> Results:
    """Read what the runs came to.

    Raises:
        FemError: predictions in the store are missing or do not hold.
    """
    states = {cell.name: state(store, cell) for cell in found}
    there = [cell for cell in found if states[cell.name] in (FINISHED, UNFINISHED)]
    summaries = {cell.name: summarise(store, cell.name) for cell in there}
    rows = [row for cell in there for row in _rows(summaries[cell.name], comparison.name, cell)]
    done = [cell for cell in there if states[cell.name] == FINISHED]
    budget = _budget(rows, done) if comparison.fair == "draws" else {}
    reached = {cell.name: _reached(rows, cell, budget.get(cell.seed)) for cell in done}
    pairs, notes = _pairs(store, done, reached)
    notes += _short(rows, comparison.accepted) + _hints_hurt(done, summaries, pairs, reached)
    notes += label_fitting(pairs, done, rows, reached)
    shown = {(cell.name, reached[cell.name], cell.config.prompts.train_exemplars) for cell in done if budget}
    at_budget = [row for row in rows if (row["run"], row["iteration"], row["exemplars"]) in shown]
    return Results(comparison, states, rows, _lines(rows), pairs, budget, _lines(at_budget, apart=False), notes)


def _rows(summary: Summary, name: str, cell: Cell) -> list[dict[str, Any]]:
    found, draws, tokens = [], 0, 0
    for row in summary.rows:
        drawn = row.drawn or {}
        draws, tokens = draws + drawn.get("draws", 0), tokens + drawn.get("completion_tokens", 0)
        so_far = {"draws_so_far": draws, "drawn_tokens_so_far": tokens}
        found.append(
            {"comparison": name, "run": cell.name, "arm": cell.arm, "seed": cell.seed, **so_far, **_figures(row)}
        )
    return found


def _figures(row: Row) -> dict[str, Any]:
    scores, drawn, filtered = row.scores or {}, row.drawn or {}, row.filtered or {}
    scored = ("n", "correct", "accuracy", "low", "high", "unparsable", "truncated")
    return {
        "iteration": row.iteration,
        "exemplars": row.exemplars,
        **{name: scores.get(name) for name in scored},
        "calibration_error": scores.get("calibration", {}).get("error"),
        "bound": (row.bound or {}).get("bound"),
        "draws": drawn.get("draws"),
        "drawn_tokens": drawn.get("completion_tokens"),
        "rationales": filtered.get("accepted"),
        "utilization": filtered.get("utilization"),
        "mean_rationale_tokens": None if row.given else filtered.get("mean_rationale_tokens"),
    }


_OVER_SEEDS = (
    *("accuracy", "calibration_error", "bound", "utilization", "mean_rationale_tokens", "rationales"),
    *("draws", "draws_so_far", "drawn_tokens", "drawn_tokens_so_far"),
)


def _lines(rows: Sequence[Mapping[str, Any]], apart: bool = True) -> list[Line]:
    """Rows over seeds, those without an accuracy left out: all figures of a line are over the same runs.

    Args:
        apart: every iteration by itself; else all rows of an arm together.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in (row for row in rows if row["accuracy"] is not None):
        groups.setdefault((row["arm"], *((row["iteration"], row["exemplars"]) if apart else ())), []).append(row)
    lines = []
    for members in groups.values():
        values = {name: [row[name] for row in members if row[name] is not None] for name in _OVER_SEEDS}
        figures = {name: mean_of(some) for name, some in values.items() if some}
        ks = [row["iteration"] for row in members]
        lines.append(Line(members[0]["arm"], min(ks), max(ks), members[0]["exemplars"], len(members), figures))
    order = {arm: i for i, arm in enumerate(dict.fromkeys(row["arm"] for row in rows))}
    first = {row["arm"]: row["exemplars"] for row in reversed(rows) if not row["iteration"]}
    return sorted(lines, key=lambda one: (order[one.arm], one.iteration, one.exemplars != first.get(one.arm)))


def mean_of(values: Sequence[float]) -> Mean:
    """The mean over seeds, with its interval."""
    interval = t_interval(values)
    return Mean(mean(values), None if interval is None else (interval[1] - interval[0]) / 2)


def _budget(rows: Sequence[Mapping[str, Any]], done: Sequence[Cell]) -> dict[int, int]:
    """By seed, the draws of the arm that drew least, control arms left out."""
    total = {row["run"]: row["draws_so_far"] for row in rows}  # the last row of a run counts
    drew = [cell for cell in done if total[cell.name]]
    return {cell.seed: min(total[one.name] for one in drew if one.seed == cell.seed) for cell in drew}


def _reached(rows: Sequence[Mapping[str, Any]], cell: Cell, budget: int | None) -> int:
    """The last iteration of a run, or the last one within its budget; 0 where the first one alone costs more."""
    own = [row for row in rows if row["run"] == cell.name]
    return max(int(row["iteration"]) for row in own if budget is None or row["draws_so_far"] <= budget)


def _pairs(store: Store, done: Sequence[Cell], reached: Mapping[str, int]) -> tuple[list[Pair], list[str]]:
    """Every two arms with the seeds that they share, and what could not be paired."""
    right = {cell.name: _right(store, cell, reached[cell.name]) for cell in done}
    groups: dict[str, str] = {}
    for cell in done:
        groups |= _groups(store, cell)
    by_arm: dict[str, dict[int, Cell]] = {}
    for cell in done:
        by_arm.setdefault(cell.arm, {})[cell.seed] = cell
    pairs, notes = [], []
    for first, second in itertools.combinations(by_arm, 2):
        shared = [seed for seed in by_arm[first] if seed in by_arm[second]]
        sides = [(by_arm[first][seed], by_arm[second][seed]) for seed in shared]
        same = [(a, b) for a, b in sides if right[a.name].keys() == right[b.name].keys()]
        if len(same) < len(sides):
            notes.append(
                f"{first} and {second} have other test problems in {len(sides) - len(same)} of {len(sides)} seeds, which "
                "are not paired."
            )
        if same:
            pairs.append(_pair(first, second, same, right, reached, groups))
    adjusted = holm([pair.p for pair in pairs])
    return [Pair(**{**vars(pair), "p_holm": p}) for pair, p in zip(pairs, adjusted, strict=True)], notes


def _pair(
    first: str,
    second: str,
    sides: Sequence[tuple[Cell, Cell]],
    right: Mapping[str, Mapping[str, bool]],
    reached: Mapping[str, int],
    groups: Mapping[str, str],
) -> Pair:
    differences: list[int] = []
    clusters: list[str] = []
    by_seed: list[float] = []
    for a, b in sides:
        here = {problem: right[b.name][problem] - right[a.name][problem] for problem in sorted(right[a.name])}
        differences += here.values()
        clusters += [groups[problem] for problem in here]
        by_seed.append(mean(here.values()))
    low, high = paired_bootstrap(differences, clusters)
    at = list(dict.fromkeys(f"{reached[a.name]} and {reached[b.name]}" for a, b in sides))
    only_first, only_second = differences.count(-1), differences.count(1)
    return Pair(
        first=first,
        second=second,
        seeds=len(sides),
        iterations="; ".join(at),
        pairs=len(differences),
        only_first=only_first,
        only_second=only_second,
        difference=mean(differences),
        low=low,
        high=high,
        over_seeds=mean_of(by_seed),
        p=mcnemar(only_first, only_second),
    )


def _right(store: Store, cell: Cell, k: int) -> dict[str, bool]:
    """Whether each test problem was answered right after iteration k, greedily."""
    manifest = store.manifest(layout.iteration(cell.name, k, "predictions"))
    if manifest is None:
        raise FemError(
            f"{cell.name} has scores of iteration {k} and no predictions. Look closer: fem audit {cell.name}."
        )
    rows = store.read_table(manifest, ["problem_id", "attempt", "verdict"]).to_pylist()
    return {row["problem_id"]: row["verdict"] == ACCEPTED for row in rows if row["attempt"] == 0}


def _groups(store: Store, cell: Cell) -> dict[str, str]:
    """The group of each test problem: both orders of a pair, or all responses to a prompt, are no two samples."""
    manifest = store.manifest(layout.problems(cell.name, "test"))
    if manifest is None:
        raise FemError(f"{cell.name} has no test problems in the store. Look closer: fem audit {cell.name}.")
    table = store.read_table(manifest, ["problem_id", "group"])
    return dict(zip(*(table[name].to_pylist() for name in ("problem_id", "group")), strict=True))


def _short(rows: Sequence[Mapping[str, Any]], accepted: int | None) -> list[str]:
    """Iterations that had fewer rationales than the comparison asks for."""
    if accepted is None:
        return []
    few = [row for row in rows if row["rationales"] is not None and row["rationales"] < accepted]
    return [
        f"{row['run']}, iteration {row['iteration']}: {row['rationales']} rationales, {accepted} were asked for."
        for row in few
    ]


def _hints_hurt(
    done: Sequence[Cell], summaries: Mapping[str, Summary], pairs: Sequence[Pair], reached: Mapping[str, int]
) -> list[str]:
    """Where PPS scored below RS on the same problems, seed and base model: runs beyond both intervals; arms of which no two
    runs are so far apart, beyond the interval of their pairs."""
    by_scheme = {name: [cell for cell in done if cell.config.scheme.name == name] for name in ("pps", "rs")}
    beside = [both for both in itertools.product(by_scheme["pps"], by_scheme["rs"]) if both[0].group == both[1].group]
    found, said = [], set()
    for hinted, plain in beside:
        signature = below_rs(summaries[hinted.name], summaries[plain.name])
        if signature is not None:
            found.append(f"{hinted.name} beside {plain.name}: {signature.sentence}")
            said.add((hinted.arm, plain.arm))
    by_arms = {frozenset((pair.first, pair.second)): pair for pair in pairs}
    for arms in dict.fromkeys((hinted.arm, plain.arm) for hinted, plain in beside):
        pair = by_arms.get(frozenset(arms))
        if pair is None or arms in said:
            continue
        sign = 1 if pair.second == arms[0] else -1
        low, high = sorted((sign * pair.low, sign * pair.high))
        if high < 0:
            iterations = tuple(sorted({reached[hinted.name] for hinted, plain in beside if hinted.arm == arms[0]}))
            apart = f"PPS less RS is {sign * pair.difference:+.3f} ({low:+.3f} to {high:+.3f} over problems)"
            found.append(f"{arms[0]} beside {arms[1]}: {hints_hurt(iterations, apart).sentence}")
    return found
