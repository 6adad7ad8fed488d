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

from fem_core.config import ReasoningGymProblems, RunConfig, identity_of, places_of
from fem_core.device import find_device
from fem_core.digest import digest_file
from fem_core.errors import FemError, StoreConflict
from fem_core.initial import base_model, teachers
from fem_core.model import BaseModelFolder
from fem_core.preview import VERSION, Lengths, check_lengths, examples, examples_json
from fem_core.problems.problem import Problem, from_table, question_identity, to_table
from fem_core.problems.profile import profiles
from fem_core.problems.registry import ProblemSet, load
from fem_core.prompts import ChatTokens
from fem_core.sample.given import refuse_without_rationale
from fem_core.store import fork, layout
from fem_core.store.deletion import refuse_deleted
from fem_core.store.manifest import FileRecord, InputRef, Manifest, RunRecord, artifact_digest
from fem_core.store.store import Store
from fem_core.train.launch import refuse_untrainable
from tasks import estimate, step
from tasks.filter import annotated


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


def model_work(run_name: str, config: RunConfig, init: InputRef | None = None) -> step.Work:
    """The base model, by identity. Which weights it is says the artifact's digest.

    Args:
        init: the checkpoint of another run that it is.
    """
    return step.Work(
        kind="model",
        artifact=layout.model(run_name),
        step="prepare",
        version=VERSION,
        config={"model": identity_of(config.model)},
        inputs=() if init is None else (init,),
    )


def prompts_work(run_name: str, config: RunConfig, train: Manifest, test: Manifest, model: Manifest) -> step.Work:
    """The rendered examples and measured lengths, by identity."""
    looked = {"filter": identity_of(config.filter)} if config.filter.looks else {}
    seeded = {"seed": config.seed} if config.prompts.hint == "candidates" else {}
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
            **looked,
            **seeded,
        },
        inputs=(step.input_of("train", train), step.input_of("test", test), step.input_of("model", model)),
    )


def run_record(run_name: str, config: RunConfig, parent: fork.Parent | None = None) -> RunRecord:
    """What run.json says; of a fork also where it started from."""
    return RunRecord(
        name=run_name,
        config=config.identity(),
        digest=config.digest(),
        created=step.now(),
        places=places_of(config),
        parent=None if parent is None else parent.dump(),
    )


@task(
    name="prepare",
    task_run_name="prepare",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=step.worth_retrying,
    on_failure=[step.failed],
)
async def prepare(run: step.Run) -> Prepared:
    """Load and check everything, then create the run.

    Raises:
        FemError: any mistake in the input; nothing is written then.
        FemError: the run is marked deleted.
        StoreConflict: the run's name belongs to another configuration, or its inputs have changed since.
    """
    step.LISTENER.get().began("prepare", None, "")
    if run.config.iterations:
        refuse_untrainable(run.config.train, find_device())
    record = run_record(run.name, run.config)
    if await step.in_store_thread(run.store.run, run.name) is not None:
        run.record = await step.in_store_thread(run.store.create_run, record)
        await step.in_store_thread(refuse_deleted, run.store, run.name)
        await step.in_store_thread(fork.inherit, run.store, run.record)
    here, init = await step.in_store_thread(base_model, run.config, run.store, run.name, run.record, run.cache)
    run.model = here
    prepared = await step.in_store_thread(find, run.store, run.name, run.config, here, run.record, init)
    if prepared is not None:
        step.reused("prepare", prepared.train)
        return prepared
    started = step.now()
    known = await step.in_store_thread(known_problems, run.store, run.name, run.config, run.record)
    problems, lengths, shown = await step.in_store_thread(check, run.config, here, known)
    await step.in_store_thread(refuse_seen, run.store, run.record, problems.test, init)
    await step.in_store_thread(annotated, run.store, run.config)
    run.record = await step.in_store_thread(run.store.create_run, record)
    inputs = tuple(InputRef(role=name, artifact=name, digest=value) for name, value in sorted(problems.inputs.items()))
    figures = profiles(problems.train, problems.test)
    train, test = [
        await _write(
            run, problems_work(run.name, run.config, name, inputs), side, figures[name], problems.notes, started
        )
        for name, side in (("train", problems.train), ("test", problems.test))
    ]
    model = await step.in_store_thread(find_model, run.store, run.name, run.config, here, run.record, init)
    if model is None:
        stats = {"context_length": here.context_length}
        made = model_work(run.name, run.config, init)
        model = await step.commit(run, made.manifest(model_files(here), started, stats=stats, location=here.name))
    await estimate.take_along(run, train, test, model)
    todo = prompts_work(run.name, run.config, train, test, model)
    text = json.dumps(shown, indent=2, ensure_ascii=False).encode() + b"\n"
    file = await step.in_store_thread(run.store.write_bytes, todo.artifact, "examples.json", text)
    prompts = await step.commit(run, todo.manifest([file], started, stats=vars(lengths)))
    begins = f", begins with {here.name}" if run.config.init is not None else ""
    step.ended(
        "prepare",
        f"{len(problems.train)} training and {len(problems.test)} test problems, "
        f"{'; '.join(problems.notes) or 'no notes'}{begins}",
    )
    return Prepared(train, test, model, prompts)


def check(
    config: RunConfig, model: BaseModelFolder, known: ProblemSet | None = None
) -> tuple[ProblemSet, Lengths, list[dict[str, str]]]:
    """Load the problems and render every prompt: all that can fail before drawing. Writes nothing.

    Args:
        known: the problems, where the store has them; their source is not asked then.
    """
    problems = known or load(config.problems, config.seed)
    refuse_without_rationale(config.scheme, problems.train)
    tokens = ChatTokens(model.path, config.model.trust_remote_code)
    lengths = check_lengths(config, problems.train, problems.test, tokens, model.context_length)
    return problems, lengths, examples_json(examples(config, problems.train, tokens))


