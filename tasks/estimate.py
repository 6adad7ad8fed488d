"""The way of an estimate into a run: `fem plan` keeps it in the cache, and the run's prepare step commits it.

Contract: a run without one is as it was. The step key (the configuration, the problems, the base model) is the identity
of an estimate and the name of its file, so no run gets that of another. It can only come before the run: a run that is
prepared has what it has.
"""

from pathlib import Path

from fem_core.config import RunConfig
from fem_core.errors import Corrupt
from fem_core.report.costs import ESTIMATE
from fem_core.report.estimate import VERSION, Estimate, dump, load, total
from fem_core.store import fork, layout
from fem_core.store.manifest import Manifest
from tasks import step


def work(run_name: str, config: RunConfig, train: Manifest, test: Manifest, model: Manifest) -> step.Work:
    """The estimate of a run, by identity."""
    return step.Work(
        kind="estimate",
        artifact=layout.estimate(run_name),
        step="prepare",
        version=VERSION,
        config={"configuration": config.digest()},
        inputs=(step.input_of("train", train), step.input_of("test", test), step.input_of("model", model)),
    )


def keep(cache: Path, todo: step.Work, made: Estimate) -> Path:
    """Put an estimate where the run will find it, in place of an older one."""
    file = _file(cache, todo)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_bytes(dump(made))
    new.replace(file)
    return file


async def take_along(run: step.Run, train: Manifest, test: Manifest, model: Manifest) -> None:
    """Commit the estimate that is kept for this run, if there is one; a fork has none, as it makes but a part."""
    todo = work(run.name, run.config, train, test, model)
    file = _file(run.cache, todo)
    if not file.is_file() or fork.parent_of(run.record) is not None:
        return
    text = file.read_bytes()
    try:
        made = load(text, str(file))
    except Corrupt as error:
        step.noted("prepare", str(error))
        return
    if await step.find(run, todo) is not None:
        return
    started = step.now()
    record = await step.in_store_thread(run.store.write_bytes, todo.artifact, ESTIMATE, text)
    whole = total(made.steps)
    stats = {"made": made.made, "seconds": whole.seconds.value, "bytes": whole.bytes.value}
    await step.commit(run, todo.manifest([record], started, stats=stats))


def _file(cache: Path, todo: step.Work) -> Path:
    return cache / "estimates" / f"{todo.key}.json"
