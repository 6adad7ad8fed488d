"""`fem resume`: continue a run from what the store says of it."""

from collections.abc import Sequence

from fem_core.config import RunConfig
from fem_core.config_files import parse_config
from fem_core.errors import StoreConflict
from flows.commands.options import DEFAULT_STORE, Set, StoreUrl


def resume(run: str, *, store: StoreUrl = None, set_: Set = (), dry_run: bool = False) -> None:
    """Continue a run from the store alone: on this machine or another, whatever the Prefect database knows.

    Parameters
    ----------
    run
        Name of the run.
    store
        Folder or URL of the store; ./fem-store by default.
    set_
        Where things lie now, such as ``--set model.source=/models/base``; what decides results stays as it is.
    dry_run
        Show the configuration, the steps with their keys, and which are done; write nothing.
    """
    config = recorded_config(run, store or DEFAULT_STORE, set_)
    if dry_run:
        from flows.plan import show_plan

        show_plan(config)
        return
    from flows.commands.execute import execute

    execute(config)


def recorded_config(run: str, store_url: str, overrides: Sequence[str]) -> RunConfig:
    """The configuration of a run in a store, with its places as they were or as ``overrides`` say.

    Raises:
        StoreConflict: an override changes more than a place.
        FemError: there is no such run.
    """
    from fem_core.store.diff import differences
    from fem_core.store.store import Store

    store = Store.open(store_url, check=False)
    record = store.existing_run(run)
    config = parse_config(with_overrides(record.config, record.places, overrides) | {"name": run, "store": store_url})
    if config.digest() != record.digest:
        lines = "; ".join(differences(record.config, config.identity()))
        raise StoreConflict(
            f"Run {run!r} has one configuration, and this would change it: {lines}. "
            f"Start another run from it: fem fork {run} --run NEW --set …"
        )
    return config


def with_overrides(identity: dict, places: dict, overrides: Sequence[str]) -> dict:  # type: ignore[type-arg]
    """A configuration as plain values from what a run's record holds, changed by ``a.b=c`` overrides.

    How the S3 server was reached then takes no part: the caller has reached the store already.
    """
    import copy

    from fem_core.config_files import drop_replaced, override

    data = copy.deepcopy(identity)
    for dotted, value in places.items():
        if dotted == "s3":
            continue
        *path, last = dotted.split(".")
        inner = data
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = value
    drop_replaced(data, (text.partition("=")[0].strip() for text in overrides))
    for text in overrides:
        override(data, text)
    return data
