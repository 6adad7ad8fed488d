"""What the tasks of a run share: its store, its engine host, its manifests, and how what they come to reaches people.

Contract: a task first looks its artifact up by step key and returns it when it is there, so resuming is running again;
only what the store holds counts as done. Prefect's own result cache is not used (docs/decisions/0001-store-is-truth.md).
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prefect import get_run_logger
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run, task_run
from prefect.tasks import Task

from fem_core import digest
from fem_core.config import RunConfig
from fem_core.errors import FemError
from fem_core.model import BaseModelFolder
from fem_core.sample.client import EngineHost
from fem_core.schemas import SCHEMA_VERSION
from fem_core.store import fork, provenance
from fem_core.store.manifest import FileRecord, InputRef, Manifest, RunRecord, StepRecord, artifact_digest
from fem_core.store.store import Store
from fem_core.train.launch import Standby
from tasks import announce

T = TypeVar("T")

_store_threads = ThreadPoolExecutor(4, thread_name_prefix="store")


class Listener(Protocol):
    """Who follows a run in this process: the terminal, or nobody."""

    def began(self, step: str, total: int | None, unit: str) -> None:
        """A step began work."""

    def moved(self, step: str, done: int, total: int | None, detail: str) -> None:
        """A step went on."""

    def noted(self, step: str, text: str) -> None:
        """Something that a person should know, while the step goes on."""

    def ended(self, step: str, note: str) -> None:
        """A step is committed; the note says by what."""


class Silent:
    """Nobody follows."""

    def began(self, step: str, total: int | None, unit: str) -> None:
        """Say nothing."""

    def moved(self, step: str, done: int, total: int | None, detail: str) -> None:
        """Say nothing."""

    def noted(self, step: str, text: str) -> None:
        """Say nothing."""

    def ended(self, step: str, note: str) -> None:
        """Say nothing."""


class Named:
    """Says of each step which run's it is."""

    def __init__(self, listener: Listener, run: str) -> None:
        self._listener = listener
        self._run = run

    def began(self, step: str, total: int | None, unit: str) -> None:
        """See ``Listener``."""
        self._listener.began(f"{self._run} {step}", total, unit)

    def moved(self, step: str, done: int, total: int | None, detail: str) -> None:
        """See ``Listener``."""
        self._listener.moved(f"{self._run} {step}", done, total, detail)

    def noted(self, step: str, text: str) -> None:
        """See ``Listener``."""
        self._listener.noted(f"{self._run} {step}", text)

    def ended(self, step: str, note: str) -> None:
        """See ``Listener``."""
        self._listener.ended(f"{self._run} {step}", note)


LISTENER: ContextVar[Listener] = ContextVar("fem_listener", default=Silent())  # noqa: B039 (Silent has no state)


@contextlib.contextmanager
def named(run: str) -> Iterator[None]:
    """Name a run with all that it tells from here, as another one tells its own to the same listener."""
    before = LISTENER.set(Named(LISTENER.get(), run))
    try:
        yield
    finally:
        LISTENER.reset(before)


async def in_store_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a blocking store call in a thread kept for such calls, off the event loop; it knows its run, as the caller does."""
    return await _store_call(function, *args, **kwargs)


def _store_call(function: Callable[..., T], *args: Any, **kwargs: Any) -> "asyncio.Future[T]":
    call = partial(copy_context().run, function, *args, **kwargs)
    return asyncio.get_running_loop().run_in_executor(_store_threads, call)


@dataclass
class Run:
    """One run while its flow is alive."""

    name: str
    config: RunConfig
    store: Store
    cache: Path
    model: BaseModelFolder | None = None
    host: EngineHost | None = None
    record: RunRecord | None = None
    """What the store says of the run, once it is prepared; a fork's names its parent."""
    trainer: "asyncio.Task[Standby] | None" = None
    """The trainer of the iteration that is being drawn, started ahead of its job."""
    locations: dict[str, Path] = field(default_factory=dict)
    """Local folder of each checkpoint, by digest."""
    still: Callable[[], None] = lambda: None
    """Raises where this process may not write the run any more."""
    uploads: "set[asyncio.Future[list[FileRecord]]]" = field(default_factory=set)
    """What is being written, also by threads whose task was cancelled."""

    async def put(self, artifact: str, folder: Path) -> list[FileRecord]:
        """Store a folder's files, as long as this process may write the run."""
        # No task of its own: an event loop that ends cancels all tasks, and the thread would go on unknown.
        upload = _store_call(self.store.put_directory, artifact, folder, self.still)
        self.uploads.add(upload)
        upload.add_done_callback(self._uploaded)
        return await asyncio.shield(upload)

    def _uploaded(self, upload: "asyncio.Future[list[FileRecord]]") -> None:
        self.uploads.discard(upload)
        if not upload.cancelled():
            upload.exception()  # so that nobody misses it where the task that waited for it was cancelled

    async def folder(self, checkpoint: Manifest) -> Path:
        """Local, verified folder of a checkpoint; the base model's own folder for iteration 0."""
        if self.model is not None and checkpoint.kind == "model":
            return self.model.path
        if checkpoint.digest not in self.locations:
            place = await in_store_thread(self.store.local_dir, checkpoint, self.cache)
            self.locations[checkpoint.digest] = place
        return self.locations[checkpoint.digest]

    async def forget(self, checkpoint: Manifest) -> None:
        """Give back the folder of a checkpoint that no step needs any more."""
        if self.locations.pop(checkpoint.digest, None) is not None:
            await in_store_thread(self.store.forget, checkpoint, self.cache)


