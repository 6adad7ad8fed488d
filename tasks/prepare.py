"""The prepare step: the problems, the base model's identity and the prompts, checked before anything is written.

Contract: all mistakes that can be known without drawing are found here, before the run exists in the store.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from fem_core.config import RunConfig, TableProblems, identity_of, places_of
from fem_core.digest import digest_file
from fem_core.errors import FemError, StoreConflict
from fem_core.model import BaseModelFolder, resolve_model
from fem_core.preview import Lengths, check_lengths, examples, examples_json
from fem_core.problems.problem import Problem, to_table
from fem_core.problems.registry import ProblemSet, load
from fem_core.prompts import ChatTokens
from fem_core.store import layout
from fem_core.store.manifest import FileRecord, InputRef, Manifest, RunRecord, artifact_digest
from fem_core.store.store import Store
from tasks import step

VERSION = 1
"""Raised when the same source would give other problems or prompts."""


@dataclass(frozen=True)
class Prepared:
    """What the loop begins with."""

    train: Manifest
    test: Manifest
    model: Manifest
    prompts: Manifest
    """Its stats hold ``longest_prompt`` and ``longest_sequence``, tokens."""


def problems_work(run_name: str, config: RunConfig, split: str, inputs: tuple[InputRef, ...]) -> step.Work:
    """The problems of a split, by identity."""
    return step.Work(
        kind="problems",
        artifact=layout.problems(run_name, split),
        step="prepare",
        version=VERSION,
        config={"split": split, "seed": config.seed, "problems": identity_of(config.problems)},
        inputs=inputs,
    )


def model_work(run_name: str, config: RunConfig) -> step.Work:
    """The base model, by identity. Which weights it is says the artifact's digest."""
    return step.Work(
        kind="model",
        artifact=layout.model(run_name),
        step="prepare",
        version=VERSION,
        config={"model": identity_of(config.model)},
        inputs=(),
    )


def prompts_work(run_name: str, config: RunConfig, train: Manifest, test: Manifest, model: Manifest) -> step.Work:
    """The rendered examples and measured lengths, by identity."""
    return step.Work(
        kind="prompts",
        artifact=layout.prompts(run_name),
        step="prepare",
        version=VERSION,
        config={
            "prompts": identity_of(config.prompts),
            "scheme": identity_of(config.scheme),
            "sample": identity_of(config.sample),
            "evaluate": identity_of(config.evaluate),
        },
        inputs=(step.input_of("train", train), step.input_of("test", test), step.input_of("model", model)),
    )


def run_record(run_name: str, config: RunConfig) -> RunRecord:
    """What run.json says."""
    return RunRecord(
        name=run_name,
        config=config.identity(),
        digest=config.digest(),
        created=step.now(),
        places=places_of(config),
        parent=None,
    )


@task(
    name="prepare",
    task_run_name="prepare",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=step.worth_retrying,
)
async def prepare(run: step.Run) -> Prepared:
    """Load and check everything, then create the run.

    Raises:
        FemError: any mistake in the input; nothing is written then.
        StoreConflict: the run's name belongs to another configuration, or its inputs have changed since.
    """
    step.LISTENER.get().began("prepare", None, "")
    record = run_record(run.name, run.config)
    known = await step.in_store_thread(run.store.run, run.name)
    if known is not None:
        await step.in_store_thread(run.store.create_run, record)
    run.model = await step.in_store_thread(resolve_model, run.config.model, run.cache)
    prepared = await step.in_store_thread(find, run.store, run.name, run.config, run.model)
    if prepared is not None:
        step.reused("prepare", prepared.train)
        return prepared
    started = step.now()
    problems, lengths, shown = await step.in_store_thread(check, run.config, run.model)
    await step.in_store_thread(run.store.create_run, record)
    inputs = tuple(InputRef(role=name, artifact=name, digest=value) for name, value in sorted(problems.inputs.items()))
    train = await _write(
        run, problems_work(run.name, run.config, "train", inputs), problems.train, problems.notes, started
    )
    test = await _write(
        run, problems_work(run.name, run.config, "test", inputs), problems.test, problems.notes, started
    )
    made = model_work(run.name, run.config).manifest(
        model_files(run.model), started, stats={"context_length": run.model.context_length}, location=run.model.name
    )
    model = await step.commit(run, made)
    todo = prompts_work(run.name, run.config, train, test, model)
    text = json.dumps(shown, indent=2, ensure_ascii=False).encode() + b"\n"
    file = await step.in_store_thread(run.store.write_bytes, todo.artifact, "examples.json", text)
    prompts = await step.commit(run, todo.manifest([file], started, stats=vars(lengths)))
    step.ended(
        "prepare",
        f"{len(problems.train)} training and {len(problems.test)} test problems, {'; '.join(problems.notes) or 'no notes'}",
    )
    return Prepared(train, test, model, prompts)


