"""Marking a run as deleted, and taking the mark away again.

Contract: nothing is removed here. The mark is an object beside run.json, and ``fem gc`` removes the run's data some days
later; run.json and all manifests stay, so that lineage and audits still answer. Taking the mark away and removing data
at the same time cannot both succeed: gc first leaves a note beside the manifest and then looks for the mark, while
``unmark`` first takes the mark and then looks for notes.
"""

import json
from datetime import UTC, datetime
from typing import Any

from fem_core.errors import FemError
from fem_core.store import layout
from fem_core.store.reading import holder
from fem_core.store.store import Store

DELETED = "its run is marked deleted"
"""What gc's note says where a mark is why the files are gone."""


def deleted_at(store: Store, run: str) -> str | None:
    """When a run was marked deleted (ISO 8601, UTC); None for a run that is not."""
    values = _values(store, layout.deleted_json(run))
    return None if values is None else str(values.get("deleted", "unknown"))


def refuse_deleted(store: Store, run: str) -> None:
    """What is marked deleted is not worked on.

    Raises:
        FemError: the run is marked.
    """
    since = deleted_at(store, run)
    if since is not None:
        raise FemError(
            f"The run {run!r} is marked deleted since {since}. Bring it back with fem delete {run} --undo, or use another "
            "--run name."
        )


def collected(store: Store, artifact: str) -> dict[str, Any] | None:
    """When and why gc removed an artifact's files (``collected``, ``why``); None where it did not."""
    return _values(store, f"{artifact}/{layout.COLLECTED}")


def forks(store: Store, run: str) -> list[str]:
    """Runs that are not marked deleted and refer to a run, by name: as their parent, or to one of its artifacts."""
    found = []
    for record in store.runs():
        if record.parent is not None and record.name != run and deleted_at(store, record.name) is None:
            sources = (manifest.source or "" for manifest in store.artifacts(record.name))
            if record.parent.get("run") == run or any(
                source.startswith(f"{layout.run_dir(run)}/") for source in sources
            ):
                found.append(record.name)
    return found


def mark(store: Store, run: str) -> str:
    """Mark a run as deleted. Returns when it was: the first mark counts.

    Raises:
        FemError: there is no such run, or forks refer to it.
    """
    store.existing_run(run)
    referring = forks(store, run)
    if referring:
        one = len(referring) == 1
        raise FemError(
            f"The run {run!r} cannot be deleted, as {', '.join(map(repr, referring))} "
            f"{'is a fork' if one else 'are forks'} of it and {'refers' if one else 'refer'} to its files. "
            f"Delete {'that one' if one else 'those'} first: fem delete {referring[0]}."
        )
    _mark(store, run, datetime.now(UTC).isoformat(timespec="seconds"))
    return deleted_at(store, run) or "unknown"


def unmark(store: Store, run: str) -> None:
    """Take the mark away: the run is as it was.

    Raises:
        FemError: there is no such run, it is not marked, or gc has begun to remove what it needs.
    """
    store.existing_run(run)
    since = deleted_at(store, run)
    if since is None:
        raise FemError(f"The run {run!r} is not marked deleted, so there is nothing to undo. See all with: fem ls.")
    needed = sorted({holder(manifest) for manifest in store.artifacts(run)})
    store.root.remove(layout.deleted_json(run))
    for artifact in needed:
        note = collected(store, artifact)
        if note is not None and note.get("why") == DELETED:
            _mark(store, run, since)
            raise FemError(
                f"The run {run!r} cannot come back, as gc removed the files of {artifact} ({note.get('collected')}). "
                "Its records stay; make it again under another name."
            )


def _mark(store: Store, run: str, time: str) -> None:
    store.root.create(layout.deleted_json(run), (json.dumps({"deleted": time}) + "\n").encode())


def _values(store: Store, path: str) -> dict[str, Any] | None:
    """The object in a JSON file, empty where it cannot be read as one; None where there is no file."""
    try:
        values = json.loads(store.root.read(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
