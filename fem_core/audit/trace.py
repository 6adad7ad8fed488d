"""Which problems and attempts, drawn by which model, hinted or not, trained a checkpoint.

Contract: answers for every iteration that the checkpoint stands on, along its ``start`` inputs back to the base model
(with ``train.init: base`` that is the last alone), one row per training row. Whatever does not have the digest that the
checkpoint's own record asks for is refused, so an answer is never about other data. Rows are made in batches; of an
iteration only three narrow columns per attempt and the shortened questions are held.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fem_core.audit.render import printable
from fem_core.errors import Corrupt, FemError
from fem_core.sample.given import given_by
from fem_core.store.manifest import InputRef, Manifest
from fem_core.store.store import Store

COLUMNS = (
    "iteration",
    "problem_id",
    "attempt",
    "prompt_kind",
    "drawn_by",
    "drawn_by_digest",
    "seed",
    "question",
)
"""Of a row, in this order."""

QUESTION = 80
"""Characters of a question that a row shows."""

_BATCH = 1000


@dataclass(frozen=True)
class Trained:
    """One iteration that a checkpoint stands on."""

    iteration: int
    checkpoint: Manifest
    rationales: Manifest
    problems: Manifest
    attempts: Manifest
    drawn_by: InputRef | None
    """The weights that drew the attempts; None where the completions were given."""


@dataclass
class Counts:
    """What an iteration was trained on, counted while its rows go by."""

    iteration: int
    checkpoint: str
    drawn_by: str
    """Artifact of the weights; empty, as its digest is, where the completions were given."""
    drawn_by_digest: str
    rows: int = 0
    problems: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """Rows by prompt kind."""


def iterations(store: Store, checkpoint: Manifest) -> list[Trained]:
    """The iterations that a checkpoint stands on, the first one first; none for the base model.

    Raises:
        FemError: the artifact is no checkpoint.
        Corrupt: something on the way is missing or has another digest than was recorded.
    """
    if checkpoint.kind not in ("checkpoint", "model"):
        raise FemError(
            f"{checkpoint.artifact} is {checkpoint.kind}, and only a checkpoint was trained. "
            "Name one, such as demo@3 for that of iteration 3."
        )
    found: list[Trained] = []
    while checkpoint.kind == "checkpoint":
        if any(one.checkpoint.artifact == checkpoint.artifact for one in found):
            raise Corrupt(f"{checkpoint.artifact} is recorded as made from itself. Run `fem audit` to see what holds.")
        rationales = _input(store, checkpoint, "rationales")
        attempts = _input(store, rationales, "attempts")
        found.append(
            Trained(
                iteration=int(checkpoint.step.config["iteration"]),
                checkpoint=checkpoint,
                rationales=rationales,
                problems=_input(store, rationales, "problems"),
                attempts=attempts,
                drawn_by=None if given_by(attempts.step.config) else _reference(attempts, "checkpoint"),
            )
        )
        checkpoint = _input(store, checkpoint, "start")
    return found[::-1]


def rows(store: Store, trained: Trained, counts: Counts) -> Iterator[dict[str, Any]]:
    """One row per training row of an iteration, by problem and attempt, with ``COLUMNS``; ``counts`` counts them.

    Raises:
        Corrupt: a file does not hold, or a rationale has no attempt or problem.
    """
    drew, weights = _drew(trained)
    questions = {
        row["problem_id"]: short(row["question"])
        for table in store.iter_tables(trained.problems, ["problem_id", "question"])
        for row in table.to_pylist()
    }
    drawn = store.read_table(trained.attempts, ["problem_id", "attempt", "seed"])
    kept = store.read_table(trained.rationales, ["problem_id", "attempt", "prompt_kind"])
    joined = kept.join(drawn, ["problem_id", "attempt"], join_type="left outer")
    last = None
    for batch in joined.sort_by([("problem_id", "ascending"), ("attempt", "ascending")]).to_batches(_BATCH):
        for row in batch.to_pylist():
            if row["seed"] is None or row["problem_id"] not in questions:
                what = "problem" if row["problem_id"] not in questions else f"attempt {row['attempt']}"
                raise Corrupt(
                    f"{trained.rationales.artifact} has a rationale of problem {row['problem_id']}, whose {what} is not "
                    "in what it was made from. Run `fem audit` to see what else does not hold."
                )
            counts.rows += 1
            counts.problems += row["problem_id"] != last
            counts.kinds[row["prompt_kind"]] = counts.kinds.get(row["prompt_kind"], 0) + 1
            last = row["problem_id"]
            yield {
                "iteration": trained.iteration,
                "problem_id": row["problem_id"],
                "attempt": row["attempt"],
                "prompt_kind": row["prompt_kind"],
                "drawn_by": drew,
                "drawn_by_digest": weights,
                "seed": row["seed"],
                "question": questions[row["problem_id"]],
            }


def trace(store: Store, found: list[Trained], counts: list[Counts]) -> Iterator[dict[str, Any]]:
    """The rows of all iterations; ``counts`` gets an entry per iteration as its rows begin."""
    for trained in found:
        counts.append(Counts(trained.iteration, trained.checkpoint.artifact, *_drew(trained)))
        yield from rows(store, trained, counts[-1])


def _drew(trained: Trained) -> tuple[str, str]:
    """Artifact and digest of the weights that drew; nothing where none did."""
    return ("", "") if trained.drawn_by is None else (trained.drawn_by.artifact, trained.drawn_by.digest)


def short(question: str) -> str:
    """A question on one line, without control characters, of at most ``QUESTION`` characters."""
    line = printable(question)
    return line if len(line) <= QUESTION else f"{line[: QUESTION - 1]}…"


def _reference(manifest: Manifest, role: str) -> InputRef:
    for ref in manifest.inputs:
        if ref.role == role:
            return ref
    raise Corrupt(
        f"The manifest of {manifest.artifact} names no {role} among its inputs, so what trained the checkpoint cannot be "
        "told. Run `fem audit` to see what else does not hold."
    )


def _input(store: Store, manifest: Manifest, role: str) -> Manifest:
    ref = _reference(manifest, role)
    found = store.manifest(ref.artifact)
    if found is None or found.digest != ref.digest:
        state = "is not in the store" if found is None else f"is {found.digest[:12]} now"
        raise Corrupt(
            f"{manifest.artifact} was made from {ref.artifact} ({ref.digest[:12]}), which {state}. "
            "Bring that back; until then nobody can say what trained the checkpoint."
        )
    return found
