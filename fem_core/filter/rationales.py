"""Attempts to verdicts to rationales: the accepted set in the form that TRL takes as it is.

Contract: deterministic in (problems, attempts, configuration); every attempt gets exactly one verdict row, and every
``accepted`` verdict row exactly one rationale. The prompt of a rationale is the plain training prompt, whatever
prompt drew the attempt. Rows become Python objects a batch at a time; what is held of an iteration is Arrow's.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fem_core.annotations import Annotation, rejected
from fem_core.config import FilterConfig, PromptsConfig
from fem_core.digest import derive_seed
from fem_core.filter.label_share import objections, rank
from fem_core.filter.sieve import Draft, Sieve
from fem_core.filter.verdict import ACCEPTED, OVER_LABEL_SHARE, OVER_SIZE, TRUNCATED, UNPARSABLE, VERIFIER_TIMEOUT
from fem_core.filter.weighting import Weighed, choose
from fem_core.problems.answers import answer_class, answer_text, parse_answer
from fem_core.problems.problem import Problem
from fem_core.prompts import completion, messages
from fem_core.sample.given import GIVEN
from fem_core.schemas import ATTEMPTS, LOOKED, RATIONALES, VERDICTS

VERSION = 1
"""Raised when the same attempts would give other rationales."""

_BATCH = 4096
"""Attempts that are Python objects at a time."""


@dataclass(frozen=True)
class Filtered:
    """What the filter step writes, and what it counted."""

    verdicts: pa.Table
    rationales: pa.Table
    stats: dict[str, Any]


def filter_attempts(
    problems: Iterable[Problem],
    attempts: Iterable[pa.Table],
    config: FilterConfig,
    prompts: PromptsConfig,
    annotations: Iterable[Annotation] = (),
) -> Filtered:
    """Apply the filters to the attempts of one iteration.

    Args:
        attempts: tables with ``schemas.ATTEMPTS``, or ``schemas.LOOKED`` where the filters need it, in any order of parts.
        annotations: what people said, in order, where ``config.annotations`` asks for it.

    Returns:
        Tables with ``schemas.VERDICTS`` and ``schemas.RATIONALES``; stats with ``problems`` (N), ``attempts``,
        ``accepted`` (rationales), ``problems_accepted``, ``utilization`` = problems_accepted / N,
        ``mean_rationale_tokens`` and the count of each verdict; with weights ``effective_sample_size``, the mean over the
        problems that have a draw to choose, and ``weighed_draws``, how many draws they have in the mean; where leaks are
        not rejected, ``marked_leaks`` or ``kept_leaks``, how many passed all filters but those that count what is kept.

    Raises:
        ValueError: a draw has no column that the filters need, or its log-probabilities are none.
    """
    by_id = {problem.problem_id: problem for problem in problems}
    # Without the schema's metadata: each part names its own step key there.
    drawn = pa.concat_tables([LOOKED.empty_table(), *(_looked(table) for table in attempts)])
    drawn = drawn.sort_by([("problem_id", "ascending"), ("attempt", "ascending")])
    sieve = Sieve(config, prompts, _right(drawn), lambda number: _name(drawn, number), rejected(annotations))
    choices = choose(_weighed(drawn, by_id, sieve)) if config.weighting == "importance" else None
    if choices is not None:
        sieve.weigh(choices)
    order: list[int] = []  # of the accepted draws, row by row: who goes first where only so many may stay
    verdicts: list[pa.Table] = [VERDICTS.empty_table()]
    rationales: list[pa.Table] = [RATIONALES.empty_table()]
    number = 0
    for batch in drawn.to_batches(_BATCH):
        decided: list[dict[str, Any]] = []
        accepted: list[dict[str, Any]] = []
        for row in batch.to_pylist():
            problem = by_id[row["problem_id"]]
            draft = _draft(number, row, problem) if row["verdict"] == ACCEPTED else None
            number += 1
            verdict, reason = (row["verdict"], _reason(row, problem)) if draft is None else sieve.decide(draft)
            decided.append(
                {**{k: row[k] for k in ("problem_id", "attempt", "prompt_kind")}, "verdict": verdict, "reason": reason}
            )
            if draft is not None and verdict == ACCEPTED:
                own = row["problem_id"] if row["prompt_kind"] == GIVEN else row["seed"]  # given rows all have seed 0
                order.append(derive_seed("max_rationales", own))
                accepted.append(
                    {
                        "prompt": messages(prompts, problem, "plain", prompts.train_exemplars),
                        "completion": completion(draft.text),
                        **{k: row[k] for k in ("problem_id", "attempt", "prompt_kind", "completion_tokens")},
                    }
                )
        verdicts.append(pa.Table.from_pylist(decided, schema=VERDICTS))
        rationales.append(pa.Table.from_pylist(accepted, schema=RATIONALES))
    # One chunk each: the bytes of a part file must not depend on how many rows were decided on at a time.
    all_verdicts, all_rationales = (pa.concat_tables(some).combine_chunks() for some in (verdicts, rationales))
    if config.label_balance is not None:
        found = objections(_ranked(all_rationales, by_id), config.label_balance)
        all_verdicts, all_rationales = _without(all_verdicts, all_rationales, found, OVER_LABEL_SHARE)
        order = [place for place, objection in zip(order, found, strict=True) if objection is None]
    if config.max_rationales is not None:
        found = _too_many(order, config.max_rationales)
        all_verdicts, all_rationales = _without(all_verdicts, all_rationales, found, OVER_SIZE)
    count, tokens = all_rationales.num_rows, pc.sum(all_rationales["completion_tokens"]).as_py() or 0
    covered = pc.count_distinct(all_rationales["problem_id"]).as_py()
    stats: dict[str, Any] = {
        "problems": len(by_id),
        "attempts": drawn.num_rows,
        "accepted": count,
        "problems_accepted": covered,
        "utilization": covered / len(by_id) if by_id else 0.0,
        "mean_rationale_tokens": tokens / count if count else 0.0,
        "verdicts": dict(sorted(Counter(all_verdicts["verdict"].to_pylist()).items())),
    }
    if choices is not None:
        stats["effective_sample_size"] = _mean([choice.effective for choice in choices.values()])
        stats["weighed_draws"] = _mean([len(choice.shares) for choice in choices.values()])
    if config.leak != "reject":
        stats["marked_leaks" if config.leak == "mark" else "kept_leaks"] = sieve.leaks
    return Filtered(all_verdicts, all_rationales, stats)


def _looked(table: pa.Table) -> pa.Table:
    """Attempts with ``schemas.LOOKED``: null where no look was asked for. Old parts and given ones have no such columns."""
    for column in LOOKED:
        if column.name not in table.column_names and column.name not in ATTEMPTS.names:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    return table.select(LOOKED.names).cast(LOOKED)


def _weighed(drawn: pa.Table, problems: Mapping[str, Problem], sieve: Sieve) -> Iterator[Weighed]:
    """The draws that importance weights choose among."""
    number = 0
    for batch in drawn.to_batches(_BATCH):
        for row in batch.to_pylist():
            right = row["verdict"] == ACCEPTED
            if right and sieve.admits(_draft(number, row, problems[row["problem_id"]])):
                if row["plain_logprob"] is None:
                    raise ValueError(f"{_name(drawn, number)} is accepted, but has no plain_logprob")
                yield Weighed(
                    row["problem_id"], row["attempt"], row["seed"], log_pi=row["plain_logprob"], log_q=row["logprob"]
                )
            number += 1


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _right(drawn: pa.Table) -> Iterator[str]:
    """The texts of the attempts whose answer is right."""
    for batch in drawn.filter(pc.equal(drawn["verdict"], ACCEPTED)).select(["text"]).to_batches(_BATCH):
        yield from batch.column("text").to_pylist()


def _name(drawn: pa.Table, number: int) -> str:
    return f"attempt {drawn['attempt'][number].as_py()} of problem {drawn['problem_id'][number].as_py()}"


def _draft(number: int, row: Mapping[str, Any], problem: Problem) -> Draft:
    parsed = parse_answer(row["text"], problem)
    if parsed is None:
        raise ValueError(f"attempt {row['attempt']} of problem {problem.problem_id} is accepted but has no answer line")
    return Draft(
        number,
        problem,
        row["prompt_kind"],
        row["text"][: parsed.start],
        row["text"][: parsed.end].strip(),
        row["text"],
        parsed.answer,
        row["attempt"],
        row["blind_verdict"],
        row["blind_answer"],
    )


def _ranked(rationales: pa.Table, problems: Mapping[str, Problem]) -> Iterator[tuple[str, int]]:
    """Answer and place of each rationale, for ``label_share``."""
    for batch in rationales.select(["problem_id", "attempt", "completion"]).to_batches(_BATCH):
        for row in batch.to_pylist():
            problem, text = problems[row["problem_id"]], row["completion"][0]["content"]
            yield (
                answer_class(answer_text(problem), problem.answer_kind),
                rank(row["problem_id"], row["attempt"], text),
            )


def _too_many(order: list[int], most: int) -> list[str | None]:
    """An objection to each accepted draw that is not among the first ``most`` by ``order``."""
    first = set(sorted(range(len(order)), key=order.__getitem__)[:most])
    reason = f"the iteration has {most} other rationales, and may have no more"
    return [None if i in first else reason for i in range(len(order))]


def _without(
    verdicts: pa.Table, rationales: pa.Table, found: list[str | None], verdict: str
) -> tuple[pa.Table, pa.Table]:
    """Both tables after a filter that saw all rationales at once. Rows of verdicts stay in their places.

    Args:
        found: its objection to each rationale; row by row, the rationales are those of the accepted verdicts.
    """
    stays = pa.array([objection is None for objection in found], pa.bool_())
    accepted = pc.equal(verdicts["verdict"], ACCEPTED).combine_chunks()
    reasons = verdicts["reason"].filter(accepted).combine_chunks()
    decided = {
        "verdict": pc.if_else(stays, ACCEPTED, verdict),
        "reason": pc.coalesce(pa.array(found, pa.string()), reasons),
    }
    for name, values in decided.items():
        column = pc.replace_with_mask(verdicts[name].combine_chunks(), accepted, values)
        verdicts = verdicts.set_column(VERDICTS.get_field_index(name), VERDICTS.field(name), column)
    return verdicts.combine_chunks(), rationales.filter(stays).combine_chunks()


def _reason(row: Mapping[str, Any], problem: Problem) -> str:
    if row["verdict"] == UNPARSABLE:
        return "no answer line that can be parsed"
    if row["verdict"] == TRUNCATED:
        return f"cut after {row['completion_tokens']} tokens, before the answer line was complete"
    if row["verdict"] == VERIFIER_TIMEOUT:
        return f"the verifier did not decide on {row['answer']!r} in time"
    return f"answered {row['answer']!r}, wanted {answer_text(problem)!r}"
