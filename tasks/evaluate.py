"""The evaluate step: greedy predictions on the held-out problems, sampled ones where asked, then their scores."""

import json
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.tasks import exponential_backoff

from fem_core.config import RunConfig, identity_of, plain_identity
from fem_core.evaluate.score import score, version
from fem_core.problems.problem import from_table
from fem_core.sample.job import DrawJob
from fem_core.sample.schemes import evaluation_of
from fem_core.store import fork, layout
from fem_core.store.manifest import Manifest, RunRecord
from fem_core.store.store import Store
from tasks import metrics, step
from tasks.sample import draw, draw_job

VERSION = 2
"""Raised when the same checkpoint would be asked otherwise, or is known otherwise to have been asked the same: version 1 knew
predictions by all prompts of their run, the hinted one included."""

SCORES = "scores.json"


def predictions_work(
    run_name: str,
    config: RunConfig,
    k: int,
    test: Manifest,
    checkpoint: Manifest,
    exemplars: int,
    version: int = VERSION,
) -> step.Work:
    """The predictions of theta^(k) with so many exemplars, by identity: runs that ask the same share them, whatever hints
    they draw with.

    Args:
        version: as an older one knew them.
    """
    asked = {"exemplars": exemplars, "prompts": identity_of(config.prompts)}
    return step.Work(
        kind="predictions",
        artifact=layout.iteration(run_name, k, named("predictions", config, exemplars)),
        step="evaluate",
        version=version,
        config={
            **(asked if version == 1 else {"plain_prompt": plain_identity(config.prompts, exemplars)}),
            "max_tokens": config.evaluate.max_tokens or config.sample.max_tokens,
            "stop_at_answer": config.sample.stop_at_answer,
            "problems_per_part": config.sample.problems_per_part,
            "engine": identity_of(config.sample.engine),
            **_sampled(config, k),
        },
        inputs=(step.input_of("problems", test), step.input_of("checkpoint", checkpoint)),
    )


def predictions_there(
    store: Store,
    record: RunRecord | None,
    run_name: str,
    config: RunConfig,
    k: int,
    test: Manifest,
    checkpoint: Manifest,
    exemplars: int,
) -> step.Work:
    """The same as the version knew them that has made or begun them, in the run or in a fork's parent; else as this one does."""
    for earlier in range(1, VERSION):
        older = predictions_work(run_name, config, k, test, checkpoint, exemplars, earlier)
        if fork.begun(store, record, older.artifact, older.key):
            return older
    return predictions_work(run_name, config, k, test, checkpoint, exemplars)


def _sampled(config: RunConfig, k: int) -> dict[str, Any]:
    """What the sampled draws of an evaluation add to its identity."""
    if config.evaluate.draws is None:
        return {}
    drawn = {"draws": config.evaluate.draws, "temperature": config.evaluate.draw_temperature}
    return {"sampled": drawn, "seed": config.seed, "iteration": k}


def predictions_job(run: step.Run, todo: step.Work, k: int, test: Manifest, exemplars: int) -> DrawJob:
    """The job of an evaluation: one greedy draw per problem, and the sampled ones behind it."""
    sampled = run.config.evaluate
    return draw_job(run, f"evaluate-{k}-{exemplars}", todo, k, test, evaluation_of(sampled.draws)).model_copy(
        update={
            "exemplars": exemplars,
            "temperature": sampled.draw_temperature if sampled.draws else 0.0,
            "greedy_first": True,
            "top_p": 1.0,
            "max_tokens": todo.config["max_tokens"],
        }
    )


def scores_work(
    run_name: str,
    config: RunConfig,
    k: int,
    train: Manifest,
    test: Manifest,
    predictions: Manifest,
    exemplars: int,
    recorded: Manifest | None = None,
) -> step.Work:
    """The scores of those predictions, by identity.

    Args:
        recorded: the scores that are there already; an older version's stay valid.
    """
    current = version(config.problems)
    return step.Work(
        kind="scores",
        artifact=scores_place(run_name, config, k, exemplars),
        step="evaluate",
        version=current if recorded is None else min(current, recorded.step.version),
        config={"score": "accuracy"},
        inputs=(
            step.input_of("train_problems", train),
            step.input_of("problems", test),
            step.input_of("predictions", predictions),
        ),
    )


def scores_place(run_name: str, config: RunConfig, k: int, exemplars: int) -> str:
    """The artifact of those scores."""
    return layout.iteration(run_name, k, named("scores", config, exemplars))


def named(kind: str, config: RunConfig, exemplars: int) -> str:
    """``predictions``, or ``predictions-exemplars`` for the baseline that shows the sampling exemplars."""
    return kind if exemplars == config.prompts.train_exemplars else f"{kind}-exemplars"


def label_of(parameters: dict[str, Any]) -> str:
    """``evaluate · 3``; the baseline that shows the sampling exemplars says so."""
    baseline = parameters["exemplars"] != parameters["run"].config.prompts.train_exemplars
    return f"evaluate · {parameters['k']}" + (" with exemplars" if baseline else "")


@task(
    name="evaluate",
    task_run_name=lambda: label_of(task_run.parameters),
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=step.worth_retrying,
    on_failure=[step.failed],
)
async def evaluate(
    run: step.Run, k: int, train: Manifest, test: Manifest, checkpoint: Manifest, exemplars: int
) -> Manifest:
    """Score theta^(k) on the test problems.

    Args:
        exemplars: how many exemplars the plain prompt shows: the training number, or for the baseline the sampling one.

    Returns:
        The manifest of the scores; its stats are the scores.
    """
    label = label_of({"run": run, "k": k, "exemplars": exemplars})
    todo = await step.in_store_thread(
        predictions_there, run.store, run.record, run.name, run.config, k, test, checkpoint, exemplars
    )
    predictions = await step.find(run, todo)
    if predictions is None:
        predictions = await draw(run, predictions_job(run, todo, k, test, exemplars), todo, label, checkpoint)
    recorded = await step.in_store_thread(run.store.manifest, scores_place(run.name, run.config, k, exemplars))
    scoring = scores_work(run.name, run.config, k, train, test, predictions, exemplars, recorded)
    if (done := await step.find(run, scoring)) is not None:
        step.reused(label, done)
        return done
    started = step.now()

    def judge() -> dict[str, Any]:
        train_set, test_set = (from_table(run.store.read_table(side)) for side in (train, test))
        return score(run.store.iter_tables(predictions), train_set, test_set, scoring.version)

    scores = await step.in_store_thread(judge)
    text = json.dumps(scores, indent=2, sort_keys=True).encode() + b"\n"
    record = await step.in_store_thread(run.store.write_bytes, scoring.artifact, SCORES, text)
    manifest = await step.commit(run, scoring.manifest([record], started, stats=scores))
    if exemplars == run.config.prompts.train_exemplars:
        await metrics.scored(run, k, scores)
    step.ended(label, f"accuracy {scores['accuracy']:.3f} [{scores['low']:.3f}, {scores['high']:.3f}]")
    return manifest
