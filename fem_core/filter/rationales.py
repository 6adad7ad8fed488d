"""Attempts to verdicts to rationales: the accepted set in the form that TRL takes as it is.

Contract: deterministic in (problems, attempts, configuration); every attempt gets exactly one verdict row, and every
``accepted`` verdict row exactly one rationale. The prompt of a rationale is the plain training prompt, whatever
prompt drew the attempt. Rows become Python objects a batch at a time; what is held of an iteration is Arrow's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fem_core.config import FilterConfig, PromptsConfig
from fem_core.filter.verdict import ACCEPTED, OVER_CAP, TOO_SHORT, TRUNCATED, UNPARSABLE, VERIFIER_TIMEOUT
from fem_core.problems.answers import answer_text, parse_answer
from fem_core.problems.problem import Problem
from fem_core.prompts import completion, messages
from fem_core.schemas import ATTEMPTS, RATIONALES, VERDICTS

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
    problems: Iterable[Problem], attempts: Iterable[pa.Table], config: FilterConfig, prompts: PromptsConfig
) -> Filtered:
    """Apply the filters to the attempts of one iteration.

    Args:
        attempts: tables with ``schemas.ATTEMPTS``, in any order of parts.

    Returns:
        Tables with ``schemas.VERDICTS`` and ``schemas.RATIONALES``; stats with ``problems`` (N), ``attempts``,
        ``accepted`` (rationales), ``problems_accepted``, ``utilization`` = problems_accepted / N,
        ``mean_rationale_tokens`` and the count of each verdict.
    """
    by_id = {problem.problem_id: problem for problem in problems}
    # Without the schema's metadata: each part names its own step key there.
    drawn = pa.concat_tables(
        [ATTEMPTS.empty_table(), *(table.select(ATTEMPTS.names).cast(ATTEMPTS) for table in attempts)]
    )
    drawn = drawn.sort_by([("problem_id", "ascending"), ("attempt", "ascending")])
    kept: Counter[str] = Counter()
    verdicts: list[pa.Table] = [VERDICTS.empty_table()]
    rationales: list[pa.Table] = [RATIONALES.empty_table()]
    for batch in drawn.to_batches(_BATCH):
        decided: list[dict[str, Any]] = []
        accepted: list[dict[str, Any]] = []
        for row in batch.to_pylist():
            problem = by_id[row["problem_id"]]
            verdict, reason, text = _decide(row, problem, config, kept)
            decided.append(
                {**{k: row[k] for k in ("problem_id", "attempt", "prompt_kind")}, "verdict": verdict, "reason": reason}
            )
            if verdict == ACCEPTED:
                kept[problem.problem_id] += 1
                accepted.append(
                    {
                        "prompt": messages(prompts, problem, "plain", prompts.train_exemplars),
                        "completion": completion(text),
                        **{k: row[k] for k in ("problem_id", "attempt", "prompt_kind", "completion_tokens")},
                    }
                )
        verdicts.append(pa.Table.from_pylist(decided, schema=VERDICTS))
        rationales.append(pa.Table.from_pylist(accepted, schema=RATIONALES))
    # One chunk each: the bytes of a part file must not depend on how many rows were decided on at a time.
    all_verdicts, all_rationales = (pa.concat_tables(some).combine_chunks() for some in (verdicts, rationales))
    count, tokens = all_rationales.num_rows, pc.sum(all_rationales["completion_tokens"]).as_py() or 0
    stats = {
        "problems": len(by_id),
        "attempts": drawn.num_rows,
        "accepted": count,
        "problems_accepted": len(kept),
        "utilization": len(kept) / len(by_id) if by_id else 0.0,
        "mean_rationale_tokens": tokens / count if count else 0.0,
        "verdicts": dict(sorted(Counter(all_verdicts["verdict"].to_pylist()).items())),
    }
    return Filtered(all_verdicts, all_rationales, stats)


def _decide(
    row: Mapping[str, Any], problem: Problem, config: FilterConfig, kept: Mapping[str, int]
) -> tuple[str, str, str]:
    """Verdict, reason, and the training text of an accepted attempt."""
    if row["verdict"] != ACCEPTED:
        return row["verdict"], _reason(row, problem), ""
    parsed = parse_answer(row["text"], problem)
    if parsed is None:
        raise ValueError(f"attempt {row['attempt']} of problem {problem.problem_id} is accepted but has no answer line")
    words = len(row["text"][: parsed.start].split())
    if words < config.min_rationale_words:
        return TOO_SHORT, f"{words} words before the answer line, at least {config.min_rationale_words} wanted", ""
    if config.max_per_problem is not None and kept[problem.problem_id] >= config.max_per_problem:
        return OVER_CAP, f"the problem already has {config.max_per_problem} rationales", ""
    return ACCEPTED, f"answered {parsed.answer!r}", row["text"][: parsed.end].strip()


def _reason(row: Mapping[str, Any], problem: Problem) -> str:
    if row["verdict"] == UNPARSABLE:
        return "no answer line that can be parsed"
    if row["verdict"] == TRUNCATED:
        return f"cut after {row['completion_tokens']} tokens, before the answer line was complete"
    if row["verdict"] == VERIFIER_TIMEOUT:
        return f"the verifier did not decide on {row['answer']!r} in time"
    return f"answered {row['answer']!r}, wanted {answer_text(problem)!r}"
