"""A run in one table: what each iteration scored, used and cost. Made from manifests alone.

Contract: works on a finished, running or failed run, local or remote, and shows what is committed and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fem_core.store import layout
from fem_core.store.manifest import Manifest, RunRecord
from fem_core.store.store import Store


@dataclass(frozen=True)
class Row:
    """One iteration; iteration 0 is the base model, which may stand there twice."""

    iteration: int
    exemplars: int
    scores: dict[str, Any] | None = None
    filtered: dict[str, Any] | None = None
    drawn: dict[str, Any] | None = None
    trained: dict[str, Any] | None = None
    bound: dict[str, Any] | None = None
    """The figures of ``evaluate/bound.py``, where the run asks for them."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By step: sample, filter, train, evaluate."""

    @property
    def given(self) -> bool:
        """Whether the iteration was trained on given completions: then nothing was drawn, and no length is known."""
        return self.drawn is not None and "given" in self.drawn


@dataclass(frozen=True)
class Summary:
    """A run with its rows in order."""

    record: RunRecord
    rows: list[Row]
    majority_baseline: float | None

    @property
    def iterations(self) -> int:
        """K."""
        return int(self.record.config["iterations"])

    @property
    def finished(self) -> bool:
        """Whether the last iteration is scored."""
        return any(row.iteration == self.iterations and row.scores for row in self.rows)


def summarise(store: Store, run: str) -> Summary:
    """Read a run's manifests.

    Raises:
        FemError: there is no such run.
    """
    record = store.existing_run(run)
    prompts = record.config["prompts"]
    there = {manifest.artifact: manifest for manifest in store.artifacts(run)}
    rows = [_row(there, run, 0, prompts["train_exemplars"], "scores", "predictions")]
    if layout.iteration(run, 0, "predictions-exemplars") in there:
        rows.append(_row(there, run, 0, prompts["sample_exemplars"], "scores-exemplars", "predictions-exemplars"))
    for k in range(1, int(record.config["iterations"]) + 1):
        row = _row(there, run, k, prompts["train_exemplars"], "scores", "predictions")
        if row.drawn is None:
            break
        rows.append(row)
    baselines = [row.scores["majority_baseline"] for row in rows if row.scores]
    return Summary(record, rows, baselines[0] if baselines else None)


def _row(there: dict[str, Manifest], run: str, k: int, exemplars: int, scores_kind: str, predictions_kind: str) -> Row:
    def read(kind: str) -> Manifest | None:
        return there.get(layout.iteration(run, k, kind))

    found = {
        "scores": read(scores_kind),
        "evaluate": read(predictions_kind),
        "sample": read("attempts") if k else None,
        "filter": read("rationales") if k else None,
        "train": read("checkpoint") if k else None,
        "bound": read("bound") if scores_kind == "scores" else None,
    }
    return Row(
        iteration=k,
        exemplars=exemplars,
        scores=_stats(found["scores"]),
        filtered=_stats(found["filter"]),
        drawn=_stats(found["sample"]),
        trained=_stats(found["train"]),
        bound=_stats(found["bound"]),
        seconds={
            step: _seconds(manifest)
            for step in ("sample", "filter", "train", "evaluate")
            if (manifest := found[step]) is not None
        },
    )


def _stats(manifest: Manifest | None) -> dict[str, Any] | None:
    return None if manifest is None else manifest.stats


def _seconds(manifest: Manifest) -> float:
    return (datetime.fromisoformat(manifest.finished) - datetime.fromisoformat(manifest.started)).total_seconds()


HEADERS = (
    "iteration",
    "accuracy",
    "95 % interval",
    "utilization",
    "rationale tokens",
    "draws",
    "tokens drawn",
    "sample s",
    "filter s",
    "train s",
    "evaluate s",
)


def cells(summary: Summary) -> list[tuple[str, ...]]:
    """The table's rows as text, in the order of ``HEADERS``; what is not there yet is a dash."""
    return [_cells(row, summary) for row in summary.rows]


Table = list[tuple[str, ...]]
"""Rows of text, the headers first."""


def further(summary: Summary) -> list[Table]:
    """Tables of what is measured where the configuration asks for it: calibration, and EM's bound."""
    sure = [(row, row.scores["calibration"]) for row in summary.rows if row.scores and "calibration" in row.scores]
    calibration = [
        (
            _label(row, summary),
            str(found["draws"]),
            *(f"{found[name]:.3f}" for name in ("majority_accuracy", "confidence", "error")),
        )
        for row, found in sure
    ]
    bounds = [(_label(row, summary), *_bound(row.bound)) for row in summary.rows if row.bound]
    tables = [[CALIBRATION_HEADERS, *calibration], [BOUND_HEADERS, *bounds]]
    return [table for table in tables if len(table) > 1]


