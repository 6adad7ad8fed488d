"""What the library gives to whoever shows it: plain frozen records.

Contract: texts are what a model, a data set or a person wrote, unescaped; whoever shows them escapes them.
"""

from dataclasses import dataclass, field
from typing import Any

from fem_core.audit.changed import Held
from fem_core.report.listing import ArtifactLine, RunLine
from fem_core.report.signatures import Signature
from fem_core.report.summary import Summary
from fem_core.store.manifest import InputRef, Manifest, RunRecord


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RunRow:
    """One run of the store. Of one that cannot be read, ``line`` alone says something."""

    line: RunLine
    """Name, state, size, when it was created, and why it cannot be read."""
    scheme: str | None = None
    """rs, star, pps, answer_only, human or none."""
    model: str | None = None
    """The base model's place or name."""
    problems: str | None = None
    """Where its problems come from."""
    seed: int | None = None
    """The run's seed."""
    accuracy: Interval | None = None
    """Of the last iteration that is scored."""
    utilization: float | None = None
    """Of the last iteration that is filtered."""
    accuracies: tuple[float | None, ...] = ()
    """By iteration from 0; None where there is no score yet."""
    utilizations: tuple[float | None, ...] = ()
    """By iteration from 1."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.line.name


@dataclass(frozen=True)
class RunPage:
    """One run."""

    record: RunRecord
    """Its configuration, digest and parent."""
    summary: Summary
    """A row for each iteration: scores, verdicts, draws, training, seconds."""
    warnings: tuple[Signature, ...]
    """Reasons to look closer."""
    artifacts: tuple[ArtifactLine, ...]
    """Its artifacts in the order in which they were finished, each with its manifest; sets of annotations aside."""
    deleted: bool
    """Whether the run is marked deleted."""


@dataclass(frozen=True)
class Attempt:
    """One draw, with its problem and what became of it."""

    iteration: int
    """k."""
    kind: str
    """attempts or predictions."""
    position: int
    """Its row in the artifact, from 0."""
    problem_id: str
    attempt: int
    """Index of the draw within its problem and iteration."""
    prompt_kind: str
    """plain, hinted or given."""
    exemplars: int
    text: str
    """The completion as it was drawn."""
    answer: str | None
    """The parsed answer."""
    verdict: str
    """The final one: of the filter where it has decided, else of the draw."""
    reason: str
    """Why, in words; empty where no filter has decided."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    logprob: float
    """Sum over the completion's tokens, nats."""
    leak: int | None
    """1 where a right rationale speaks of having been given the answer or repeats the hint, 0 where it does not; None where
    nobody looked: at what was given, or dropped for another reason."""
    question: str
    """x with its choices; empty where the problem is not in the store."""
    label: str
    """y*; empty where the problem is not in the store."""
    more: dict[str, Any] = field(default_factory=dict)
    """Columns of the artifact that later versions add, by name."""

    @property
    def id(self) -> str:
        """What ``Library.annotate`` takes: ``<iteration>.<problem id>.<attempt>``."""
        return f"{self.iteration}.{self.problem_id}.{self.attempt}"

    @property
    def place(self) -> str:
        """Which one it is at its problem: ``<iteration>.<kind>.<attempt>``."""
        return f"{self.iteration}.{self.kind}.{self.attempt}"


@dataclass(frozen=True)
class Page:
    """Some of the attempts that a filter lets through."""

    rows: tuple[Attempt, ...]
    total: int
    """How many there are on all pages."""
    page: int
    """From 1."""
    pages: int
    """At least 1."""


@dataclass(frozen=True)
class ArtifactPage:
    """One artifact with its neighbours."""

    manifest: Manifest
    inputs: tuple[tuple[InputRef, Manifest | None], ...]
    """What it was made from, and what is there now, perhaps with another digest; no manifest where that lies outside the
    store, is gone or cannot be read."""
    consumers: tuple[Manifest, ...]
    """What was made from it in any run of the store, references of forks among it."""
    unread: tuple[str, ...]
    """Runs of which that is not known, as they cannot be read."""
    collected: bool
    """Whether ``fem gc`` has removed its files."""
    held: Held | None
    """The last recurring audit after which its run held."""
    changed: bool
    """Whether an object of the run is another since then."""
