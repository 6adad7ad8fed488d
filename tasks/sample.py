"""The sample step: attempts for every training problem, drawn with the weights of the iteration before, or given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from fem_core.config import RunConfig, identity_of
from fem_core.problems.problem import Problem, from_table
from fem_core.problems.verifier import Verifier
from fem_core.sample.draw import draw_stats
from fem_core.sample.given import given_attempts, given_stats, is_given
from fem_core.sample.job import DrawJob
from fem_core.sample.schemes import Plan, plan_of
from fem_core.store import layout
from fem_core.store.manifest import FileRecord, Manifest
from tasks import step
from tasks.train import stand_by
from tasks.watch import watch

VERSION = 1
"""Raised when the same inputs and configuration would be drawn for otherwise."""


def work(run_name: str, config: RunConfig, k: int, problems: Manifest, checkpoint: Manifest) -> step.Work:
    """The attempts of iteration k, by identity. Those of a control arm are of no checkpoint and the same each time."""
    if is_given(config.scheme):
        return step.Work(
            kind="attempts",
            artifact=layout.iteration(run_name, k, "attempts"),
            step="sample",
            version=VERSION,
            config={"scheme": identity_of(config.scheme), "problems_per_part": config.sample.problems_per_part},
            inputs=(step.input_of("problems", problems),),
        )
    return step.Work(
        kind="attempts",
        artifact=layout.iteration(run_name, k, "attempts"),
        step="sample",
        version=VERSION,
        config={
            "iteration": k,
            "seed": config.seed,
            "prompts": identity_of(config.prompts),
            "scheme": identity_of(config.scheme),
            "sample": identity_of(config.sample),
            **({"looks": list(looks)} if (looks := config.filter.looks) else {}),
        },
        inputs=(step.input_of("problems", problems), step.input_of("checkpoint", checkpoint)),
    )


@task(
    name="sample",
    task_run_name="sample · {k}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=step.worth_retrying,
    on_failure=[step.failed],
)
async def sample(run: step.Run, k: int, problems: Manifest, checkpoint: Manifest) -> Manifest:
    """Draw the attempts of iteration k, or give them.

    Args:
        checkpoint: theta^(k-1), the weights to draw with.

    Returns:
        The manifest of the attempts; its stats hold ``draws``, ``problems_accepted`` and the tokens.
    """
    todo = work(run.name, run.config, k, problems, checkpoint)
    label = f"sample · {k}"
    if (done := await step.find(run, todo)) is not None:
        step.reused(label, done)
        return done
    if is_given(run.config.scheme):
        return await _give(run, todo, label, problems)
    job = sample_job(run, f"sample-{k}", todo, k, problems)
    return await draw(run, job, todo, label, checkpoint, on_draining=lambda: stand_by(run, k))


async def _give(run: step.Run, todo: step.Work, label: str, problems: Manifest) -> Manifest:
    """Commit given attempts, in the parts that draws would lie in."""
    started = step.now()

    def make() -> Manifest:
        known = from_table(run.store.read_table(problems))
        files, tables = give(run, todo, known)
        return todo.manifest(files, started, stats=given_stats(run.config.scheme, known, tables))

    manifest = await step.commit(run, await step.in_store_thread(make))
    lacking = manifest.stats["without_rationale"]
    note = f", {lacking} problems have no gold rationale" if lacking else ""
    step.ended(label, f"{manifest.stats['given']} completions given{note}")
    return manifest


def give(run: step.Run, todo: step.Work, problems: list[Problem]) -> tuple[list[FileRecord], list[pa.Table]]:
    """Write the given attempts of some problems, and return them."""
    scheme, size = run.config.scheme, run.config.sample.problems_per_part
    with Verifier() as verifier:
        tables = [given_attempts(scheme, problems[i : i + size], verifier) for i in range(0, len(problems), size)]
    write = run.store.write_table
    return [write(todo.artifact, layout.part_name(n), one, todo.key) for n, one in enumerate(tables)], tables


def sample_job(run: step.Run, job_id: str, todo: step.Work, k: int, problems: Manifest) -> DrawJob:
    """The job of an E-step."""
    job = draw_job(run, job_id, todo, k, problems, plan_of(run.config.scheme))
    return job.model_copy(update={"looks": run.config.filter.looks})


def draw_job(run: step.Run, job_id: str, todo: step.Work, k: int, problems: Manifest, plan: Plan) -> DrawJob:
    """A job that walks a plan as the E-step draws."""
    config = run.config
    return DrawJob(
        id=job_id,
        store=config.store,
        problems=problems.artifact,
        artifact=todo.artifact,
        key=todo.key,
        iteration=k,
        seed=config.seed,
        prompts=config.prompts,
        exemplars=config.prompts.sample_exemplars,
        stages=tuple((stage.kind, stage.budget) for stage in plan.stages),
        keep=plan.keep,
        temperature=config.sample.temperature,
        top_p=config.sample.top_p,
        max_tokens=config.sample.max_tokens,
        problems_per_part=config.sample.problems_per_part,
    )


async def draw(
    run: step.Run,
    job: DrawJob,
    todo: step.Work,
    label: str,
    checkpoint: Manifest,
    on_draining: Callable[[], None] = lambda: None,
) -> Manifest:
    """Do a draw job on the run's host and commit its parts as an artifact. Evaluation uses it too.

    Args:
        on_draining: is called, perhaps more than once, when the last problems have been begun.
    """
    if run.host is None:
        raise RuntimeError("the run has no engine host")
    started = step.now()
    weights: tuple[str, Path] = (checkpoint.digest, await run.folder(checkpoint))
    aside: dict[str, int] = {}
    async with watch(label, None, "problems") as progress:

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "began":
                note = f"{event['reused_parts']} parts were already committed" if event["reused_parts"] else ""
                progress.move(0, note, total=event["total"])
            elif event["event"] == "progress":
                detail = f"{event['draws']} draws, {event['accepted']} problems accepted, {event['completion_tokens']} tokens"
                progress.move(event["settled"], detail)
                aside["dropped_tokens"] = event["dropped_tokens"]
                if job.looks_again:
                    aside["look_tokens"] = event["look_tokens"]
                if event["draining"]:
                    on_draining()

        await run.host.draw(job, weights, hear)
    parts = await step.in_store_thread(run.store.parts, todo.artifact, todo.key)
    manifest = todo.manifest(
        list(parts.values()),
        started,
        stats={},
        seeds={"run": job.seed, "per_draw": "derive_seed(run, iteration, problem_id, attempt)"},
        engine=run.config.sample.engine.model_dump(mode="json") | run.host.facts,
    )
    stats = await step.in_store_thread(lambda: draw_stats(run.store.iter_tables(manifest)))
    # Of this try; what an earlier one drew ahead or looked at went with its process.
    manifest = await step.commit(run, manifest.model_copy(update={"stats": stats | {"dropped_tokens": 0} | aside}))
    step.ended(
        label,
        f"{stats['draws']} draws, {stats['problems_accepted']} problems accepted, {stats['completion_tokens']} tokens",
    )
    return manifest
