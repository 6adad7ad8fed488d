"""The report step: a finished run's table, curves and diagnostics as an artifact of the run."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from fem_core.config import RunConfig
from fem_core.report.curves import curves
from fem_core.report.diagnosis import FILE, made, sources
from fem_core.report.signatures import lines, signatures
from fem_core.report.summary import markdown, summarise
from fem_core.store import layout
from fem_core.store.manifest import FileRecord, InputRef, Manifest
from fem_core.store.store import Store
from tasks import step

VERSION = 3
"""Raised when the same run would be reported otherwise. A run keeps the report that an earlier version has made: it is a
view of what the run holds, and no step reads it."""


def work(run_name: str, config: RunConfig, store: Store) -> step.Work:
    """The report, by identity: of all that it shows and that is committed."""
    places = [layout.iteration(run_name, k, "scores") for k in range(config.iterations + 1)]
    places.append(layout.iteration(run_name, 0, "scores-exemplars"))
    places += [layout.iteration(run_name, k, "bound") for k in range(config.iterations + 1)]
    found = [manifest for place in places if (manifest := store.manifest(place)) is not None]
    found += sources(store, run_name, config.iterations)
    return step.Work(
        kind="report",
        artifact=layout.report(run_name),
        step="report",
        version=VERSION,
        config={},
        inputs=tuple(
            InputRef(role=f"{m.kind} {m.artifact.split('/', 2)[2]}", artifact=m.artifact, digest=m.digest)
            for m in found
        ),
    )


@task(
    name="report",
    task_run_name="report",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=step.worth_retrying,
    on_failure=[step.failed],
)
async def report(run: step.Run) -> Manifest:
    """Write ``report.md``, ``curves.svg``, ``curves.png`` and ``diagnostics.parquet``."""
    earlier = await step.in_store_thread(run.store.manifest, layout.report(run.name))
    if earlier is not None and earlier.step.version < VERSION:
        step.reused("report", earlier)
        return earlier
    todo = await step.in_store_thread(work, run.name, run.config, run.store)
    if (done := await step.find(run, todo)) is not None:
        step.reused("report", done)
        return done
    started = step.now()
    files = await step.in_store_thread(write, run.store, run.name, todo)
    manifest = await step.commit(run, todo.manifest(files, started, stats={}))
    step.ended("report", manifest.artifact)
    return manifest


def write(store: Store, run_name: str, todo: step.Work) -> list[FileRecord]:
    """Make the files of the report."""
    summary, found = summarise(store, run_name), made(store, run_name)
    warnings = lines(signatures(summary, found.to_pylist()))
    contents = {
        "report.md": markdown(summary, warnings).encode() + b"\n",
        "curves.svg": curves(summary, "svg"),
        "curves.png": curves(summary, "png"),
    }
    files = [store.write_bytes(todo.artifact, name, data) for name, data in contents.items()]
    return [*files, store.write_table(todo.artifact, FILE, found, todo.key)]
