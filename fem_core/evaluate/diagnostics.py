"""EM diagnostics: what an iteration accepted and from whom, what it repeats, and what the model answers after it.

Contract: pure and deterministic; no engine is needed, all is in the tables of the steps. One long table
(``schemas.DIAGNOSTICS``): a value with what it is over, per iteration, measure and part. What cannot be said has no row:
labels where answers are no classes, lengths and log-probabilities where completions were given.

Difficulty of a problem is the number of earlier iterations that got no rationale for it.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from fem_core.problems.answers import classes, normal_text
from fem_core.problems.problem import Problem
from fem_core.sample.given import GIVEN
from fem_core.schemas import DIAGNOSTICS

Row = Mapping[str, Any]

QUANTILES = (10, 25, 50, 75, 90)
"""Of rationale lengths, per cent."""

ATTEMPT_COLUMNS = ("problem_id", "attempt", "prompt_kind", "completion_tokens", "logprob")
RATIONALE_COLUMNS = ("problem_id", "attempt", "prompt_kind", "completion_tokens", "completion")
PREDICTION_COLUMNS = ("problem_id", "attempt", "answer")
"""What is read of each table."""

_BATCH = 4096
"""Rows that are Python objects at a time."""


@dataclass(frozen=True)
class Past:
    """What the iterations before came to; empty before the first."""

    failed: Mapping[str, int] = field(default_factory=dict)
    """By problem id, earlier iterations without a rationale of it."""
    accepted: frozenset[str] = frozenset()
    """Problems with a rationale in the last iteration."""
    texts: frozenset[str] = frozenset()
    """Its rationales, as digests of problem and text."""


def of_iteration(
    k: int, problems: Sequence[Problem], attempts: Iterable[pa.Table], rationales: Iterable[pa.Table], past: Past
) -> tuple[list[Row], Past]:
    """The rows of one E-step, and the past of the next.

    Args:
        k: from 1.
        attempts, rationales: tables of ``schemas.ATTEMPTS`` and ``schemas.RATIONALES``, or the columns read of them.
    """
    kept, lengths, texts = set[tuple[str, int]](), [], set[str]()
    for row in _rows(rationales, RATIONALE_COLUMNS):
        kept.add((row["problem_id"], row["attempt"]))
        texts.add(_fingerprint(row))
        if row["prompt_kind"] != GIVEN:
            lengths.append(row["completion_tokens"])
    accepted = frozenset(problem_id for problem_id, _ in kept)
    rows = _acceptance(k, problems, accepted, past)
    if lengths:
        found = np.quantile(np.array(lengths), [q / 100 for q in QUANTILES])
        rows += [
            _row(k, "rationale_tokens", f"p{q}", value, len(lengths)) for q, value in zip(QUANTILES, found, strict=True)
        ]
    if k > 1 and accepted:
        rows.append(_row(k, "again_problems", "", len(accepted & past.accepted) / len(accepted), len(accepted)))
        rows.append(_row(k, "again_texts", "", len(texts & past.texts) / len(texts), len(texts)))
    rows += _logprobs(k, attempts, kept)
    failed = {p.problem_id: past.failed.get(p.problem_id, 0) + (p.problem_id not in accepted) for p in problems}
    return rows, Past(failed, accepted, frozenset(texts))


def of_predictions(k: int, test: Sequence[Problem], predictions: Iterable[pa.Table]) -> list[Row]:
    """The rows of one evaluation: how spread the answers are, beside the test labels where answers are classes.

    Args:
        k: from 0, the base model.
        predictions: tables with ``schemas.ATTEMPTS``, or the columns read of them. Sampled attempts, which come behind
            the greedy one, and answers that could not be parsed are in no figure.
    """
    kinds = {problem.problem_id: problem.answer_kind for problem in test}
    answers = Counter(
        _label(row["answer"], kinds.get(row["problem_id"], ""))
        for row in _rows(predictions, PREDICTION_COLUMNS)
        if row["answer"] is not None and row["attempt"] == 0
    )
    said = answers.total()
    rows = [_row(k, "answer_entropy", "", entropy(answers.values()), said)] if said else []
    if classes(test):
        gold = Counter(_label(problem.answer, problem.answer_kind) for problem in test)
        rows.append(_row(k, "label_entropy", "", entropy(gold.values()), len(test)))
        for label in sorted(gold.keys() | answers.keys()):
            rows.append(_row(k, "label_share", label, gold[label] / len(test), len(test)))
            rows += [_row(k, "answer_share", label, answers[label] / said, said)] if said else []
    return rows


def entropy(counts: Iterable[int]) -> float:
    """Shannon entropy of a distribution given by counts, nats; 0 of none."""
    some = [count for count in counts if count > 0]
    total = sum(some)
    return abs(math.fsum(-count / total * math.log(count / total) for count in some))


def as_table(rows: Iterable[Row]) -> pa.Table:
    """The rows with ``schemas.DIAGNOSTICS``, in the order given."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=DIAGNOSTICS)


def _acceptance(k: int, problems: Sequence[Problem], accepted: Collection[str], past: Past) -> list[Row]:
    def shares(measure: str, parts: Mapping[str, str]) -> list[Row]:
        size = Counter(parts.values())
        hits = Counter(part for problem_id, part in parts.items() if problem_id in accepted)
        return [_row(k, measure, part, hits[part] / size[part], size[part]) for part in sorted(size)]

    rows: list[Row] = []
    if classes(problems):
        rows += shares("acceptance_by_label", {p.problem_id: _label(p.answer, p.answer_kind) for p in problems})
    if k > 1:
        parts = {p.problem_id: f"failed {past.failed.get(p.problem_id, 0)} of {k - 1}" for p in problems}
        rows += shares("acceptance_by_difficulty", parts)
    return rows


def _logprobs(k: int, attempts: Iterable[pa.Table], kept: Collection[tuple[str, int]]) -> list[Row]:
    """Nats per token of accepted draws, and how spread out all draws are."""
    accepted: dict[str, tuple[float, int]] = {}
    everything: dict[str, tuple[float, int]] = {}
    for row in _rows(attempts, ATTEMPT_COLUMNS):
        if row["prompt_kind"] == GIVEN:
            continue
        for sums in (everything, accepted) if (row["problem_id"], row["attempt"]) in kept else (everything,):
            logprob, tokens = sums.get(row["prompt_kind"], (0.0, 0))
            sums[row["prompt_kind"]] = logprob + row["logprob"], tokens + row["completion_tokens"]
    return [
        _row(k, measure, kind, sign * logprob / tokens, tokens)
        for measure, sign, sums in (("logprob_per_token", 1, accepted), ("entropy_per_token", -1, everything))
        for kind, (logprob, tokens) in sorted(sums.items())
        if tokens
    ]


def _rows(tables: Iterable[pa.Table], columns: Sequence[str]) -> Iterator[Row]:
    for table in tables:
        for batch in table.select(columns).to_batches(_BATCH):
            yield from batch.to_pylist()


def _label(answer: str, kind: str) -> str:
    return answer.strip().upper() if kind == "choice" else normal_text(answer)


def _fingerprint(row: Row) -> str:
    text = "\n".join([row["problem_id"], *(message["content"] for message in row["completion"])])
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _row(k: int, measure: str, part: str, value: float, over: int) -> Row:
    return {"iteration": k, "measure": measure, "part": part, "value": float(value), "over": over}
