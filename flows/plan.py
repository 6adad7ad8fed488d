"""What a run has and what it still has to do: `--dry-run`, and what `fem run`, `resume` and `fork` say before they begin.

Contract: writes nothing. A step's key needs the digests of its inputs, so it is known as far as those are committed or
can be made without drawing; a step after the first missing draw waits for its inputs.
"""

import asyncio
from dataclasses import dataclass

import yaml

from fem_core.config import RunConfig
from fem_core.errors import StoreConflict
from fem_core.initial import base_model
from fem_core.model import default_cache
from fem_core.problems.problem import to_table
from fem_core.problems.registry import ProblemSet
from fem_core.store import fork, layout
from fem_core.store.deletion import refuse_deleted
from fem_core.store.diff import differences
from fem_core.store.fork import Parent
from fem_core.store.manifest import InputRef, Manifest, RunRecord
from fem_core.store.store import Store, step_differences
from fem_core.store.tables import record_of
from flows.credentials import provide
from tasks import bound, evaluate, prepare, sample, step, train
from tasks import filter as filter_task

DONE, TO_DO, WAITS, INHERITED = "done", "to do", "waits for its inputs", "of the parent"
"""States: committed, missing, not yet known, and committed by the run that this one is forked from."""


@dataclass(frozen=True)
class Planned:
    """One artifact of the run."""

    step: str
    artifact: str
    key: str | None
    state: str
    digest: str | None = None
    """Of what is committed."""
    reason: str = ""
    """Why a fork does again what its parent has done."""


def plan(config: RunConfig, store: Store, parent: Parent | None = None) -> list[Planned]:
    """All artifacts of a run in the order in which they are made.

    Args:
        parent: of a fork that has not begun yet; a run that has begun knows its own.

    Raises:
        FemError: whatever the run itself would refuse before drawing.
    """
    name = config.name or "fem"
    known = store.run(name)
    if known is not None and known.digest != config.digest():
        lines = "; ".join(differences(known.config, config.identity()))
        raise StoreConflict(
            f"The run {name!r} is in the store with another configuration: {lines}. Use another --run name, "
            f"or start from what it has: fem fork {name} --run NEW."
        )
    record = known or prepare.run_record(name, config, parent)
    return _Walk(config, store, record).walk()


def problems_to_be(name: str, config: RunConfig, problems: ProblemSet) -> list[tuple[step.Work, Manifest]]:
    """The training and the test problems as prepare would commit them."""
    inputs = tuple(InputRef(role=role, artifact=role, digest=d) for role, d in sorted(problems.inputs.items()))
    found = []
    for split, side in (("train", problems.train), ("test", problems.test)):
        todo = prepare.problems_work(name, config, split, inputs)
        record = record_of(layout.part_name(0), to_table(side), todo.key)
        found.append((todo, todo.manifest([record], step.now(), stats={})))
    return found