@dataclass(frozen=True)
class Work:
    """One artifact to be made: its place and identity."""

    kind: str
    artifact: str
    step: str
    version: int
    config: dict[str, Any]
    inputs: tuple[InputRef, ...]

    @property
    def key(self) -> str:
        """The step key."""
        return digest.step_key(self.step, self.version, self.config, {i.role: i.digest for i in self.inputs})

    def record(self) -> StepRecord:
        """The same as a manifest keeps it."""
        return StepRecord(name=self.step, version=self.version, key=self.key, config=self.config)

    def manifest(
        self,
        files: list[FileRecord],
        started: str,
        *,
        stats: dict[str, Any],
        seeds: dict[str, Any] | None = None,
        engine: dict[str, Any] | None = None,
        location: str | None = None,
    ) -> Manifest:
        """The manifest of the artifact with these files, and where and when it was made."""
        files = sorted(files, key=lambda record: record.path)
        return Manifest(
            schema_version=SCHEMA_VERSION,
            kind=self.kind,
            artifact=self.artifact,
            digest=artifact_digest(self.kind, files),
            files=files,
            step=self.record(),
            inputs=list(self.inputs),
            stats=stats,
            location=location,
            code=provenance.code(),
            packages=provenance.packages(),
            hardware=provenance.hardware(),
            seeds=seeds or {},
            engine=engine or {},
            started=started,
            finished=now(),
            prefect={k: str(v) for k, v in {"flow_run": flow_run.id, "task_run": task_run.id}.items() if v},
        )


def input_of(role: str, manifest: Manifest) -> InputRef:
    """An artifact as an input."""
    return InputRef(role=role, artifact=manifest.artifact, digest=manifest.digest)


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


async def find(run: Run, work: Work) -> Manifest | None:
    """The committed artifact, where there is one; a fork refers to its parent's, where that is the same work.

    Raises:
        StoreConflict: something else is committed in its place.
    """
    found = await in_store_thread(
        fork.find, run.store, run.record, work.artifact, work.key, step=work.record(), inputs=work.inputs
    )
    if found is None:
        await announce.began(run.store, work)
    return found


async def commit(run: Run, manifest: Manifest) -> Manifest:
    """Write the manifest; from then on the artifact exists. Returns the winner's, should another have been first."""
    counts = await in_store_thread(run.store.commit, manifest)
    await announce.committed(run.store, manifest, counts)
    return counts


failed = announce.failed
"""What every task has as its ``on_failure`` hook."""


def ended(step: str, note: str) -> None:
    """Tell what a step came to: one line in the terminal and in the run's log."""
    LISTENER.get().ended(step, note)
    get_run_logger().info("%s: %s", step, note)


def noted(step: str, text: str) -> None:
    """Tell people something about a step that goes on: in the terminal, and as a warning in the run's log."""
    LISTENER.get().noted(step, text)
    get_run_logger().warning("%s: %s", step, text)


def engine_log(cache: Path, name: str) -> Path:
    """Where the engine host of a run writes."""
    return cache / "logs" / f"{name}-engine.log"


def reused(step: str, manifest: Manifest) -> None:
    """Tell that a step needs no work."""
    ended(step, f"already done: {manifest.artifact} ({manifest.digest[:12]})")


def worth_retrying(_task: "Task[..., Any]", _task_run: TaskRun, state: "State[Any]") -> bool:
    """Retry what may pass by itself (a dead engine, a store that was away), not what a person must mend."""
    return not isinstance(state.data, FemError)
