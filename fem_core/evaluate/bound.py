"""EM's bound after one iteration: how likely the model makes the right answers of a fixed probe set, from below.

Contract: pure and deterministic in the probes. For each of n probe problems, S completions were drawn with the hinted
prompt at temperature 1, wrong ones included; ``posterior.py`` has their weights w = pi(z, y | x) / q(z, y | x, y*), where
a draw whose answer is not y* weighs 0. The bound of a problem is

    log( pi(d | x) + 1/S sum w ),   d = the answer line alone, without a rationale,

with pi(d | x) computed and not drawn; draws that say d are left out of the sum. The bracket has the expectation
pi(y* | x) at most, so in expectation its logarithm is at most log pi(y* | x) (Jensen), and rises with S. It is finite for
every problem: where no draw is right it rests on d alone, which is usually far below, and these problems are counted.

Two iterations are compared on the problems that have a right draw in both, as d's probability says little of reasoning;
problems that came to have one, or lost it, are compared by their number (McNemar). Problems of one group (both orders of a
pair, the responses to one prompt) are no two samples: intervals and test take whole groups.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fem_core.digest import derive_seed
from fem_core.evaluate.paired import mcnemar, paired_bootstrap
from fem_core.evaluate.posterior import Floats, effective_sample_size, log_weights, lower_bound
from fem_core.filter.verdict import ACCEPTED
from fem_core.problems.answers import answer_text
from fem_core.problems.problem import Problem

VERSION = 2
"""Raised when the same probes would give other figures; 2 knows groups."""

LOST = 0.05
"""p-value below which problems that lost their right draws are more than chance: the level of the intervals."""

FEWEST = 20
"""Groups of problems from which the interval of their mean change is believed. Of normal noise alone, a percentile
bootstrap's lies below 0 with a chance of 50 % on one, 12 % on three, 4.5 % on 20 and 2.5 % on 64; 2.5 % is meant."""

COLUMNS = ("problem_id", "attempt", "text", "verdict", "finish_reason", "logprob", "plain_logprob", "direct_logprob")
"""What is read of the probes."""


@dataclass(frozen=True)
class Weighed:
    """The draws of one iteration as arrays, problems in the order of their ids."""

    problem_ids: tuple[str, ...]
    log_w: Floats
    """Of shape (n, S), nats; -inf where a draw is not right."""
    bounds: Floats
    """Of shape (n,), nats."""
    groups: tuple[str, ...] | None = None
    """Of each problem; None where all stand alone."""

    @property
    def right(self) -> Any:
        """How many draws are right, of shape (n,)."""
        return np.isfinite(self.log_w).sum(axis=1)


def direct_text(problem: Problem) -> str:
    """The completion that answers without a rationale, and then ends."""
    return f"Answer: {answer_text(problem)}"


def probe_ids(problems: Iterable[str], n: int, seed: int) -> tuple[str, ...]:
    """The probe set: n problems by id (all, where there are fewer), the same in every iteration of a run.

    Args:
        problems: ids of the training problems.
        seed: the run's.
    """
    chosen = sorted(problems, key=lambda problem_id: (derive_seed(seed, "probe", problem_id), problem_id))[:n]
    return tuple(sorted(chosen))


def draw_seed(seed: int) -> int:
    """From which the probes' draws have theirs: they are other draws than the E-step's for the same problems."""
    return derive_seed(seed, "bound")


def weighed(probes: Iterable[pa.Table], problems: Mapping[str, Problem], as_version: int = VERSION) -> Weighed:
    """The draws' weights and the problems' bounds.

    Args:
        probes: tables with ``schemas.PROBES``.
        problems: those that were drawn for, at least, by id.
        as_version: version 1 took every problem as standing alone.

    Raises:
        ValueError: there is no draw, the problems do not have as many draws each, or a density cannot be.
    """
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for table in probes:
        for row in table.select(list(COLUMNS)).to_pylist():
            by_problem.setdefault(row["problem_id"], []).append(row)
    sizes = {len(rows) for rows in by_problem.values()}
    if len(sizes) != 1:
        raise ValueError(f"the probe problems have {sorted(sizes)} draws; all must have as many")
    ids = tuple(sorted(by_problem))
    rows = [by_problem[problem_id] for problem_id in ids]
    right = _array(rows, lambda row: row["verdict"] == ACCEPTED, bool)
    plain = _array(rows, lambda row: np.nan if row["plain_logprob"] is None else row["plain_logprob"], float)
    hinted = _array(rows, lambda row: row["logprob"], float)
    said = _array(rows, lambda row: _is_direct(row, problems[row["problem_id"]]), bool)
    direct = np.array(
        [next(row["direct_logprob"] for row in drawn if row["attempt"] == 0) for drawn in rows], dtype=float
    )
    log_w = log_weights(plain, hinted, right)
    reasoned = lower_bound(np.where(said, -np.inf, log_w))
    groups = tuple(problems[problem_id].group for problem_id in ids) if as_version >= 2 else None
    return Weighed(ids, log_w, np.logaddexp(direct, reasoned), groups)


