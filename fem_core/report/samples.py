"""A few draws of an iteration for a person to read: accepted and rejected ones, shortened.

Contract: reads what is committed. Which draws are shown follows from problem ids, which are digests: neither the first
nor the best ones, and those of the same problems in every iteration. One table is in memory at a time. All texts are
data and a model's output: they are escaped where they are shown.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fem_core.filter.verdict import ACCEPTED
from fem_core.report.text import md
from fem_core.store import layout
from fem_core.store.store import Store

ACCEPTED_SHOWN = 4
"""Accepted draws that a page shows."""
REJECTED_SHOWN = 4
"""Rejected draws; one of each verdict before a second of any."""

HEADERS = ("verdict", "prompt", "question", "draw", "answer y*")

_QUESTION, _DRAW, _LABEL = 160, 320, 60
"""Longest texts, characters."""

_WIDTH = 40
"""Longest line of a cell, characters."""


@dataclass(frozen=True)
class Sample:
    """One draw, whole."""

    problem_id: str
    attempt: int
    prompt_kind: str
    """plain, hinted, or given where nothing was drawn."""
    verdict: str
    """The final one: the draw's own, or that of the filter that rejected it."""
    question: str
    text: str
    """The completion."""
    answer: str
    """y*."""


def samples(store: Store, run: str, k: int) -> list[Sample]:
    """The draws to show of iteration k, accepted ones first; none where it is not filtered yet.

    Raises:
        FemError: a file does not hold what its manifest says.
    """
    places = (layout.iteration(run, k, "verdicts"), layout.iteration(run, k, "attempts"), layout.problems(run, "train"))
    verdicts, attempts, problems = (store.manifest(place) for place in places)
    if verdicts is None or attempts is None or problems is None:
        return []
    chosen = choose(store.iter_tables(verdicts, ["problem_id", "attempt", "verdict"]))
    ids = pa.array(sorted({problem for problem, _ in chosen}), pa.string())

    def rows(tables: Iterable[pa.Table]) -> list[dict[str, object]]:
        return [row for table in tables for row in table.filter(pc.is_in(table.column("problem_id"), ids)).to_pylist()]

    asked = {row["problem_id"]: row for row in rows(store.iter_tables(problems, ["problem_id", "question", "answer"]))}
    drawn = {
        (row["problem_id"], row["attempt"]): row
        for row in rows(store.iter_tables(attempts, ["problem_id", "attempt", "prompt_kind", "text"]))
    }
    return [
        Sample(
            problem_id=problem,
            attempt=attempt,
            prompt_kind=str(drawn[problem, attempt]["prompt_kind"]),
            verdict=verdict,
            question=str(asked[problem]["question"]),
            text=str(drawn[problem, attempt]["text"]),
            answer=str(asked[problem]["answer"]),
        )
        for (problem, attempt), verdict in chosen.items()
    ]


def choose(tables: Iterable[pa.Table]) -> dict[tuple[str, int], str]:
    """Verdict by (problem id, attempt) of the draws to show, from tables of verdicts. No problem is shown twice."""
    first: dict[str, dict[str, int]] = {}
    """By verdict and problem id, the problem's first such draw; the smallest ids only."""
    most = ACCEPTED_SHOWN + REJECTED_SHOWN
    for table in tables:
        groups = table.group_by(["verdict", "problem_id"]).aggregate([("attempt", "min")])
        for verdict in pc.unique(groups.column("verdict")).to_pylist():
            some = groups.filter(pc.equal(groups.column("verdict"), verdict))
            some = some.take(pc.select_k_unstable(some, k=most, sort_keys=[("problem_id", "ascending")]))
            known = first.setdefault(verdict, {})
            for problem, attempt in zip(
                some.column("problem_id").to_pylist(), some.column("attempt_min").to_pylist(), strict=True
            ):
                known[problem] = min(attempt, known.get(problem, attempt))
            first[verdict] = dict(sorted(known.items())[:most])
    accepted = list(first.pop(ACCEPTED, {}).items())[:ACCEPTED_SHOWN]
    shown: dict[tuple[str, int], str] = dict.fromkeys(accepted, ACCEPTED)
    left, seen = REJECTED_SHOWN, {problem for problem, _ in accepted}
    while left and first:
        for verdict in sorted(first):
            pair = next(
                ((problem, attempt) for problem, attempt in first[verdict].items() if problem not in seen), None
            )
            if pair is None:
                del first[verdict]
            elif left:
                shown[pair] = verdict
                seen.add(pair[0])
                left -= 1
    return shown


def markdown(found: Sequence[Sample]) -> str:
    """A table of draws, escaped, shortened, and broken into lines: the Prefect UI's tables do not break them."""
    lines = ["| " + " | ".join(HEADERS) + " |", "|" + " --- |" * len(HEADERS)]
    for one in found:
        texts = (
            (one.verdict, _LABEL),
            (one.prompt_kind, _LABEL),
            (one.question, _QUESTION),
            (one.text, _DRAW),
            (one.answer, _LABEL),
        )
        lines.append("| " + " | ".join(_cell(text, longest) for text, longest in texts) + " |")
    return "\n".join(lines)


def _cell(text: str, longest: int) -> str:
    return "<br>".join(map(md, textwrap.wrap(short(text, longest), _WIDTH)))


def short(text: str, longest: int) -> str:
    """The text on one line, its middle left out where it is too long: a draw's answer stands at its end."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    tail = longest // 3
    return f"{line[: longest - tail - 3]} … {line[-tail:]}"
