"""`fem run --dry-run`: the resolved configuration, every step with its key, and what is already done. Writes nothing.

A step's key needs the digests of its inputs, so it is shown as far as those are committed or can be made without
drawing; the steps after the first missing draw say what they wait for.
"""

from dataclasses import dataclass

import yaml

from fem_core.config import RunConfig
from fem_core.errors import StoreConflict
from fem_core.model import BaseModelFolder, default_cache, resolve_model
from fem_core.problems.problem import Problem, to_table
from fem_core.store import layout
from fem_core.store.diff import differences
from fem_core.store.manifest import FileRecord, InputRef, Manifest
from fem_core.store.store import Store
from fem_core.store.tables import record_of
from tasks import evaluate, prepare, sample, step, train
from tasks import filter as filter_task


@dataclass(frozen=True)
class Planned:
    """One artifact of the run."""

    step: str
    artifact: str
    key: str | None
    state: str


def plan(config: RunConfig, store: Store) -> list[Planned]:
    """All artifacts of a run in the order in which they are made.

    Raises:
        FemError: whatever the run itself would refuse before drawing.
    """
    name = config.name or "fem"
    known = store.run(name)
    if known is not None and known.digest != config.digest():
        lines = "; ".join(differences(known.config, config.identity()))
        raise StoreConflict(
            f"The run {name!r} is in the store with another configuration: {lines}. Use another --run name."
        )
    return _Walk(config, store, name).walk()


class _Walk:
    """Follows the flow's order with manifests that exist, or that can be known without drawing."""

    def __init__(self, config: RunConfig, store: Store, name: str) -> None:
        self._config, self._store, self._name = config, store, name
        self._found: list[Planned] = []

    def walk(self) -> list[Planned]:
        """See ``plan``."""
        config, name, prompts = self._config, self._name, self._config.prompts
        model = resolve_model(config.model, default_cache())
        prepared = prepare.find(self._store, name, config, model)
        if prepared is not None:
            train_set, test_set, base = prepared.train, prepared.test, prepared.model
            for done in (train_set, test_set, base, prepared.prompts):
                self._found.append(Planned("prepare", done.artifact, done.step.key, "done"))
        else:
            train_set, test_set, base = self._prepare(model)
        checkpoint: Manifest | None = base
        exemplars = [prompts.train_exemplars]
        if config.evaluate.exemplar_baseline and prompts.sample_exemplars != prompts.train_exemplars:
            exemplars.append(prompts.sample_exemplars)
        for count in exemplars:
            self._evaluate(0, count, train_set, test_set, base)
        for k in range(1, config.iterations + 1):
            attempts = self._step("sample", k, sample.work, train_set, checkpoint, kind="attempts")
            rationales = self._filter(k, train_set, attempts)
            start = base if config.train.init == "base" else checkpoint
            checkpoint = self._step("train", k, train.work, rationales, start, kind="checkpoint")
            self._evaluate(k, prompts.train_exemplars, train_set, test_set, checkpoint)
        return self._found

    def _prepare(self, model: BaseModelFolder) -> tuple[Manifest, Manifest, Manifest]:
        """What prepare would commit: loads and renders everything, as the run does."""
        config, name = self._config, self._name
        problems, *_ = prepare.check(config, model)
        inputs = tuple(InputRef(role=role, artifact=role, digest=d) for role, d in sorted(problems.inputs.items()))
        train_set = self._problems("train", problems.train, inputs)
        test_set = self._problems("test", problems.test, inputs)
        todo = prepare.model_work(name, config)
        base = self._add("prepare", todo, todo.manifest(prepare.model_files(model), step.now(), stats={}))
        assert base is not None
        self._add("prepare", prepare.prompts_work(name, config, train_set, test_set, base), None)
        return train_set, test_set, base

    def _problems(self, split: str, problems: list[Problem], inputs: tuple[InputRef, ...]) -> Manifest:
        todo = prepare.problems_work(self._name, self._config, split, inputs)
        record: FileRecord = record_of(layout.part_name(0), to_table(problems), todo.key)
        made = self._add("prepare", todo, todo.manifest([record], step.now(), stats={}))
        assert made is not None
        return made

    def _step(self, label: str, k: int, work, *inputs: Manifest | None, kind: str) -> Manifest | None:  # type: ignore[no-untyped-def]
        ready = all(manifest is not None for manifest in inputs)
        todo = work(self._name, self._config, k, *inputs) if ready else None
        return self._add(f"{label} · {k}", todo, None, layout.iteration(self._name, k, kind))

    def _filter(self, k: int, problems: Manifest, attempts: Manifest | None) -> Manifest | None:
        made = None
        for kind in ("verdicts", "rationales"):
            todo = filter_task.work(self._name, self._config, k, kind, problems, attempts) if attempts else None
            made = self._add(f"filter · {k}", todo, None, layout.iteration(self._name, k, kind))
        return made

    def _evaluate(
        self, k: int, exemplars: int, train_set: Manifest, test_set: Manifest, checkpoint: Manifest | None
    ) -> None:
        config, name, label = self._config, self._name, f"evaluate · {k}"
        predictions = self._add(
            label,
            evaluate.predictions_work(name, config, k, test_set, checkpoint, exemplars) if checkpoint else None,
            None,
            layout.iteration(name, k, evaluate.named("predictions", config, exemplars)),
        )
        self._add(
            label,
            evaluate.scores_work(name, config, k, train_set, test_set, predictions, exemplars) if predictions else None,
            None,
            layout.iteration(name, k, evaluate.named("scores", config, exemplars)),
        )

    def _add(
        self, label: str, todo: step.Work | None, would_be: Manifest | None, artifact: str = ""
    ) -> Manifest | None:
        if todo is None:
            self._found.append(Planned(label, artifact, None, "waits for its inputs"))
            return None
        done = self._store.find(todo.artifact, todo.key, step=todo.record(), inputs=todo.inputs)
        self._found.append(Planned(label, todo.artifact, todo.key, "done" if done else "to do"))
        return done or would_be


def show_plan(config: RunConfig) -> None:
    """Print it."""
    store = Store.open(config.store, check=False)
    steps = plan(config, store)
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip())
    print(f"\nconfiguration digest {config.digest()[:12]}, store {store.url}\n")
    for one in steps:
        key = one.key[:12] if one.key else "-" * 12
        print(f"{one.step:14} {key}  {one.state:20}  {one.artifact}")
    done = sum(one.state == "done" for one in steps)
    print(f"\n{done} of {len(steps)} artifacts are done.")
