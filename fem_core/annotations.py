"""What people say of attempts: good, bad or leaked, with a comment; and how a later run takes their word for it.

Contract: annotations are append-only. Each batch is an artifact of its own, ``runs/<run>/annotations/<version>``, with the
version before it and the attempts it speaks of as inputs, so that the digest of a version stands for all that was said up
to it. Of two people who write at once, one gets the next version and the other the one after; nobody's word is lost. What
was said last of an attempt counts. An attempt is known by its text, so that a fork, or a later draw of the same, has it
too.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa

from fem_core.digest import digest, step_key
from fem_core.errors import Corrupt, FemError, StoreConflict
from fem_core.schemas import ANNOTATIONS, SCHEMA_VERSION
from fem_core.store import layout, provenance, tables
from fem_core.store.deletion import refuse_deleted
from fem_core.store.manifest import FileRecord, InputRef, Manifest, StepRecord, artifact_digest
from fem_core.store.store import Store

VERSION = 1
"""Of the step ``annotate``; raised when it would write something else."""

KIND = "annotations"
PREVIOUS = "previous"
"""Role of the version before."""

WITHDRAWN = "none"
REAL = ("good", "bad", "leaked")
VALUES = (*REAL, WITHDRAWN)
"""What can be said; ``none`` takes back what was said."""

REJECTED = ("bad", "leaked")
"""What keeps an attempt out of the rationales where ``filter.annotations`` asks."""

MOST_COMMENT = 4000
"""Characters."""

_TRIES = 200
_READERS = 16


@dataclass(frozen=True)
class Annotation:
    """One row of ``schemas.ANNOTATIONS``, which describes the fields."""

    iteration: int
    problem_id: str
    attempt: int
    text_sha256: str
    value: str
    comment: str
    author: str
    time: str


def text_digest(text: str) -> str:
    """By which an attempt is known again."""
    return hashlib.sha256(text.encode()).hexdigest()


def annotation(
    iteration: int, problem_id: str, attempt: int, text: str, value: str, comment: str, author: str
) -> Annotation:
    """What somebody says now.

    Args:
        text: the attempt's, as it was drawn.

    Raises:
        FemError: the value is none of ``VALUES``, there is no author, or something is too long or no text.
    """
    if value not in VALUES:
        raise FemError(f"An attempt cannot be annotated {value!r}. Choose one of {', '.join(VALUES)}.")
    comment, author = comment.strip(), author.strip()
    if not 1 <= len(author) <= 100 or not author.isprintable():
        raise FemError("An annotation needs an author of 1 to 100 printable characters. Say who you are.")
    if len(comment) > MOST_COMMENT:
        raise FemError(f"The comment has {len(comment)} characters. Give at most {MOST_COMMENT}.")
    try:
        (comment + author).encode()
    except UnicodeEncodeError as error:
        raise FemError("The comment holds half a character, which cannot be stored. Write it anew.") from error
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Annotation(iteration, problem_id, attempt, text_digest(text), value, comment, author, time)


def append(store: Store, run: str, batch: Sequence[Annotation]) -> Manifest:
    """Write a batch as the next version. Returns its manifest.

    Raises:
        FemError: there is no such run, it is marked deleted, or it has no attempts of an iteration that is spoken of.
    """
    store.existing_run(run)
    refuse_deleted(store, run)
    table = pa.Table.from_pylist([asdict(one) for one in batch], schema=ANNOTATIONS)
    for _ in range(_TRIES):
        head = latest(store, run)
        number = 1 if head is None else version_of(head) + 1
        made = _work(store, run, number, head, table)
        try:
            file = store.write_table(made.artifact, layout.part_name(0), table, made.step.key)
        except StoreConflict:
            continue  # somebody else has this version; ``latest`` finishes it where they did not
        return store.commit(_with(made, file))
    raise FemError(f"Others annotate {run!r} all the time, and this could not be written {_TRIES} times. Try again.")


def latest(store: Store, run: str) -> Manifest | None:
    """The last version; None where nobody has said anything. One whose writer died before its manifest is finished."""
    for number in reversed(versions(store, run)):
        artifact = layout.annotations(run, number)
        found = store.manifest(artifact)
        if found is not None:
            return found
        if store.root.size(f"{artifact}/{layout.part_name(0)}") is not None:
            return _finish(store, run, number, _before(store, run, number))
    return None  # on a local disk a folder may be there before its first file


def _before(store: Store, run: str, number: int) -> Manifest | None:
    """The version before; None for the first."""
    return store.manifest(layout.annotations(run, number - 1)) if number > 1 else None


def versions(store: Store, run: str) -> list[int]:
    """The numbers of the versions that are there, the last of them perhaps not finished."""
    names = store.root.children(f"{layout.run_dir(run)}/{layout.ANNOTATIONS}")
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def version_of(manifest: Manifest) -> int:
    """The number of a version."""
    return int(manifest.artifact.rpartition("/")[2])


def read(store: Store, manifest: Manifest, known: tuple[Manifest, list[Annotation]] | None = None) -> list[Annotation]:
    """All that was said up to a version, in order; verified, and each version against the one after it.

    Args:
        known: an earlier version, and what this gave for it: only what came after it is read.

    Raises:
        FemError: a version is missing, or not the one that the next one stands on.
    """
    run, last = layout.run_of(manifest.artifact), version_of(manifest)
    before, said = known or (None, [])
    first = 1 if before is None else version_of(before) + 1
    if before is not None and first > last:
        return said if before.digest == manifest.digest else read(store, manifest)
    with ThreadPoolExecutor(_READERS) as readers:
        places = [layout.annotations(run, number) for number in range(first, last)]
        chain = [*readers.map(store.manifest, places), manifest]
        for one, after in zip([before, *chain], chain, strict=False):
            stands_on = next((ref.digest for ref in after.inputs if ref.role == PREVIOUS), None) if after else ""
            if stands_on != (one and one.digest):
                raise Corrupt(
                    f"The annotations of {run!r} up to version {last} are not whole: one is missing, or not the one that "
                    "the next one was written after. Restore them from a backup."
                )
        parts = readers.map(lambda one: store.read_table(one).to_pylist(), [one for one in chain if one is not None])
        return [*said, *(Annotation(**row) for part in parts for row in part)]


def named(store: Store, name: str) -> Manifest:
    """The version that ``filter.annotations`` names, ``run@version``.

    Raises:
        FemError: there is none.
    """
    run, _, number = name.partition("@")
    store.existing_run(run)
    found = store.manifest(layout.annotations(run, int(number)))
    if found is None:
        there = versions(store, run)
        way = f"The last one is {run}@{there[-1]}" if there else "Nobody has annotated that run; do that in fem browse"
        raise FemError(f"There are no annotations {name} in {store.url}. {way}.")
    return found


def rejected(said: Iterable[Annotation]) -> Mapping[tuple[str, str], str]:
    """What keeps attempts out: the last word on each, by problem id and digest of the text."""
    last = {(one.problem_id, one.text_sha256): one.value for one in said}
    return {attempt: value for attempt, value in last.items() if value in REJECTED}


def _finish(store: Store, run: str, number: int, before: Manifest | None) -> Manifest:
    """Write the manifest that a version's writer did not write, or has not written yet: both write the same."""
    artifact = layout.annotations(run, number)
    try:
        table = tables.decode(store.root.read(f"{artifact}/{layout.part_name(0)}"))
        if not table.num_rows or not table.schema.equals(ANNOTATIONS):
            raise KeyError("another table")
        made = _work(store, run, number, before, table)
        file = store.parts(artifact, made.step.key)[layout.part_name(0)]
    except (OSError, KeyError, pa.ArrowException, StoreConflict) as error:
        raise Corrupt(
            f"{store.url}/{artifact} is no version of annotations that was begun here. Move that folder away."
        ) from error
    return store.commit(_with(made, file))


