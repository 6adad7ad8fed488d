"""`fem fork`: another run that starts from an iteration of this one."""

from fem_core.errors import FemError
from flows.commands.options import DEFAULT_STORE, Set, StoreUrl
from flows.commands.resume import with_overrides


def fork(parent: str, *, run: str, store: StoreUrl = None, set_: Set = (), dry_run: bool = False) -> None:
    """Start a run from another's iteration, with other settings; nothing is copied, nothing of the parent changes.

    Parameters
    ----------
    parent
        ``RUN@K`` starts from the checkpoint of iteration K; ``RUN`` from its problems and base model alone.
    run
        Name of the new run.
    store
        Folder or URL of the store that holds the parent, and will hold the fork; ./fem-store by default.
    set_
        What is to be different, such as ``--set scheme.name=rs``; may be repeated.
    dry_run
        Show what would be taken over, what would be done again and why; write nothing.
    """
    from fem_core.config_files import parse_config
    from fem_core.store.fork import begin
    from fem_core.store.store import Store

    name, _, iteration = parent.partition("@")
    if iteration and not iteration.isdecimal():
        raise FemError(f"{parent!r} does not name an iteration. Write for example {name}@2.")
    url = store or DEFAULT_STORE
    place = Store.open(url, check=False)
    start = begin(place, name, int(iteration) if iteration else None)
    record = place.run(name)
    assert record is not None
    if run == name:
        raise FemError(f"A fork needs a name of its own, and {run!r} is its parent's. Name another with --run.")
    config = parse_config(with_overrides(record.config, record.places, set_) | {"name": run, "store": url})
    if start.iteration >= max(config.iterations, 1):  # a run of the scheme none has no iteration, and the base to score
        way = f"Ask for more with --set iterations={start.iteration + 1}, or fork from an earlier iteration."
        if not config.iterations:
            way = f"The scheme none scores the base model alone: fork {name} without an iteration."
        raise FemError(
            f"The fork would have nothing to do: it starts from iteration {start.iteration} of {config.iterations}. {way}"
        )
    if dry_run:
        from flows.plan import show_plan

        show_plan(config, start)
        return
    from flows.commands.execute import execute

    execute(config, start)
