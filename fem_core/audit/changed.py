"""Which runs an audit has to look at again: those whose objects are others than when they last held.

Contract: a run's mark is made from the path, size and time of change of every object of it but its lease, without reading
one. It is kept in ``audits/<run>.json`` after an audit that held, so a run that does not hold is looked at every time. A
file that rots on the disk changes neither size nor time: only an audit of everything finds it.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from fem_core.digest import digest
from fem_core.store import layout
from fem_core.store.store import Store


def mark(store: Store, run: str) -> str:
    """What tells the run's present content from another, 64 hex digits."""
    objects = store.root.objects(layout.run_dir(run))
    lease = f"{layout.lease(run).rpartition('/')[2]}/"
    kept = sorted((path, one) for path, one in objects.items() if not path.startswith(lease))
    return digest([[path, one.bytes, repr(one.modified)] for path, one in kept])


@dataclass(frozen=True)
class Held:
    """What is kept of the last audit after which a run held."""

    mark: str
    """The run's, at the time."""
    deep: bool
    """Whether deterministic steps were derived again."""
    when: str
    """ISO 8601, UTC."""


def recall(store: Store, run: str) -> Held | None:
    """What is kept of a run; None where nothing is, or it cannot be made out."""
    try:
        kept = json.loads(store.root.read(layout.audited(run)))
        return Held(str(kept["mark"]), bool(kept["deep"]), str(kept.get("when", "")))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def held_before(store: Store, run: str, now: str, *, deep: bool) -> bool:
    """Whether an audit as deep as this one has found that the run with this mark holds."""
    kept = recall(store, run)
    return kept is not None and kept.mark == now and (kept.deep or not deep)


def remember(store: Store, run: str, now: str, *, deep: bool) -> None:
    """Keep that the run with this mark held."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    store.root.replace(layout.audited(run), json.dumps({"mark": now, "deep": deep, "when": when}).encode())