def _work(store: Store, run: str, number: int, before: Manifest | None, table: pa.Table) -> Manifest:
    """The manifest of a version, its file aside. Its step key follows from the rows and what they stand on."""
    inputs = [] if before is None else [InputRef(role=PREVIOUS, artifact=before.artifact, digest=before.digest)]
    for k in sorted(set(table["iteration"].to_pylist())):
        attempts = store.manifest(layout.iteration(run, k, "attempts"))
        if attempts is None:
            raise FemError(f"The run {run!r} has no attempts of iteration {k} to annotate. Look at what it has.")
        inputs.append(InputRef(role=f"attempts-{k:03d}", artifact=attempts.artifact, digest=attempts.digest))
    config = {"version": number, "rows": digest(table.to_pylist())}
    key = step_key("annotate", VERSION, config, {ref.role: ref.digest for ref in inputs})
    times = sorted(table["time"].to_pylist())
    return Manifest(
        schema_version=SCHEMA_VERSION,
        kind=KIND,
        artifact=layout.annotations(run, number),
        digest="",
        files=[],
        step=StepRecord(name="annotate", version=VERSION, key=key, config=config),
        inputs=inputs,
        stats={"annotations": table.num_rows},
        code=provenance.code(),
        packages=provenance.packages(),
        hardware=provenance.hardware(),
        started=times[0],
        finished=times[-1],
    )


def _with(made: Manifest, file: FileRecord) -> Manifest:
    return made.model_copy(update={"files": [file], "digest": artifact_digest(KIND, [file])})
