"""The report step: a finished run's table and curves as an artifact of the run."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from fem_core.report.curves import curves
from fem_core.report.summary import markdown, summarise
from fem_core.store import layout
from fem_core.store.manifest import InputRef, Manifest
from tasks import step

VERSION = 1
"""Raised when the same run would be reported otherwise."""


@task(
    name="report",
    task_run_name="report",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=step.worth_retrying,
    on_failure=[step.failed],
)
async def report(run: step.Run) -> Manifest:
    """Write ``report.md``, ``curves.svg`` and ``curves.png``."""
    found = await step.in_store_thread(_scores, run)
    todo = step.Work(
        kind="report",
        artifact=layout.report(run.name),
        step="report",
        version=VERSION,
        config={},
        inputs=tuple(
            InputRef(role=f"scores {m.artifact.split('/', 2)[2]}", artifact=m.artifact, digest=m.digest) for m in found
        ),
    )
    if (done := await step.find(run, todo)) is not None:
        step.reused("report", done)
        return done
    started = step.now()
    summary = await step.in_store_thread(summarise, run.store, run.name)
    contents = {
        "report.md": markdown(summary).encode() + b"\n",
        "curves.svg": curves(summary, "svg"),
        "curves.png": curves(summary, "png"),
    }
    files = [
        await step.in_store_thread(run.store.write_bytes, todo.artifact, name, data) for name, data in contents.items()
    ]
    manifest = await step.commit(run, todo.manifest(files, started, stats={}))
    step.ended("report", manifest.artifact)
    return manifest


def _scores(run: step.Run) -> list[Manifest]:
    wanted = [layout.iteration(run.name, k, "scores") for k in range(run.config.iterations + 1)]
    wanted.append(layout.iteration(run.name, 0, "scores-exemplars"))
    return [manifest for artifact in wanted if (manifest := run.store.manifest(artifact)) is not None]
