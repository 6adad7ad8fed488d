"""The train step: theta^(k) from the rationales of iteration k."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from fem_core.config import RunConfig, identity_of
from fem_core.digest import derive_seed
from fem_core.errors import FemError
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.train import launch
from tasks import step

VERSION = 1
"""Raised when the same rationales would be trained on otherwise."""


def work(run_name: str, config: RunConfig, k: int, rationales: Manifest, start: Manifest) -> step.Work:
    """The checkpoint of iteration k, by identity."""
    return step.Work(
        kind="checkpoint",
        artifact=layout.iteration(run_name, k, "checkpoint"),
        step="train",
        version=VERSION,
        config={
            "iteration": k,
            "seed": config.seed,
            "learning_rate": config.learning_rate(k),
            "train": identity_of(config.train),
        },
        inputs=(step.input_of("rationales", rationales), step.input_of("start", start)),
    )


def refuse_empty(k: int, stats: dict[str, Any]) -> None:
    """An iteration without a single rationale cannot be trained on.

    Raises:
        FemError: with the utilization, the verdicts, and what to try.
    """
    if stats["accepted"]:
        return
    verdicts = ", ".join(f"{name} {count}" for name, count in stats["verdicts"].items())
    raise FemError(
        f"Iteration {k} has no rationale to train on: utilization is 0.000 of {stats['problems']} problems after "
        f"{stats['attempts']} draws ({verdicts}). Try exemplars (prompts.sample_exemplars), a hinted scheme "
        "(scheme.name pps or star), a larger scheme.budget, a larger sample.max_tokens where draws are truncated, or "
        "easier problems; `fem preview` shows what the model is asked."
    )


@task(
    name="train",
    task_run_name="train · {k}",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=exponential_backoff(10),
    retry_condition_fn=step.worth_retrying,
)
async def train(run: step.Run, k: int, rationales: Manifest, start: Manifest) -> Manifest:
    """Fine-tune on the rationales of iteration k.

    Args:
        start: the checkpoint to start from: theta^(k-1), or the base model with ``train.init: base``.

    Returns:
        The manifest of the checkpoint.
    """
    todo = work(run.name, run.config, k, rationales, start)
    label = f"train · {k}"
    if (done := await step.find(run, todo)) is not None:
        step.reused(label, done)
        return done
    refuse_empty(k, rationales.stats)
    started = step.now()
    data = await step.in_store_thread(run.store.local_dir, rationales, run.cache)
    if run.host is not None:
        await run.host.sleep()
    staging = run.cache / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{run.name}-train-{k}-", dir=staging))
    job = launch.TrainJob(
        model_dir=await run.folder(start),
        rationales=[data / record.path for record in rationales.files],
        output_dir=folder / "checkpoint",
        iteration=k,
        learning_rate=run.config.learning_rate(k),
        seed=derive_seed(run.config.seed, "train", k),
        config=run.config.train,
        trust_remote_code=run.config.model.trust_remote_code,
    )
    try:
        async with step.watch(label, None, "steps") as progress:

            def hear(event: launch.TrainProgress) -> None:
                progress.move(event.step, f"loss {event.loss:.3f}, {event.tokens} tokens", total=event.steps)

            result = await launch.train(job, hear)
    except BaseException:
        shutil.rmtree(job.output_dir, ignore_errors=True)  # half a checkpoint is of no use; its log stays beside it
        raise
    files = await step.in_store_thread(run.store.put_directory, todo.artifact, job.output_dir)
    made = todo.manifest(
        files,
        started,
        stats={"rationales": rationales.stats["accepted"], **vars(result)},
        seeds={"run": run.config.seed, "train": job.seed},
    )
    manifest = await step.commit(run, made)
    shutil.rmtree(folder)  # a failed try leaves its log there for a person to read
    step.ended(label, f"{result.steps} steps, loss {result.first_loss:.3f} to {result.last_loss:.3f}")
    return manifest
