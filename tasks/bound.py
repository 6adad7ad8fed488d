"""The bound of theta^(k): hinted draws for the probe set, looked at under the plain prompt, then EM's bound of them."""

import json
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from fem_core.config import BoundConfig, RunConfig, identity_of
from fem_core.evaluate import bound as bounds
from fem_core.problems.problem import from_table
from fem_core.sample.job import DrawJob
from fem_core.sample.schemes import Plan, Stage
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from tasks import step
from tasks.sample import draw, draw_job

VERSION = 1
"""Of the probes: raised when the same checkpoint would be drawn with otherwise."""

FILE = "bound.json"


def probes_work(run_name: str, config: RunConfig, k: int, problems: Manifest, checkpoint: Manifest) -> step.Work:
    """The probes of theta^(k), by identity."""
    return step.Work(
        kind="probes",
        artifact=layout.iteration(run_name, k, "probes"),
        step="evaluate",
        version=VERSION,
        config={
            "iteration": k,
            "seed": config.seed,
            "bound": identity_of(_asked(config)),
            "prompts": identity_of(config.prompts),
            "max_tokens": config.sample.max_tokens,
            "stop_at_answer": config.sample.stop_at_answer,
            "problems_per_part": config.sample.problems_per_part,
            "engine": identity_of(config.sample.engine),
        },
        inputs=(step.input_of("problems", problems), step.input_of("checkpoint", checkpoint)),
    )


def probes_job(run: step.Run, todo: step.Work, k: int, problems: Manifest, ids: tuple[str, ...]) -> DrawJob:
    """The job of the probes: every draw of the model's own distribution, so that the weights are those of a posterior."""
    plan = Plan((Stage("hinted", _asked(run.config).draws),), "all")
    return draw_job(run, f"bound-{k}", todo, k, problems, plan).model_copy(
        update={
            "seed": bounds.draw_seed(run.config.seed),
            "temperature": 1.0,
            "top_p": 1.0,
            "only": ids,
            "plain_exemplars": run.config.prompts.train_exemplars,
        }
    )


def bound_work(
    run_name: str,
    k: int,
    problems: Manifest,
    probes: Manifest,
    before: Manifest | None,
    recorded: Manifest | None = None,
) -> step.Work:
    """The bound of those probes, by identity.

    Args:
        before: the probes of the iteration before.
        recorded: the bound that is there already; an older version's stays valid.
    """
    earlier = () if before is None else (step.input_of("before", before),)
    return step.Work(
        kind="bound",
        artifact=bound_place(run_name, k),
        step="evaluate",
        version=bounds.VERSION if recorded is None else min(bounds.VERSION, recorded.step.version),
        config={},
        inputs=(step.input_of("problems", problems), step.input_of("probes", probes), *earlier),
    )


def bound_place(run_name: str, k: int) -> str:
    """The artifact of that bound."""
    return layout.iteration(run_name, k, "bound")


def _asked(config: RunConfig) -> BoundConfig:
    if config.evaluate.bound is None:
        raise RuntimeError("the run has no evaluate.bound")
    return config.evaluate.bound


@task(
    name="bound",
    task_run_name="bound · {k}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=step.worth_retrying,
    on_failure=[step.failed],
)
async def bound(run: step.Run, k: int, problems: Manifest, checkpoint: Manifest) -> Manifest:
    """Bound how likely theta^(k) makes the right answers of the probe set.

    Args:
        problems: the training problems, of which some are the probe set.

    Returns:
        The manifest of the bound; its stats are the figures.
    """
    label = f"bound · {k}"
    known = {one.problem_id: one for one in from_table(await step.in_store_thread(run.store.read_table, problems))}
    todo = probes_work(run.name, run.config, k, problems, checkpoint)
    probes = await step.find(run, todo)
    if probes is None:
        ids = bounds.probe_ids(known, _asked(run.config).problems, run.config.seed)
        probes = await draw(run, probes_job(run, todo, k, problems, ids), todo, label, checkpoint)
    before = await step.in_store_thread(run.store.manifest, layout.iteration(run.name, k - 1, "probes")) if k else None
    recorded = await step.in_store_thread(run.store.manifest, bound_place(run.name, k))
    weighing = bound_work(run.name, k, problems, probes, before, recorded)
    if (done := await step.find(run, weighing)) is not None:
        step.reused(label, done)
        return done
    started = step.now()

    def weigh() -> dict[str, Any]:
        sides = [None if one is None else bounds.weighed(run.store.iter_tables(one), known) for one in (before, probes)]
        earlier, now = sides
        assert now is not None
        return bounds.bound(now, earlier)

    found = await step.in_store_thread(weigh)
    text = json.dumps(found, indent=2, sort_keys=True).encode() + b"\n"
    record = await step.in_store_thread(run.store.write_bytes, weighing.artifact, FILE, text)
    manifest = await step.commit(run, weighing.manifest([record], started, stats=found))
    step.ended(label, f"bound {found['bound']:.3f} [{found['low']:.3f}, {found['high']:.3f}] nats per problem")
    return manifest
