"""What a run was estimated to cost and what it cost, step by step. Made from manifests and the run's estimate alone.

Contract: works on a finished, running or failed run, with an estimate or without. Facts are what manifests record: draws
and tokens from their figures, bytes from their files, seconds from when a step began and ended. What a fork has from its
parent cost it nothing and is not listed. The engine draws an evaluation and the next iteration's sample step together, so
their seconds stand with the sample step; where other steps overlap, a second counts for the one that ended first. So the
seconds add up to those in which the run worked.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from fem_core.report.estimate import BASELINE, Estimate, Figure, StepEstimate, load
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

ESTIMATE = "estimate.json"
"""The file of the estimate artifact."""

Step = tuple[str, int | None]
"""A step's name and its iteration."""

_STEPS = {
    "problems": "prepare",
    "model": "prepare",
    "prompts": "prepare",
    "attempts": "sample",
    "verdicts": "filter",
    "rationales": "filter",
    "checkpoint": "train",
    "predictions": "evaluate",
    "scores": "evaluate",
    "probes": "evaluate",
    "bound": "evaluate",
    "report": "report",
}
"""The step that makes each kind; the estimate itself and the trainer's states are none's."""

_ORDER = ("prepare", "sample", "filter", "train", "evaluate", BASELINE, "report")


@dataclass(frozen=True)
class Pair:
    """One amount; None where there is no such thing, or not yet."""

    estimated: float | None
    fact: float | None


NOTHING = Pair(None, None)


@dataclass(frozen=True)
class CostRow:
    """One step of one iteration, or a sum of some."""

    step: str
    iteration: int | None
    done: bool
    """Whether the step has committed something."""
    draws: Pair
    tokens: Pair
    """Of completions drawn; of train those trained on, prompts and epochs included."""
    seconds: Pair
    """None for an evaluation whose seconds stand with a sample step."""
    bytes: Pair
    """Put in the store."""


@dataclass(frozen=True)
class Costs:
    """A run's rows in order."""

    rows: list[CostRow]
    estimate: Estimate | None
    resumed: bool
    """Whether an M-step was taken up from a saved state, so that its seconds are those of its last try."""


def costs(store: Store, run: str) -> Costs:
    """Read a run's manifests and its estimate.

    Raises:
        FemError: there is no such run.
        Corrupt: its estimate cannot be read.
    """
    store.existing_run(run)
    manifests = store.artifacts(run)
    artifact = next((one for one in manifests if one.artifact == layout.estimate(run)), None)
    found = None
    if artifact is not None:
        found = load(store.read_bytes(artifact, ESTIMATE), f"{store.url}/{artifact.artifact}/{ESTIMATE}")
    rows = side_by_side(found.steps if found else (), manifests)
    return Costs(rows, found, any(one.stats.get("resumed") for one in manifests))


def side_by_side(estimated: Iterable[StepEstimate], manifests: Iterable[Manifest]) -> list[CostRow]:
    """A row for each step that was estimated or done, in the run's order."""
    guesses = {(one.step, one.iteration): one for one in estimated}
    made: dict[Step, list[Manifest]] = {}
    for manifest in manifests:
        if manifest.kind in _STEPS and manifest.source is None:
            made.setdefault(_step(manifest), []).append(manifest)
    spans: dict[Step, list[tuple[float, float]]] = {}
    for step, artifacts in made.items():
        spans.setdefault(_clock(step, made, made), []).extend(
            (_time(one.started), _time(one.finished)) for one in artifacts
        )
    worked = shared_out(spans)
    expected: dict[Step, float] = {}
    for step, guess in guesses.items():
        clock = _clock(step, guesses, made)
        expected[clock] = expected.get(clock, 0.0) + guess.seconds.value
    return [
        CostRow(
            *step,
            done=step in made,
            draws=Pair(_guess(guesses.get(step), "draws"), _figure(made.get(step, []), "draws")),
            tokens=Pair(
                _guess(guesses.get(step), "tokens"), _figure(made.get(step, []), "completion_tokens", "tokens")
            ),
            seconds=Pair(expected.get(step), worked.get(step)),
            bytes=Pair(_guess(guesses.get(step), "bytes"), _bytes(made[step]) if step in made else None),
        )
        for step in sorted({*guesses, *made}, key=_place)
    ]


def shared_out(spans: Mapping[Step, Sequence[tuple[float, float]]]) -> dict[Step, float]:
    """Seconds of each step, a second in which several worked going to the one that ended first.

    Args:
        spans: begin and end of each step's artifacts, seconds.
    """
    taken: list[tuple[float, float]] = []
    found = {}
    for step in sorted(spans, key=lambda step: (max(end for _, end in spans[step]), _place(step))):
        before = covered(taken)
        taken += spans[step]
        found[step] = covered(taken) - before
    return found


def summed(name: str, rows: Iterable[CostRow]) -> CostRow:
    """The sum of some rows; its tokens are those drawn, without those trained on."""
    some = list(rows)
    drawn = [row for row in some if row.step != "train"]
    return CostRow(
        name,
        None,
        all(row.done for row in some),
        _sum(row.draws for row in some),
        _sum(row.tokens for row in drawn),
        _sum(row.seconds for row in some),
        _sum(row.bytes for row in some),
    )


