"""The filter step: attempts to verdicts to rationales."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from fem_core import annotations
from fem_core.config import RunConfig, identity_of
from fem_core.filter.rationales import VERSION, Filtered, filter_attempts
from fem_core.problems.problem import from_table
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from tasks import metrics, step


def work(
    run_name: str,
    config: RunConfig,
    k: int,
    kind: str,
    problems: Manifest,
    attempts: Manifest,
    said: Manifest | None = None,
) -> step.Work:
    """The verdicts or rationales of iteration k, by identity.

    Args:
        said: the version that ``filter.annotations`` names, where it names one.
    """
    spoken = () if said is None else (step.input_of("annotations", said),)
    return step.Work(
        kind=kind,
        artifact=layout.iteration(run_name, k, kind),
        step="filter",
        version=VERSION,
        config={"kind": kind, "filter": identity_of(config.filter), "prompts": identity_of(config.prompts)},
        inputs=(step.input_of("problems", problems), step.input_of("attempts", attempts), *spoken),
    )


def annotated(store: Store, config: RunConfig) -> Manifest | None:
    """The version that ``filter.annotations`` names; None where it names none.

    Raises:
        FemError: it is not in the store.
    """
    return None if config.filter.annotations is None else annotations.named(store, config.filter.annotations)


@task(
    name="filter",
    task_run_name="filter · {k}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=step.worth_retrying,
    on_failure=[step.failed],
)
async def filter_(run: step.Run, k: int, problems: Manifest, attempts: Manifest) -> Manifest:
    """Decide on every attempt of iteration k.

    Returns:
        The manifest of the rationales; its stats hold ``utilization`` and the count of each verdict.
    """
    said = await step.in_store_thread(annotated, run.store, run.config)
    todo = work(run.name, run.config, k, "rationales", problems, attempts, said)
    beside = work(run.name, run.config, k, "verdicts", problems, attempts, said)
    label = f"filter · {k}"
    if (done := await step.find(run, todo)) is not None:
        step.reused(label, done)
        return done
    started = step.now()

    def decide() -> Filtered:
        known = from_table(run.store.read_table(problems))
        words = [] if said is None else annotations.read(run.store, said)
        return filter_attempts(known, run.store.iter_tables(attempts), run.config.filter, run.config.prompts, words)

    result = await step.in_store_thread(decide)
    for what, table in ((beside, result.verdicts), (todo, result.rationales)):
        record = await step.in_store_thread(run.store.write_table, what.artifact, layout.part_name(0), table, what.key)
        manifest = await step.commit(run, what.manifest([record], started, stats=result.stats))
    await metrics.filtered(run, k, result.stats)
    step.ended(label, f"{result.stats['accepted']} rationales, utilization {result.stats['utilization']:.3f}")
    return manifest
