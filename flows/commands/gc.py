"""``fem gc``: what of a store may go, and its removal."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.commands.options import DEFAULT_STORE, StoreUrl

if TYPE_CHECKING:
    from fem_core.store.collect import Doomed

GRACE = timedelta(days=7)

SERVES = {"trainer_state": "checkpoint"}
"""An M-step's states are for continuing it: the checkpoint, or a later state, takes their place."""


def gc(
    *,
    store: StoreUrl = None,
    grace: Annotated[timedelta, Parameter(show_default=lambda _: "7d")] = GRACE,
    yes: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Show what of a store may go, with reasons; remove it with --yes.

    That is: leftovers of crashed tries, states of finished M-steps, and the data of runs that ``fem delete`` marked.
    Manifests and run.json always stay, and so does all that a live run or a fork of it refers to.

    Parameters
    ----------
    store
        Folder or URL of the store; ./fem-store by default.
    grace
        Keep what is not older than this, such as 7d or 12h: it may belong to a run that is working now.
    yes
        Remove it; without this nothing is touched.
    """
    import time

    from botocore.exceptions import BotoCoreError

    from fem_core.errors import FemError
    from fem_core.store import collect
    from fem_core.store.store import Store
    from flows.ending import safe, sentence

    if grace < timedelta(0):
        raise FemError(f"The grace period is negative ({grace.total_seconds():g} s). Give a length such as 7d or 12h.")
    opened = Store.open(store or DEFAULT_STORE, check=False)
    rules = collect.Rules(time.time(), grace.total_seconds(), SERVES)
    removed: list[Doomed] = []
    try:
        plan = collect.plan(collect.look(opened), rules)
        for line in [*_lines(plan.doomed), *(f"Note: {note}" for note in plan.notes)]:
            print(safe(line))
        if not yes:
            way = " Nothing was removed; remove it with --yes." if plan.doomed else ""
            print(f"{_sum(plan.doomed)} may go from {safe(opened.url)}.{way}")
            return
        try:
            for batch in collect.sweep(opened, plan, rules):
                removed += batch
        finally:
            print(f"{_sum(removed)} removed from {safe(opened.url)}.")
    except (OSError, BotoCoreError) as error:
        raise FemError(
            f"The store {opened.url} could not be collected to the end: {sentence(error)}. "
            "Check your rights and the server, then type the same command again."
        ) from error


def _lines(doomed: "Sequence[Doomed]") -> list[str]:
    """One line for the files of a folder that go for one reason."""
    groups: dict[tuple[str, str], list[Doomed]] = {}
    for one in doomed:
        groups.setdefault((one.path.rpartition("/")[0], one.why), []).append(one)
    return [
        f"{group[0].path if len(group) == 1 else folder + '/'}  {_sum(group)}: {why}"
        for (folder, why), group in groups.items()
    ]


def _sum(doomed: "Sequence[Doomed]") -> str:
    from rich.filesize import decimal

    return f"{len(doomed)} file{'' if len(doomed) == 1 else 's'}, {decimal(sum(one.bytes for one in doomed))}"
