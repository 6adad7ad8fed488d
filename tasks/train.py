"""The train step: theta^(k) from the rationales of iteration k.

Its process is started while the rationales are still being drawn, and imports what it needs meanwhile. While the trainer
works, its states go to the store, and a step that was broken off goes on from the newest usable one,
on whatever machine. What goes wrong with a state is told and never ends a step that works.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from fem_core.config import RunConfig, identity_of
from fem_core.digest import derive_seed, digest
from fem_core.errors import FemError
from fem_core.sample.given import is_given
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from fem_core.train import launch, state
from tasks import step
from tasks.watch import watch

STAGING = "staging"
"""Folder of the cache in which trainers work."""

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


def refuse_empty(k: int, stats: dict[str, Any], *, given: bool = False) -> None:
    """An iteration without a single rationale cannot be trained on.

    Args:
        given: the completions were not drawn.

    Raises:
        FemError: with the utilization, the verdicts, and what to try.
    """
    if stats["accepted"]:
        return
    verdicts = ", ".join(f"{name} {count}" for name, count in stats["verdicts"].items())
    if given:
        raise FemError(
            f"Iteration {k} has no completion to train on: of {stats['attempts']} given ones for {stats['problems']} problems "
            f"none was accepted ({verdicts}). Loosen the section filter, or look at the problems with `fem preview`."
        )
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
    on_failure=[step.failed],
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
    await step.in_store_thread(clear_dead, run.cache / STAGING, tries_of(run.store, run.name))
    if (done := await step.find(run, todo)) is not None:
        step.reused(label, done)
        return done
    refuse_empty(k, rationales.stats, given=is_given(run.config.scheme))
    started = step.now()
    data = await step.in_store_thread(run.store.local_dir, rationales, run.cache)
    if run.host is not None:
        await run.host.sleep()
    resumed = await _newest_state(run, todo, k, label)
    model_dir = await run.folder(start)
    standby = await _standby(run, label)
    folder = _new_folder(run, k) if standby is None else standby.output_dir.parent
    job = launch.TrainJob(
        model_dir=model_dir,
        rationales=[data / record.path for record in rationales.files],
        output_dir=folder / "checkpoint",
        iteration=k,
        learning_rate=run.config.learning_rate(k),
        seed=derive_seed(run.config.seed, "train", k),
        config=run.config.train,
        trust_remote_code=run.config.model.trust_remote_code,
        resume_from=resumed.folder if resumed else None,
    )

    def warn(text: str) -> None:
        step.noted(label, text)

    states = States(run, todo, k, resumed, warn)
    try:
        result = await _trained(label, job, states, warn, standby)
        files = await run.put(todo.artifact, job.output_dir)
        made = todo.manifest(
            files,
            started,
            stats={"rationales": rationales.stats["accepted"], **vars(result), "resumed": states.resumed},
            seeds={"run": run.config.seed, "train": job.seed},
        )
        manifest = await step.commit(run, made)
    finally:
        await states.end()
        shutil.rmtree(job.states_dir, ignore_errors=True)
        await step.in_store_thread(run.store.forget, rationales, run.cache)
    shutil.rmtree(folder)  # a failed try leaves its log there for a person to read
    await _forget_states(run, k, resumed, warn)
    step.ended(label, f"{result.steps} steps, loss {result.first_loss:.3f} to {result.last_loss:.3f}")
    return manifest


def stand_by(run: step.Run, k: int) -> None:
    """Start the trainer of iteration k ahead of its job; ``train`` takes it over."""
    if run.trainer is None:
        run.trainer = asyncio.create_task(
            launch.stand_by(_new_folder(run, k) / "checkpoint", run.config.train.num_processes)
        )


async def dismiss(run: step.Run) -> None:
    """End a trainer that was started ahead and has no job."""
    if (standby := await _standby(run, "train")) is not None:
        await standby.end()
        shutil.rmtree(standby.output_dir.parent, ignore_errors=True)


async def _standby(run: step.Run, label: str) -> launch.Standby | None:
    """The trainer that was started ahead, if it came to that."""
    if (waiting := run.trainer) is None:
        return None
    run.trainer = None
    try:
        return await waiting
    except Exception as error:  # noqa: BLE001 (the step starts another, which says what is wrong if it persists)
        step.noted(label, f"A trainer could not be started ahead: {error}")
        return None


def _new_folder(run: step.Run, k: int) -> Path:
    """A folder for one try of iteration k's M-step."""
    staging = run.cache / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{tries_of(run.store, run.name)}-{k}-", dir=staging))


def tries_of(store: Store, run: str) -> str:
    """How the folders of a run's tries begin; no other run, and no run of that name in another store, has them."""
    return f"{run}-{digest([store.url, run])[:12]}-train"


def clear_dead(staging: Path, tries: str) -> None:
    """Remove the checkpoints and states that earlier tries of a run left because they were killed; their logs stay.

    The caller holds the run's lock and lease and trains nothing yet, so none of these tries is alive; a trainer that
    stands by for its job has neither.
    """
    for folder in staging.glob(f"{tries}-*"):
        for left in (folder / "checkpoint", *folder.glob("*/states")):
            shutil.rmtree(left, ignore_errors=True)