CALIBRATION_HEADERS = ("iteration", "draws per problem", "majority accuracy", "confidence", "calibration error")
BOUND_HEADERS = (
    *("iteration", "bound, nats", "95 % interval", "change", "95 % of change", "without right draw"),
    *("right draws", "effective draws", "gap, nats"),
)


def _bound(found: dict[str, Any]) -> tuple[str, ...]:
    change = found.get("change") or {}
    known = change.get("difference") is not None
    return (
        f"{found['bound']:.3f}",
        f"{found['low']:.3f} to {found['high']:.3f}",
        f"{change['difference']:+.3f}" if known else "-",
        f"{change['low']:+.3f} to {change['high']:+.3f}" if known else "-",
        f"{found['without']} of {found['problems']}",
        f"{found['acceptance']:.3f}",
        f"{found['ess']:.1f} of {found['draws']}",
        "-" if found["gap"] is None else f"{found['gap']:.3f}",
    )


def _label(row: Row, summary: Summary) -> str:
    if row.iteration:
        return str(row.iteration)
    several = sum(other.iteration == 0 for other in summary.rows) > 1
    return f"0 base, {row.exemplars} exemplars" if several else "0 base"


def _cells(row: Row, summary: Summary) -> tuple[str, ...]:
    name = _label(row, summary)
    scores, filtered, drawn = row.scores, row.filtered, row.drawn
    seconds = [f"{row.seconds[s]:.1f}" if s in row.seconds else "-" for s in ("sample", "filter", "train", "evaluate")]
    return (
        name,
        f"{scores['accuracy']:.3f}" if scores else "-",
        f"{scores['low']:.3f} to {scores['high']:.3f}" if scores else "-",
        f"{filtered['utilization']:.3f}" if filtered else "-",
        f"{filtered['mean_rationale_tokens']:.1f}" if filtered and not row.given else "-",
        str(drawn["draws"]) if drawn else "-",
        str(drawn["completion_tokens"]) if drawn else "-",
        *seconds,
    )


def title(summary: Summary) -> str:
    """One line that says which run this is."""
    config = summary.record.config
    problems = config["problems"]
    source = problems["source"]
    if source in ("reasoning_gym", "table"):
        source = problems.get("dataset") or problems.get("hub") or source
    state = "finished" if summary.finished else "unfinished"
    return (
        f"{summary.record.name}: {config['scheme']['name']} on {source}, {summary.iterations} iterations, "
        f"seed {config['seed']}, {state}"
    )


def notes(summary: Summary) -> list[str]:
    """What the table does not say by itself."""
    said = []
    if summary.majority_baseline is not None:
        said.append(f"Always answering the most common training answer scores {summary.majority_baseline:.3f}.")
    said += _grouped(summary)
    weighed = [
        f"{row.filtered['effective_sample_size']:.1f} of {row.filtered['weighed_draws']:.1f} in iteration {row.iteration}"
        for row in summary.rows
        if row.filtered and "effective_sample_size" in row.filtered
    ]
    if weighed:
        said.append(
            f"Effective sample size of the importance weights, of so many draws a problem: {', '.join(weighed)}."
        )
    base = [row.scores for row in summary.rows if row.iteration == 0 and row.scores]
    last = next((row for row in reversed(summary.rows) if row.scores and row.iteration), None)
    if base and last and last.scores:
        best = max(base, key=lambda scores: float(scores["accuracy"]))
        apart = last.scores["low"] > best["high"]
        said.append(
            f"Iteration {last.iteration} scores {last.scores['accuracy']:.3f} on {last.scores['n']} held-out problems; the "
            f"better base model {best['accuracy']:.3f}; the intervals {'do not overlap' if apart else 'overlap'}."
        )
    return said


def _grouped(summary: Summary) -> list[str]:
    """What the intervals of accuracy take problems in groups as."""
    found = [row.scores for row in summary.rows if row.scores and "interval" in row.scores]
    if not found or found[-1]["interval"]["groups"] == found[-1]["n"]:
        return []
    last = found[-1]["interval"]
    return [
        f"The {found[-1]['n']} held-out problems lie in {last['groups']} groups; the last interval takes them as "
        f"{last['effective_number']:.1f} that are independent."
    ]


def markdown(summary: Summary, warnings: Sequence[str] = (), facts: Sequence[str] = ()) -> str:
    """A run as a section of Markdown.

    Args:
        warnings: lines below the table (``signatures.lines``).
        facts: lines above it.
    """
    above = [f"### {title(summary)}", "", *facts, *([""] if facts else [])]
    lines = [*above, *markdown_table([HEADERS, *cells(summary)]), "", *notes(summary), ""]
    for table in further(summary):
        lines += [*markdown_table(table), ""]
    if warnings:
        lines += ["Reasons to look closer:", "", *warnings, ""]
    return "\n".join([*lines, f"Digest of the configuration: `{summary.record.digest[:12]}`"])


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown; the first row is the headers."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]