class _Walk:
    """Follows the flow's order with manifests that exist, or that can be known without drawing."""

    def __init__(self, config: RunConfig, store: Store, record: RunRecord) -> None:
        self._config, self._store, self._record, self._name = config, store, record, record.name
        self._parent = fork.parent_of(record)
        self._found: list[Planned] = []

    def walk(self) -> list[Planned]:
        """See ``plan``."""
        config, prompts = self._config, self._config.prompts
        train_set, test_set, base = self._prepare()
        checkpoint: Manifest | None = base
        exemplars = [prompts.train_exemplars]
        if config.evaluate.exemplar_baseline and prompts.sample_exemplars != prompts.train_exemplars:
            exemplars.append(prompts.sample_exemplars)
        for count in exemplars:
            self._evaluate(0, count, train_set, test_set, base)
        probes = self._bound(0, train_set, base, None)
        for k in range(1, config.iterations + 1):
            if self._parent is not None and k <= self._parent.iteration:
                checkpoint = self._history(k)
            else:
                attempts = self._step("sample", k, sample.work, train_set, checkpoint, kind="attempts")
                rationales = self._filter(k, train_set, attempts)
                start = base if config.train.init == "base" else checkpoint
                checkpoint = self._step("train", k, train.work, rationales, start, kind="checkpoint")
            self._evaluate(k, prompts.train_exemplars, train_set, test_set, checkpoint)
            probes = self._bound(k, train_set, checkpoint, probes)
        self._found.append(self._report())
        return self._found

    def _prepare(self) -> tuple[Manifest, Manifest, Manifest]:
        """What prepare has or would commit; where the problems are missing they are loaded and rendered, as the run does."""
        config, name, store, record = self._config, self._name, self._store, self._record
        known = prepare.known_problems(store, name, config, record, write=False)
        model, init = base_model(config, store, name, record, default_cache())
        recorded = prepare.find_model(store, name, config, model, record, init, write=False)
        problems, *_ = prepare.check(config, model, known)
        prepare.refuse_seen(store, record, problems.test, init)
        train_set, test_set = (
            self._add("prepare", todo, made) for todo, made in problems_to_be(name, config, problems)
        )
        assert train_set is not None and test_set is not None
        todo = prepare.model_work(name, config, init)
        base = self._add(
            "prepare",
            todo,
            recorded or todo.manifest(prepare.model_files(model), step.now(), stats={}),
            other=recorded is None,
        )
        assert base is not None
        self._add("prepare", prepare.prompts_work(name, config, train_set, test_set, base), None)
        return train_set, test_set, base

    def _history(self, k: int) -> Manifest | None:
        """What a fork has of its parent whatever its own configuration says."""
        checkpoint = None
        for kind in fork.HISTORY:
            artifact = layout.iteration(self._name, k, kind)
            checkpoint = self._store.manifest(artifact) or fork.counterpart(self._store, self._record, artifact)
            if checkpoint is not None:
                label = f"{checkpoint.step.name} · {k}"
                self._found.append(Planned(label, artifact, checkpoint.step.key, INHERITED, checkpoint.digest))
        return checkpoint

    def _step(self, label: str, k: int, work, *inputs: Manifest | None, kind: str) -> Manifest | None:  # type: ignore[no-untyped-def]
        ready = all(manifest is not None for manifest in inputs)
        todo = work(self._name, self._config, k, *inputs) if ready else None
        return self._add(f"{label} · {k}", todo, None, layout.iteration(self._name, k, kind))

    def _filter(self, k: int, problems: Manifest, attempts: Manifest | None) -> Manifest | None:
        made, said = None, filter_task.annotated(self._store, self._config)
        for kind in ("verdicts", "rationales"):
            todo = filter_task.work(self._name, self._config, k, kind, problems, attempts, said) if attempts else None
            made = self._add(f"filter · {k}", todo, None, layout.iteration(self._name, k, kind))
        return made

    def _evaluate(
        self, k: int, exemplars: int, train_set: Manifest, test_set: Manifest, checkpoint: Manifest | None
    ) -> None:
        config, name, label = self._config, self._name, f"evaluate · {k}"
        predictions = self._add(
            label,
            evaluate.predictions_there(self._store, self._record, name, config, k, test_set, checkpoint, exemplars)
            if checkpoint
            else None,
            None,
            layout.iteration(name, k, evaluate.named("predictions", config, exemplars)),
        )
        place = evaluate.scores_place(name, config, k, exemplars)
        scoring = None
        if predictions is not None:
            recorded = self._store.manifest(place)
            scoring = evaluate.scores_work(name, config, k, train_set, test_set, predictions, exemplars, recorded)
        self._add(label, scoring, None, place)

    def _bound(
        self, k: int, train_set: Manifest, checkpoint: Manifest | None, before: Manifest | None
    ) -> Manifest | None:
        """The probes of an iteration, and their bound beside those of the iteration before."""
        if self._config.evaluate.bound is None:
            return None
        probes = self._step("bound", k, bound.probes_work, train_set, checkpoint, kind="probes")
        known = probes is not None and (before is not None or not k)
        place, weighing = bound.bound_place(self._name, k), None
        if known and probes is not None:
            weighing = bound.bound_work(self._name, k, train_set, probes, before, self._store.manifest(place))
        self._add(f"bound · {k}", weighing, None, place)
        return probes

    def _report(self) -> Planned:
        artifact = layout.report(self._name)
        done = self._store.manifest(artifact)
        if done is None:
            return Planned("report", artifact, None, WAITS)
        return Planned("report", artifact, done.step.key, DONE, done.digest)

    def _add(
        self, label: str, todo: step.Work | None, would_be: Manifest | None, artifact: str = "", other: bool = False
    ) -> Manifest | None:
        """Note one artifact; its manifest, or the one it would have.

        Args:
            other: the parent's artifact in this place is known to be another, although its step key is the same.
        """
        if todo is None:
            self._found.append(Planned(label, artifact, None, WAITS))
            return None
        done = self._store.find(todo.artifact, todo.key, step=todo.record(), inputs=todo.inputs)
        if done is not None:
            state = INHERITED if done.source else DONE
            self._found.append(Planned(label, todo.artifact, todo.key, state, done.digest))
            return done
        theirs = fork.counterpart(self._store, self._record, todo.artifact)
        if theirs is not None and theirs.step.key == todo.key and not other:
            self._found.append(Planned(label, todo.artifact, todo.key, INHERITED, theirs.digest))
            return fork.referring(theirs, self._name)
        reason = "; ".join(step_differences(theirs, todo.record(), todo.inputs)) if theirs is not None else ""
        self._found.append(Planned(label, todo.artifact, todo.key, TO_DO, reason=reason))
        return would_be