async def _trained(
    label: str,
    job: launch.TrainJob,
    states: "States",
    warn: Callable[[str], None],
    standby: launch.Standby | None,
) -> launch.TrainResult:
    """Run the trainer; afresh where it dies, and was not killed, on the state that it was given."""
    stepped = False
    try:
        async with watch(label, None, "steps") as progress:

            def hear(event: launch.TrainProgress) -> None:
                nonlocal stepped
                stepped = True
                progress.move(event.step, f"loss {event.loss:.3f}, {event.tokens} tokens", total=event.steps)

            try:
                return await launch.train(job, hear, states.take, warn, standby)
            except launch.TrainerDied as error:
                if job.resume_from is None or stepped or isinstance(error, launch.TrainerKilled):
                    raise
                # Perhaps the state does not suit: other versions of the libraries may have written it.
                warn(f"The trainer died before its first step after the resume, so it starts afresh. {error}")
                states.resumed.clear()
                shutil.rmtree(job.output_dir, ignore_errors=True)
                return await launch.train(replace(job, resume_from=None), hear, states.take, warn)
    except BaseException:
        shutil.rmtree(job.output_dir, ignore_errors=True)  # half a checkpoint is of no use; its log stays beside it
        raise


class States:
    """Puts what the trainer saves in the store, one state at a time, while training goes on."""

    def __init__(
        self, run: step.Run, todo: step.Work, k: int, resumed: state.State | None, warn: Callable[[str], None]
    ) -> None:
        self.resumed: list[dict[str, Any]] = []
        """Where this M-step was taken up, first to last: the step, and the state with its digest."""
        self._run = run
        self._todo = todo
        self._k = k
        self._warn = warn
        self._started = step.now()
        self._good: list[str] = []
        self._waiting: launch.SavedState | None = None
        self._work: asyncio.Task[None] | None = None
        if resumed is not None:
            before = resumed.manifest.stats.get("resumed", [])
            this = {"step": resumed.step, "artifact": resumed.manifest.artifact, "digest": resumed.manifest.digest}
            self.resumed = [*before, this]
            self._good = [resumed.manifest.artifact]

    def take(self, saved: launch.SavedState) -> None:
        """A state to be stored, now or after the one under way. One that still waits then is superseded."""
        if self._waiting is not None:
            shutil.rmtree(self._waiting.folder, ignore_errors=True)
        self._waiting = saved
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._store())

    async def end(self) -> None:
        """Wait until what was taken is stored. A thread that writes cannot be stopped, and its work is worth having."""
        if self._work is not None:
            await asyncio.shield(self._work)

    async def _store(self) -> None:
        while (saved := self._waiting) is not None:
            self._waiting = None
            try:
                await self._put(saved)
            except Exception as error:  # noqa: BLE001 (the training that made it works)
                self._warn(f"The state after step {saved.step} could not be stored, training goes on: {error}")
            shutil.rmtree(saved.folder, ignore_errors=True)

    async def _put(self, saved: launch.SavedState) -> None:
        run, k = self._run, self._k
        artifact = layout.trainer_state(run.name, k, saved.step)
        run.still()
        # A damaged one was skipped, and its manifest would count as the winner's.
        await step.in_store_thread(state.remove, run.store, artifact)
        files = await run.put(artifact, saved.folder)
        made = replace(self._todo, kind=state.KIND, artifact=artifact).manifest(
            files,
            self._started,
            stats={"step": saved.step, "steps": saved.steps, "tokens": saved.tokens, "resumed": self.resumed},
        )
        await step.commit(run, made)
        self._good = [*self._good, artifact][-state.KEPT :]
        await step.in_store_thread(state.remove_others, run.store, run.name, k, self._good)


async def _newest_state(run: step.Run, todo: step.Work, k: int, label: str) -> state.State | None:
    """The state to go on from, and a line for it and for each that was skipped."""
    found, skipped = await step.in_store_thread(state.newest, run.store, run.name, k, todo.key, run.cache)
    for sentence in skipped:
        step.noted(label, sentence)
    if found is not None:
        manifest = found.manifest
        where = f"{manifest.artifact}, {manifest.digest[:12]}"
        step.noted(label, f"resumed from step {found.step} of {manifest.stats['steps']} ({where})")
    return found


async def _forget_states(run: step.Run, k: int, resumed: state.State | None, warn: Callable[[str], None]) -> None:
    """The checkpoint is there, so its states go, also the copy that a remote store's state had in the cache."""
    if resumed is not None:
        await step.in_store_thread(run.store.forget, resumed.manifest, run.cache)
    try:
        await step.in_store_thread(state.remove_others, run.store, run.name, k)
    except OSError as error:
        warn(f"The trainer's states are no longer needed and could not be removed: {error}")