async def _write(
    run: step.Run, todo: step.Work, problems: list[Problem], figures: dict[str, Any], notes: list[str], started: str
) -> Manifest:
    if (done := await step.find(run, todo)) is not None:
        return done
    table = to_table(problems)
    name = layout.part_name(0)
    record = await step.in_store_thread(run.store.write_table, todo.artifact, name, table, todo.key)
    stats = {**figures, "notes": notes}
    return await step.commit(run, todo.manifest([record], started, stats=stats, seeds={"run": run.config.seed}))


def model_files(model: BaseModelFolder) -> list[FileRecord]:
    """The base model's files as a manifest lists them."""
    return [FileRecord(path=path, bytes=size, rows=None, sha256=sha) for path, size, sha in model.files]


def known_problems(
    store: Store, name: str, config: RunConfig, record: RunRecord | None, *, write: bool = True
) -> ProblemSet | None:
    """The problems as the store has them, where both sides are there: begun before, or a fork's parent's.

    Args:
        write: a fork commits its references to them.
    """
    found = [_find_problems(store, name, config, split, record, write=write) for split in ("train", "test")]
    sides = [manifest for manifest in found if manifest is not None]
    if len(sides) < len(found):
        return None
    train, test = (from_table(store.read_table(manifest)) for manifest in sides)
    return ProblemSet(
        train, test, {ref.role: ref.digest for ref in sides[0].inputs}, list(sides[0].stats.get("notes", []))
    )


def refuse_seen(store: Store, record: RunRecord | None, test: list[Problem], init: InputRef | None = None) -> None:
    """A run may not be tested on what the checkpoint was trained on that it begins with, as a fork or by ``init``.

    Raises:
        FemError: with the count.
    """
    seen: set[str] = set()
    for run in teachers(store, record, init):
        theirs = store.manifest(layout.problems(run, "train"))
        if theirs is not None:
            seen |= {question_identity(problem) for problem in from_table(store.read_table(theirs))}
    shared = [problem for problem in test if question_identity(problem) in seen]
    if shared:
        raise FemError(
            f"{len(shared)} of the {len(test)} test problems are training problems of the run that this one is forked "
            "from or begins with, so its scores would mean nothing. Keep that run's problems, or test on others."
        )


def find(
    store: Store,
    name: str,
    config: RunConfig,
    here: BaseModelFolder,
    record: RunRecord | None = None,
    init: InputRef | None = None,
) -> Prepared | None:
    """The prepared run, where it is complete; the source need not be at hand any more, but must not have changed.

    Args:
        record: the run's record, through which a fork finds what its parent prepared.
    """
    model = find_model(store, name, config, here, record, init)
    train, test = (_find_problems(store, name, config, split, record) for split in ("train", "test"))
    if train is None or test is None or model is None:
        return None
    todo = prompts_work(name, config, train, test, model)
    prompts = fork.find(store, record, todo.artifact, todo.key, step=todo.record(), inputs=todo.inputs)
    return Prepared(train, test, model, prompts) if prompts is not None else None


def _find_problems(
    store: Store, name: str, config: RunConfig, split: str, record: RunRecord | None, *, write: bool = True
) -> Manifest | None:
    """One side, own or the parent's. The digests of its sources are those that were read then."""
    artifact = layout.problems(name, split)
    there = store.manifest(artifact) or (fork.counterpart(store, record, artifact) if record else None)
    if there is None:
        return None
    if there.artifact == artifact:
        _same_source(config, name, there)
    todo = problems_work(name, config, split, tuple(there.inputs))
    return fork.find(store, record, artifact, todo.key, step=todo.record(), inputs=todo.inputs, write=write)


def find_model(
    store: Store,
    name: str,
    config: RunConfig,
    here: BaseModelFolder,
    record: RunRecord | None,
    init: InputRef | None = None,
    *,
    write: bool = True,
) -> Manifest | None:
    """The base model as the run, or a fork's parent, recorded it.

    Args:
        init: the checkpoint that it is.
        write: a fork commits its reference to it.

    Raises:
        StoreConflict: the weights here are others than those that the run stands on.
    """
    todo = model_work(name, config, init)
    own = store.find(todo.artifact, todo.key, step=todo.record(), inputs=todo.inputs)
    theirs = fork.counterpart(store, record, todo.artifact) if record is not None and own is None else None
    recorded = own or theirs
    if recorded is None:
        return None
    digest = artifact_digest("model", model_files(here))
    parent = fork.parent_of(record)
    if digest == recorded.digest:
        return own or fork.find(store, record, todo.artifact, todo.key, write=write)
    if own is None and parent is not None and not parent.iteration:
        return None  # a fork of the problems alone may begin with other weights
    raise StoreConflict(
        f"Run {name!r} was begun with the base model {recorded.digest[:12]} ({recorded.location}), but "
        f"{here.name!r} is now {digest[:12]}. Bring back those weights, or use another --run name."
    )


def _same_source(config: RunConfig, name: str, recorded: Manifest) -> None:
    if isinstance(config.problems, ReasoningGymProblems):
        return
    known = {reference.digest for reference in recorded.inputs}
    for path in (config.problems.path, config.problems.test_path):
        if path is not None and Path(path).is_file() and digest_file(Path(path)) not in known:
            raise FemError(
                f"{path} has changed since run {name!r} was begun. Bring back the old file, or use another --run name."
            )
