"""Which curves, bars and graphs the pages show of a run, from its summary and manifests."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fem_core.browse.charts import Box, Level, Point, Series, curves, graph, stacked
from fem_core.browse.links import Links
from fem_core.browse.rows import ArtifactPage
from fem_core.report.listing import ArtifactLine
from fem_core.report.summary import Row, Summary
from fem_core.store import layout
from fem_core.store.manifest import InputRef, Manifest

_ORDER = (
    *(
        "accepted",
        "wrong_answer",
        "unparsable",
        "truncated",
        "leaked",
        "annotated",
        "near_duplicate",
        "too_short",
        "too_long",
    ),
    *("over_cap", "over_label_share", "over_size", "verifier_timeout"),
)
"""Verdicts as the bars show them; others follow."""

_COLUMNS = ("attempts", "verdicts", "rationales", "checkpoint", "predictions", "scores")


def accuracy(summary: Summary) -> Series:
    """Held-out accuracy under the training prompt, by iteration."""
    exemplars = summary.rows[0].exemplars
    scored = [(row.iteration, row.scores) for row in summary.rows if row.scores and row.exemplars == exemplars]
    return Series("held out", [Point(k, one["accuracy"], one["low"], one["high"]) for k, one in scored])


def levels(summary: Summary) -> list[Level]:
    """What accuracy is to be held against."""
    found = [
        Level(f"base with {row.exemplars} exemplars", row.scores["accuracy"], row.scores["low"], row.scores["high"])
        for row in summary.rows
        if row.iteration == 0 and row.scores and row.exemplars != summary.rows[0].exemplars
    ]
    if summary.majority_baseline is not None:
        found.append(Level("the most common training answer", summary.majority_baseline))
    return found


def utilization(summary: Summary) -> Series:
    """Share of training problems with a rationale."""
    return Series("utilization", _filtered(summary, "utilization"))


def length(summary: Summary) -> Series:
    """Mean tokens of the rationales; none where they were given."""
    return Series("rationale length", _filtered(summary, "mean_rationale_tokens", drawn=True))


def tokens(summary: Summary) -> Series:
    """Tokens drawn."""
    return Series(
        "tokens", [Point(row.iteration, row.drawn.get("completion_tokens", 0)) for row in summary.rows if row.drawn]
    )


def charts(summary: Summary) -> list[tuple[str, Markup, list[str]]]:
    """Name, chart and names of the lines."""
    steps = ("sample", "filter", "train", "evaluate")
    cost = [
        Series(step, points)
        for step in steps
        if (points := [Point(row.iteration, row.seconds[step]) for row in _once(summary) if step in row.seconds])
    ]
    return [
        ("Accuracy", curves("Accuracy", [accuracy(summary)], levels(summary), most=1), []),
        ("Data utilization", curves("Data utilization", [utilization(summary)], most=1), []),
        ("Rationale length, tokens", curves("Rationale length", [length(summary)]), []),
        ("Tokens drawn", curves("Tokens drawn", [tokens(summary)]), []),
        ("Cost, seconds", curves("Seconds", cost), [one.name for one in cost]),
    ]


def overlaid(summaries: Mapping[str, Summary]) -> list[tuple[str, Markup]]:
    """The same of several runs, one line each."""
    found = []
    for name, make, most in (
        ("Accuracy", accuracy, 1.0),
        ("Data utilization", utilization, 1.0),
        ("Rationale length, tokens", length, None),
        ("Tokens drawn", tokens, None),
    ):
        lines = [Series(run, make(summary).points) for run, summary in summaries.items()]
        found.append((name, curves(name, lines, most=most)))
    return found


def verdicts(summary: Summary, links: Links) -> tuple[Markup, list[str]]:
    """Stacked bars of what became of the draws of each iteration, and the verdicts in them; nothing without any."""
    bars: list[tuple[str, Mapping[str, int]]] = []
    leads: dict[tuple[str, str], str] = {}
    names: list[str] = []
    for row in summary.rows:
        counts = (row.filtered or {}).get("verdicts")
        if not counts:
            continue
        ordered = {name: counts[name] for name in ordered_verdicts(counts)}
        bars.append((str(row.iteration), ordered))
        names += ordered
        for name in ordered:
            href = links.attempts(summary.record.name, row.iteration, verdict=name)
            if href is not None:
                leads[str(row.iteration), name] = href
    if not bars:
        return Markup(""), []
    return stacked("Verdicts per iteration", bars, leads), ordered_verdicts(names)


def ordered_verdicts(names: Any) -> list[str]:
    """Each once, in the order of the bars."""
    there = set(names)
    return [name for name in _ORDER if name in there] + sorted(there - set(_ORDER))


def lineage(lines: Sequence[ArtifactLine], links: Links) -> Markup:
    """A run's artifacts: a row for each iteration, a column for each kind."""
    boxes: dict[str, Box] = {}
    taken: set[tuple[int, int]] = set()
    for line in lines:
        manifest = line.manifest
        head, _, kind = line.name.partition("/")
        inside = head.startswith("iteration=")
        k = int(head.removeprefix("iteration=")) if inside else 0
        column = 0 if not inside else 1 + (_COLUMNS.index(kind) if kind in _COLUMNS else len(_COLUMNS))
        row = k
        while (column, row) in taken:
            column, row = (column + 1, row) if inside else (column, row + 1)
        taken.add((column, row))
        name = f"{k} · {kind}" if inside else line.name
        boxes[manifest.artifact] = Box(
            manifest.artifact, (name, manifest.digest[:12]), column, row, links.artifact(manifest.artifact)
        )
    digests = {line.manifest.artifact: line.manifest.digest for line in lines}

    def here(ref: InputRef, run: str) -> str:
        """An input, or what the run refers to it by: a fork's artifacts were made from its parent's."""
        own = layout.moved(ref.artifact, run) if ref.artifact.startswith(f"{layout.RUNS}/") else ref.artifact
        return own if digests.get(own) == ref.digest else ref.artifact

    arrows = [
        (here(ref, layout.run_of(line.manifest.artifact)), line.manifest.artifact)
        for line in lines
        for ref in line.manifest.inputs
        if line.manifest.kind != "report"
    ]
    return graph("Lineage", list(boxes.values()), [arrow for arrow in arrows if arrow[0] in boxes])