HEADERS = ("step", *(h for what in ("draws", "tokens", "seconds", "bytes") for h in (f"{what} est.", what, "ratio")))
"""For each amount the estimate, the fact, and the fact divided by the estimate."""


def cells(found: Costs) -> list[tuple[str, ...]]:
    """The table's rows as text, in the order of ``HEADERS``; what is not there is a dash."""
    rows = list(found.rows)
    whole = summed("total", rows)
    if not whole.done:
        rows.append(summed("done so far", [row for row in rows if row.done]))
        whole = summed("total", [_unmade(row) for row in found.rows])
    return [_cells(row) for row in (*rows, whole)]


def notes(found: Costs) -> list[str]:
    """What the table does not say by itself."""
    said = ["Tokens are of completions drawn, for train those trained on; the sums have the drawn ones."]
    if any(row.seconds == NOTHING for row in found.rows):
        said.append("An evaluation is drawn together with the next sample step; the seconds of both stand there.")
    if found.resumed:
        said.append("An M-step was resumed: its seconds are those of the last try.")
    if found.estimate is None:
        said.append(
            "There is no estimate: `fem plan CONFIG` makes one, which the next run of that configuration takes along."
        )
    else:
        said.append(f"Estimated {found.estimate.made[:19]} on {_machine(found.estimate)}.")
    return said


def name_of(step: str, iteration: int | None) -> str:
    """``sample · 3``, as the run names it."""
    if step == BASELINE:
        return f"evaluate · {iteration} with exemplars"
    return step if iteration is None else f"{step} · {iteration}"


def amount(value: float | None) -> str:
    """A count for people: ``12,345``."""
    return "-" if value is None else f"{value:,.0f}"


def duration(value: float | None) -> str:
    """Seconds for people: ``1,234.5``."""
    return "-" if value is None else f"{value:,.1f}"


def size(value: float | None) -> str:
    """Bytes for people: ``1.2 MB``."""
    from rich.filesize import decimal

    return "-" if value is None else decimal(round(value))


def _cells(row: CostRow) -> tuple[str, ...]:
    shown = []
    for pair, show in ((row.draws, amount), (row.tokens, amount), (row.seconds, duration), (row.bytes, size)):
        guess, actual = pair.estimated, pair.fact
        shown += [show(guess), show(actual), f"{actual / guess:.2f}" if guess and actual is not None else "-"]
    return (name_of(row.step, row.iteration), *shown)


def _unmade(row: CostRow) -> CostRow:
    """A row without its facts: a total of those would look like that of a whole run."""
    draws, tokens, seconds, size = (
        Pair(pair.estimated, None) for pair in (row.draws, row.tokens, row.seconds, row.bytes)
    )
    return replace(row, draws=draws, tokens=tokens, seconds=seconds, bytes=size)


def _machine(estimate: Estimate) -> str:
    hardware = estimate.hardware
    machine = ", ".join(hardware.get("gpus") or [f"{hardware.get('cores')} cores of {hardware.get('cpu')}"])
    return machine + (f" at load {hardware['load']:.1f}" if "load" in hardware else "")


def _step(manifest: Manifest) -> Step:
    folder = manifest.artifact.split("/")[2]
    k = int(folder.removeprefix("iteration=")) if folder.startswith("iteration=") else None
    if manifest.artifact.endswith("-exemplars"):
        return BASELINE, k
    return _STEPS[manifest.kind], k


def _place(step: Step) -> tuple[int, int]:
    """Prepare first, report last, the iterations between."""
    name, k = step
    return (k if k is not None else -1 if name == "prepare" else 1 << 30), _ORDER.index(name)


def _clock(step: Step, steps: Container[Step], made: Container[Step]) -> Step:
    """Where the seconds of a step stand: an evaluation's with the next sample step, unless that is still to come."""
    name, k = step
    following = ("sample", (k or 0) + 1)
    beside = name in ("evaluate", BASELINE) and following in steps and not (step in made and following not in made)
    return following if beside else step


def _guess(estimated: StepEstimate | None, name: str) -> float | None:
    figure: Figure | None = getattr(estimated, name, None)
    return None if figure is None else figure.value


def _figure(made: Iterable[Manifest], drawn: str, trained: str = "") -> int | None:
    """A figure of the step's draws, or of its training; None where it does neither. An evaluation may draw twice."""
    found = []
    for one in made:
        draws = one.kind in ("attempts", "predictions", "probes")
        name = drawn if draws else trained if one.kind == "checkpoint" else ""
        if name in one.stats:
            found.append(int(one.stats[name]))
    return sum(found) if found else None


def _bytes(made: Iterable[Manifest]) -> int:
    return sum(record.bytes for one in made if one.location is None for record in one.files)


def _sum(pairs: Iterable[Pair]) -> Pair:
    some = list(pairs)
    estimated = [pair.estimated for pair in some if pair.estimated is not None]
    facts = [pair.fact for pair in some if pair.fact is not None]
    return Pair(sum(estimated) if estimated else None, sum(facts) if facts else None)


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that are in one of the spans at least."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
