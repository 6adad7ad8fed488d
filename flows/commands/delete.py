"""``fem delete``: mark a run as deleted, or take the mark away."""

from typing import Annotated

from cyclopts import Parameter

from flows.commands.options import DEFAULT_STORE, StoreUrl


def delete(run: str, *, store: StoreUrl = None, undo: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Mark a run as deleted: ``fem gc`` then removes its data after the grace period, and keeps its records.

    Parameters
    ----------
    run
        Name of the run. One that forks refer to is refused, unless they are marked as well.
    store
        Folder or URL of the store; ./fem-store by default.
    undo
        Take the mark away again, as long as gc has not removed anything of the run.
    """
    from fem_core.store import deletion
    from fem_core.store.store import Store
    from flows.ending import safe

    opened = Store.open(store or DEFAULT_STORE, check=False)
    if undo:
        deletion.unmark(opened, run)
        print(f"The run {run} is not deleted any more.")
        return
    since = deletion.mark(opened, run)
    print(
        f"The run {run} is marked deleted since {safe(since)}. Its data go with `fem gc --yes` once the grace period is "
        "over; its records stay. Until then, take the mark away with --undo."
    )