def neighbours(page: ArtifactPage, links: Links) -> Markup:
    """An artifact between what it was made from and what was made from it."""
    mine = page.manifest.artifact
    boxes = {mine: _box(page.manifest, 1, 0, None, "here")}
    arrows = []
    for n, (ref, there) in enumerate(page.inputs):
        name = f"in {ref.artifact}"
        if there is None:
            boxes[name] = Box(name, (ref.artifact, ref.digest[:12]), 0, n)
        else:
            kind = "" if there.digest == ref.digest else "broken"
            boxes[name] = _box(there, 0, n, links.artifact(ref.artifact), kind, name)
        arrows.append((name, mine))
    for n, other in enumerate(page.consumers):
        name = f"out {other.artifact}"
        boxes[name] = _box(other, 2, n, links.artifact(other.artifact), "", name)
        arrows.append((mine, name))
    return graph("Lineage", list(boxes.values()), arrows)


def _box(manifest: Manifest, column: int, row: int, href: str | None, kind: str, name: str | None = None) -> Box:
    short = "/".join(manifest.artifact.split("/")[2:]) or manifest.artifact
    run = layout.run_of(manifest.artifact)
    return Box(name or manifest.artifact, (short, f"{run} {manifest.digest[:12]}"), column, row, href, kind)


def _once(summary: Summary) -> list[Row]:
    """One row per iteration."""
    exemplars = summary.rows[0].exemplars
    return [row for row in summary.rows if row.exemplars == exemplars]


def _filtered(summary: Summary, name: str, drawn: bool = False) -> list[Point]:
    return [
        Point(row.iteration, row.filtered[name])
        for row in summary.rows
        if row.filtered and row.filtered.get(name) is not None and not (drawn and row.given)
    ]
