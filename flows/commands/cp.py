"""``fem cp``: a run to another store, verified on the way."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.commands.options import DEFAULT_STORE, StoreUrl
from flows.ending import sentence

if TYPE_CHECKING:
    from fem_core.store.copy import Copied, Plan

_AGAIN = "What has arrived stays; type the same command again to continue."


def cp(
    run: str,
    *,
    to: Annotated[str, Parameter(name="--to")],
    store: StoreUrl = None,
    with_parents: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Copy a run to another store, each file verified against its manifest here and there; type it again to continue.

    Parameters
    ----------
    run
        Name of the run; it keeps its name, as records lead to it.
    to
        Folder or URL of the store to copy to, such as s3://bucket/prefix.
    store
        Folder or URL of the store to copy from; ./fem-store by default.
    with_parents
        Copy the runs that this one refers to, too, and first: a fork's parents, the run that it began with (``init``),
        those whose annotations its filter read.
    """
    from botocore.exceptions import BotoCoreError
    from rich.console import Console

    from fem_core.errors import StoreAway
    from fem_core.model import default_cache
    from fem_core.store import copy
    from fem_core.store.lease import held
    from fem_core.store.store import Store
    from flows.terminal import follower

    source, target = Store.open(store or DEFAULT_STORE, check=False), Store.open(to)
    plans = copy.plans(source, target, run, with_parents=with_parents)
    try:
        with follower(Console()) as listener:
            for plan in plans:
                step = f"copy {plan.record.name}"

                def waiting(seconds: float, step: str = step) -> None:
                    listener.noted(step, f"waiting for a sign of who wrote it there last, {seconds:.0f} s at most")

                with held(target, plan.record.name, default_cache(), waiting) as still:
                    listener.began(step, plan.bytes, f"bytes in {len(plan.missing)} artifacts to {target.url}")
                    done = 0

                    def hear(
                        more: int,
                        file: str,
                        plan: copy.Plan = plan,
                        step: str = step,
                        still: Callable[[], None] = still,
                    ) -> None:
                        nonlocal done
                        still()
                        done += more
                        listener.moved(step, done, plan.bytes, file)

                    copied = copy.copy(source, target, plan, hear)
                listener.ended(step, _told(plan, copied))
            for line in _left_out(plans):
                listener.ended("copy", line)
    except (OSError, BotoCoreError, StoreAway) as error:
        print(f"The copy stopped: {sentence(error)}\n{_AGAIN}", file=sys.stderr)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        print(f"Stopped. {_AGAIN}", file=sys.stderr)
        raise SystemExit(130) from None


def _told(plan: "Plan", copied: "Copied") -> str:
    from rich.filesize import decimal

    note = f"{len(plan.missing)} artifacts copied, {copied.sent} files with {decimal(copied.bytes)} sent and verified"
    if copied.found:
        note += f", {copied.found} files found whole from an earlier try"
    return note + (f", {len(plan.present)} artifacts were there already" if plan.present else "")


def _left_out(plans: "list[Plan]") -> list[str]:
    """What a reader might think was copied and was not."""
    places = sorted({str(manifest.location) for plan in plans for manifest in plan.outside})
    lines = [f"the base model's files at {place} lie outside of the store: their record was copied" for place in places]
    references = sum(len(plan.references) for plan in plans)
    if references:
        lines.append(f"{references} artifacts are references to what other runs hold, and were copied as such")
    return lines