def check(config: RunConfig, model: BaseModelFolder) -> tuple[ProblemSet, Lengths, list[dict[str, str]]]:
    """Load the problems and render every prompt: all that can fail before drawing. Writes nothing."""
    problems = load(config.problems, config.seed)
    tokens = ChatTokens(model.path, config.model.trust_remote_code)
    lengths = check_lengths(config, problems.train, problems.test, tokens, model.context_length)
    return problems, lengths, examples_json(examples(config, problems.train, tokens))


async def _write(run: step.Run, todo: step.Work, problems: list[Problem], notes: list[str], started: str) -> Manifest:
    table = to_table(problems)
    name = layout.part_name(0)
    record = await step.in_store_thread(run.store.write_table, todo.artifact, name, table, todo.key)
    stats: dict[str, Any] = {"problems": len(problems), "notes": notes}
    return await step.commit(run, todo.manifest([record], started, stats=stats, seeds={"run": run.config.seed}))


def model_files(model: BaseModelFolder) -> list[FileRecord]:
    """The base model's files as a manifest lists them."""
    return [FileRecord(path=path, bytes=size, rows=None, sha256=sha) for path, size, sha in model.files]


def find(store: Store, name: str, config: RunConfig, here: BaseModelFolder) -> Prepared | None:
    """The prepared run, where it is complete; the source need not be at hand any more, but must not have changed."""
    train, test = store.manifest(layout.problems(name, "train")), store.manifest(layout.problems(name, "test"))
    model = store.manifest(layout.model(name))
    if model is not None:
        _same_model(name, here, model)
    if train is None or test is None or model is None:
        return None
    _same_source(config, name, train)
    for split, manifest in (("train", train), ("test", test)):
        _find_work(store, problems_work(name, config, split, tuple(manifest.inputs)))
    prompts = _find_work(store, prompts_work(name, config, train, test, model))
    return Prepared(train, test, model, prompts) if prompts is not None else None


def _same_model(run_name: str, here: BaseModelFolder, recorded: Manifest) -> None:
    digest = artifact_digest("model", model_files(here))
    if digest != recorded.digest:
        raise StoreConflict(
            f"Run {run_name!r} was begun with the base model {recorded.digest[:12]} ({recorded.location}), but "
            f"{here.name!r} is now {digest[:12]}. Bring back those weights, or use another --run name."
        )


def _same_source(config: RunConfig, name: str, recorded: Manifest) -> None:
    if not isinstance(config.problems, TableProblems):
        return
    known = {reference.digest for reference in recorded.inputs}
    for path in (config.problems.path, config.problems.test_path):
        if path is not None and Path(path).is_file() and digest_file(Path(path)) not in known:
            raise FemError(
                f"{path} has changed since run {name!r} was begun. Bring back the old file, or use another --run name."
            )


def _find_work(store: Store, todo: step.Work) -> Manifest | None:
    return store.find(todo.artifact, todo.key, step=todo.record(), inputs=todo.inputs)