def show_plan(config: RunConfig, parent: Parent | None = None) -> None:
    """Print the resolved configuration and every step with its key."""
    asyncio.run(provide(config))
    store = Store.open(config.store, check=False)
    steps = plan(config, store, parent)
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip())
    print(f"\nconfiguration digest {config.digest()[:12]}, store {store.url}\n")
    for one in steps:
        print(_line(one, one.key))
    print(f"\n{_there(steps)} of {len(steps)} artifacts are done.")


def announce(config: RunConfig, parent: Parent | None = None) -> bool:
    """Say what a run has, by digest, and what it still has to do, before it does it; nothing for a new run.

    A fork begins here.

    Returns:
        Whether there is something to draw.
    """
    store = Store.open(config.store, check=parent is not None)
    name = config.name or "fem"
    if store.run(name) is None and parent is None:
        return True
    refuse_deleted(store, name)
    steps = plan(config, store, parent) if parent is None else begin(config, store, parent)
    print(f"Run {name!r} in {store.url}:")
    for one in steps:
        print(_line(one, one.digest))
    there = _there(steps)
    print(f"{there} of {len(steps)} artifacts are there, {len(steps) - there} are to be made.", flush=True)
    drawn = ("attempts", "predictions", "probes")
    return any(one.artifact.rsplit("/", 1)[-1].startswith(drawn) for one in steps if one.state in (TO_DO, WAITS))


def begin(config: RunConfig, store: Store, parent: Parent) -> list[Planned]:
    """Begin a fork: what it has and is to do, checked as the run itself would, and then written down."""
    steps = plan(config, store, parent)
    store.create_run(prepare.run_record(config.name or "fem", config, parent))
    refuse_deleted(store, parent.run)  # marked while this was checked; from now on the mark would be refused
    return steps


def _line(one: Planned, identity: str | None) -> str:
    shown = identity[:12] if identity else "-" * 12
    return f"{one.step:14} {shown}  {one.state:20}  {one.artifact}" + (f"  ({one.reason})" if one.reason else "")


def _there(steps: list[Planned]) -> int:
    return sum(one.state in (DONE, INHERITED) for one in steps)
