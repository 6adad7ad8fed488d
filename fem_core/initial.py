"""theta^(0): the base model that a configuration names, or another run's checkpoint.

Contract: which checkpoint ``init`` came to is an input of the run's model artifact, role ``init``. From then on the run
has that one, whatever is the latest later on, so a resumed run goes on with the weights that it began with.
"""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fem_core.config import RunConfig
from fem_core.errors import FemError, StoreConflict
from fem_core.model import BaseModelFolder, resolve_model
from fem_core.store import access, fork, layout
from fem_core.store.deletion import deleted_at
from fem_core.store.manifest import InputRef, Manifest, RunRecord
from fem_core.store.store import Store

ROLE = "init"
"""Of the checkpoint among the inputs of the model artifact."""

_NAMED = re.compile(r"run:(?P<run>.+)@(?P<k>latest|\d+)")


def base_model(
    config: RunConfig, store: Store, name: str, record: RunRecord | None, cache: Path
) -> tuple[BaseModelFolder, InputRef | None]:
    """theta^(0) of the run ``name`` as a local folder, and the checkpoint that it is, where it is one.

    Args:
        record: the run's, where it has begun or is a fork about to begin.

    Raises:
        FemError: the checkpoint is not there; or as ``resolve_model``.
        StoreConflict: the checkpoint is another than when the run began.
    """
    checkpoint = None if config.init is None else _checkpoint(config.init, store, name, record)
    if checkpoint is None:
        return resolve_model(config.model, cache), None
    folder = store.local_dir(checkpoint, cache)
    model = resolve_model(config.model.model_copy(update={"source": str(folder)}), cache)
    place = layout.iteration_of(checkpoint.artifact).partition("/iteration=")
    called = f"run:{layout.run_of(checkpoint.artifact)}@{int(place[2])}"
    return replace(model, name=called), InputRef(role=ROLE, artifact=checkpoint.artifact, digest=checkpoint.digest)


def looked_at(config: RunConfig, cache: Path) -> tuple[BaseModelFolder, InputRef | None]:
    """As ``base_model``, for a run that need not have begun: the store is opened only where ``init`` asks for it."""
    if config.init is None:
        return resolve_model(config.model, cache), None
    access.use(config.s3)
    return base_model(config, Store.open(config.store, check=False), config.name or "fem", None, cache)


def recorded(model: Manifest | None) -> InputRef | None:
    """The checkpoint that a run's model artifact says it is."""
    return None if model is None else next((ref for ref in model.inputs if ref.role == ROLE), None)


def teachers(store: Store, record: RunRecord | None, init: InputRef | None) -> Iterator[str]:
    """The runs whose training problems the weights have seen that a run begins with, through forks and ``init``."""
    todo, met = _before(record, init), set[str]()
    while todo:
        run = todo.pop()
        if run in met:
            continue
        met.add(run)
        yield run
        todo += _before(store.run(run), recorded(store.manifest(layout.model(run))))


def _before(record: RunRecord | None, init: InputRef | None) -> list[str]:
    parent = fork.parent_of(record)
    forked = [parent.run] if parent is not None and parent.iteration else []
    return forked + ([] if init is None else [layout.run_of(init.artifact)])


def _checkpoint(init: str, store: Store, name: str, record: RunRecord | None) -> Manifest | None:
    """What the run has begun with, or what it would begin with now; None for the configuration's own model."""
    model = store.manifest(layout.model(name))
    if model is None and record is not None:
        model = fork.counterpart(store, record, layout.model(name))
    if model is None:
        return _choose(init, store)
    ref = recorded(model)
    if ref is None:
        return None
    found = store.manifest(ref.artifact)
    if found is None or found.digest != ref.digest:
        state = "is not in the store" if found is None else f"is {found.digest[:12]} now"
        raise StoreConflict(
            f"Run {name!r} began with {ref.artifact} ({ref.digest[:12]}), which {state}. Bring that back, or use another "
            "--run name."
        )
    return found


def _choose(init: str, store: Store) -> Manifest | None:
    """The checkpoint that ``init`` means now. A run that asks has no checkpoint yet, so it is never its own."""
    said = _NAMED.fullmatch(init)
    assert said is not None, "the configuration's own pattern has let it pass"
    for one in sorted(store.runs(), key=lambda one: one.created, reverse=True):
        if not fnmatch.fnmatchcase(one.name, said["run"]) or deleted_at(store, one.name) is not None:
            continue
        last = int(one.config["iterations"])
        for k in range(last, 0, -1) if said["k"] == "latest" else [int(said["k"])]:
            checkpoint = store.manifest(layout.iteration(one.name, k, "checkpoint"))
            if checkpoint is not None:
                return checkpoint
    if "*" in said["run"]:
        return None
    known = ", ".join(one.name for one in store.runs()) or "none"
    what = "no checkpoint yet" if said["k"] == "latest" else f"no checkpoint of iteration {said['k']}"
    raise FemError(f"init is {init!r}, and {store.url} has {what} of that run. Runs here: {known}.")