def bound(now: Weighed, before: Weighed | None = None) -> dict[str, Any]:
    """The figures of one iteration, as plain JSON values.

    Args:
        before: the probes of the iteration before, on the same problems.

    Returns:
        ``problems``, ``draws`` (n and S); ``bound``, the mean over problems, nats, with ``low`` and ``high`` (95 %
        percentile bootstrap over ``groups`` of problems); ``acceptance``, the share of draws that are right; ``without``,
        problems without a right draw; ``ess``, the mean effective sample size, 0 for these; ``gap``, the mean over the
        ``gap_problems`` with two right draws or more of the logarithm of the weights' arithmetic mean over their
        geometric mean: an estimate, from below, of KL(q || posterior) for q restricted to right answers, nats. With
        ``before``, ``change``: ``difference`` of the mean bound on the ``problems`` that have a right draw in both, with
        ``low`` and ``high`` (paired bootstrap over their ``groups``; None without such a problem), ``lost`` and ``gained``
        (problems with a right draw before alone, and now alone) and ``p`` (McNemar's exact test of the two, in which a
        group counts once, by the more of its problems).

    Raises:
        ValueError: the iterations are of other problems.
    """
    counts, draws = now.right, now.log_w.shape[1]
    low, high = paired_bootstrap(now.bounds.tolist(), now.groups)
    gaps = _gaps(now)
    found = {
        "problems": len(now.problem_ids),
        **_count(now.groups),
        "draws": draws,
        "bound": float(now.bounds.mean()),
        "low": low,
        "high": high,
        "acceptance": float(counts.sum() / now.log_w.size),
        "without": int((counts == 0).sum()),
        "ess": float(effective_sample_size(now.log_w).mean()),
        "gap": float(gaps.mean()) if gaps.size else None,
        "gap_problems": int(gaps.size),
    }
    return found if before is None else found | {"change": _change(now, before)}


def fell(found: Mapping[str, Any]) -> list[str]:
    """In which ways an iteration made the right answers less likely, beyond what chance explains; none where it did not.

    The mean bound on the problems that have a right draw in both iterations is lower, with its whole interval and on
    ``FEWEST`` groups at least; or more problems lost their right draws than came to have some, a test that is exact
    for any number.
    """
    change, said = found.get("change"), []
    if change and change["high"] is not None and change["high"] < 0 and _units(change) >= FEWEST:
        said.append(
            f"the bound fell by {-change['difference']:.3f} nats per problem ({-change['high']:.3f} to "
            f"{-change['low']:.3f}, on {change['problems']} problems)"
        )
    if change and change["lost"] > change["gained"] and change["p"] < LOST:
        said.append(f"{change['lost']} problems lost their right draws and {change['gained']} came to have some")
    return said


def _units(change: Mapping[str, Any]) -> int:
    """What the interval of a change is over: groups, or the problems of version 1."""
    return int(change.get("groups", change["problems"]))


def _change(now: Weighed, before: Weighed) -> dict[str, Any]:
    if now.problem_ids != before.problem_ids:
        raise ValueError("the probes of the iteration before are of other problems")
    here, there = now.right > 0, before.right > 0
    both = here & there
    differences = (now.bounds - before.bounds)[both].tolist()
    groups = None if now.groups is None else tuple(itertools.compress(now.groups, both))
    low, high = paired_bootstrap(differences, groups) if differences else (None, None)
    lost, gained = int((there & ~here).sum()), int((here & ~there).sum())
    return {
        "problems": len(differences),
        **_count(groups),
        "difference": float(np.mean(differences)) if differences else None,
        "low": low,
        "high": high,
        "lost": lost,
        "gained": gained,
        "p": mcnemar(*_lost_and_gained(here.astype(int) - there, now.groups)),
    }


def _count(groups: Sequence[str] | None) -> dict[str, int]:
    return {} if groups is None else {"groups": len(set(groups))}


def _lost_and_gained(change: Any, groups: Sequence[str] | None) -> tuple[int, int]:
    """In how many groups more problems lost their right draws than came to have some, and the other way round.

    Args:
        change: by problem, -1 where it lost them and 1 where it came to have some, of shape (n,).
    """
    sums: dict[Any, int] = {}
    for group, one in zip(range(len(change)) if groups is None else groups, change.tolist(), strict=True):
        sums[group] = sums.get(group, 0) + one
    return sum(one < 0 for one in sums.values()), sum(one > 0 for one in sums.values())


def _gaps(now: Weighed) -> Floats:
    """By problem with two right draws or more: log of the arithmetic over the geometric mean of their weights."""
    some = [row[np.isfinite(row)] for row in now.log_w]
    return np.array([lower_bound(row[None])[0] - row.mean() for row in some if len(row) > 1])


def _is_direct(row: Mapping[str, Any], problem: Problem) -> bool:
    return bool(row["finish_reason"] == "stop" and row["text"] == direct_text(problem))


def _array(rows: Sequence[Sequence[Mapping[str, Any]]], value: Any, kind: type) -> Any:
    return np.array([[value(row) for row in drawn] for drawn in rows], dtype=kind)
