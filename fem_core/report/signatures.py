"""Failure signatures: ways in which EM goes wrong that a run's own figures show, each explained in words.

Contract: pure over a summary (``summary.py``) and the rows of how the model's answers spread
(``evaluate/diagnostics.py``). Each signature fires at most once per run and names all iterations in which it holds, with
the figures of the last. A signature is a reason to look, not a verdict: thresholds are round numbers, with the reason
beside each. Texts may hold labels, which are data: escape them where they are shown.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fem_core.evaluate.bound import fell
from fem_core.evaluate.diagnostics import Row
from fem_core.evaluate.score import wilson
from fem_core.filter.verdict import (
    ACCEPTED,
    ANNOTATED,
    LEAKED,
    OVER_LABEL_SHARE,
    OVER_SIZE,
    TOO_LONG,
    TOO_SHORT,
    TRUNCATED,
    UNPARSABLE,
    VERIFIER_TIMEOUT,
    WRONG_ANSWER,
)
from fem_core.report import summary as runs
from fem_core.report.text import md

NEAR_ZERO = 0.05
"""Utilization: below one problem in twenty, an epoch on 200 problems is less than one batch of 16."""

HALF = 0.5
"""Of an entropy or a length. Half the entropy of the labels is that of the square root of their number: of four equally
common labels two are left, of two a split of 89 to 11."""

OFTEN = 0.2
"""Of draws or predictions: when each fifth is lost for its form, acceptance and accuracy measure the form as well."""

_BEFORE_LEAKS = (WRONG_ANSWER, UNPARSABLE, TRUNCATED, VERIFIER_TIMEOUT, ANNOTATED, TOO_SHORT, TOO_LONG)
"""Verdicts on attempts that the leak filter does not get to see."""


@dataclass(frozen=True)
class Signature:
    """One way to go wrong that a run shows."""

    name: str
    iterations: tuple[int, ...]
    """In which it holds."""
    meaning: str
    """One sentence: the figures of the last of them, and what they mean."""
    advice: str
    """One sentence: what to try, in fields of the configuration."""

    @property
    def sentence(self) -> str:
        """All of it on one line, unescaped."""
        where = ", ".join(map(str, self.iterations))
        return f"{self.name} (iteration{'s' if len(self.iterations) > 1 else ''} {where}): {self.meaning} {self.advice}"


Facts = Mapping[int, str]
"""By iteration, the figures that make a signature hold."""


@dataclass(frozen=True)
class _Kind:
    name: str
    find: Callable[[runs.Summary, list[Row]], Facts]
    means: str
    advice: str


def signatures(summary: runs.Summary, answers: Iterable[Row] = ()) -> list[Signature]:
    """The signatures that a run shows, in the order of docs/method.md.

    Args:
        answers: rows of ``diagnostics.of_predictions`` of all iterations; without them labels are not looked at.
    """
    rows, found = list(answers), []
    for kind in _KINDS:
        facts = kind.find(summary, rows)
        if facts:
            meaning = f"{facts[max(facts)]}: {kind.means}."
            found.append(Signature(kind.name, tuple(sorted(facts)), meaning, f"{kind.advice}."))
    return found


def below_rs(pps: runs.Summary, rs: runs.Summary) -> Signature | None:
    """Whether hinted draws did worse than plain ones, at the last iteration that both runs have scored.

    Args:
        pps, rs: runs of the schemes ``pps`` and ``rs`` on the same problems and base model.

    Raises:
        ValueError: they are of other schemes.
    """
    names = [str(one.record.config["scheme"]["name"]) for one in (pps, rs)]
    if names != ["pps", "rs"]:
        raise ValueError(f"runs of the schemes {names[0]} and {names[1]} are not pps and rs")
    hinted, plain = (_scores(one) for one in (pps, rs))
    both = sorted(k for k in hinted.keys() & plain.keys() if k)
    if not both or hinted[both[-1]]["high"] >= plain[both[-1]]["low"]:
        return None
    k = both[-1]
    return hints_hurt((k,), f"PPS scores {_interval(hinted[k])} and RS {_interval(plain[k])}")


def hints_hurt(iterations: tuple[int, ...], figures: str) -> Signature:
    """The signature *PPS below RS*.

    Args:
        figures: what shows it, in words.
    """
    return Signature(
        "PPS below RS",
        iterations,
        f"{figures}: rationales drawn with the answer in sight are not those that lead to it, so the hint bought rows and "
        "not skill.",
        "Read some with fem trace and the rationales' files, word prompts.hinted so that it asks for a derivation, show "
        "worked examples (prompts.sample_exemplars), or use scheme.name star, which hints only where plain draws fail.",
    )


def lines(found: Iterable[Signature]) -> list[str]:
    """A list for Markdown, escaped; empty without signatures."""
    return [f"- {md(one.sentence)}" for one in found]


def _near_zero(summary: runs.Summary, _: list[Row]) -> Facts:
    """Not where ``filter.max_rationales`` left rationales out: that so few train is what was asked for."""
    return {
        row.iteration: f"utilization is {row.filtered['utilization']:.3f} of {row.filtered['problems']} problems"
        for row in summary.rows
        if row.filtered is not None and row.filtered["utilization"] < NEAR_ZERO and not _count(row, OVER_SIZE)[0]
    }


def _falling(summary: runs.Summary, _: list[Row]) -> Facts:
    """Both intervals are of the same problems, so that they do not overlap is more than a 5 % test asks for."""
    scores, facts = _scores(summary), {}
    for k in sorted(scores)[1:]:
        best = max((scores[j] for j in scores if j < k), key=lambda one: one["low"])
        if scores[k]["high"] < best["low"]:
            facts[k] = f"accuracy is {_interval(scores[k])} after {_interval(best)}"
    return facts


def _bound_fell(summary: runs.Summary, _: list[Row]) -> Facts:
    ways = {row.iteration: fell(row.bound) for row in summary.rows if row.bound}
    return {k: " and ".join(said) for k, said in ways.items() if said}


def _swallowed(_: runs.Summary, answers: list[Row]) -> Facts:
    """The most common answer must also be beyond the interval of its label's share: a few predictions are uneven by chance."""
    values: dict[tuple[int, str], dict[str, tuple[float, int]]] = {}
    for row in answers:
        values.setdefault((row["iteration"], row["measure"]), {})[row["part"]] = row["value"], row["over"]
    facts = {}
    for k, measure in values:
        shares = values.get((k, "answer_share"), {})
        if measure != "label_entropy" or not k or not shares:
            continue
        spread, wanted = values[k, "answer_entropy"][""][0], values[k, measure][""][0]
        label, (share, said) = max(shares.items(), key=lambda item: (item[1][0], item[0]))
        usual = values[k, "label_share"][label][0]
        if spread < HALF * wanted and wilson(round(share * said), said)[0] > usual:
            facts[k] = (
                f"{share:.2f} of the answers are {_short(label)!r}, the right one for {usual:.2f} of the problems, and "
                f"their entropy is {spread:.2f} of {wanted:.2f} nats"
            )
    return facts


def _shorter(summary: runs.Summary, _: list[Row]) -> Facts:
    drawn = [row for row in summary.rows if row.filtered and row.filtered["accepted"] and not row.given]
    facts = {}
    for row in drawn[1:]:
        first, now = (one.filtered["mean_rationale_tokens"] for one in (drawn[0], row) if one.filtered)
        if now < HALF * first:
            facts[row.iteration] = (
                f"rationales have {now:.1f} tokens after {first:.1f} in iteration {drawn[0].iteration}"
            )
    return facts


def _truncated(summary: runs.Summary, _: list[Row]) -> Facts:
    return _lost(summary, TRUNCATED, "end at the token limit")


def _unparsable(summary: runs.Summary, _: list[Row]) -> Facts:
    return _lost(summary, UNPARSABLE, "have no answer line that can be read")


def _lost(summary: runs.Summary, verdict: str, what: str) -> Facts:
    """Iterations from 1 on in which a verdict is on too many draws, or on too many predictions after training."""
    facts = {}
    for row in summary.rows:
        said = []
        if row.filtered and not row.given and (share := _share(row, verdict)) >= OFTEN:
            said.append(f"{share:.2f} of the draws")
        if row.iteration and row.scores and (share := row.scores[verdict] / row.scores["n"]) >= OFTEN:
            said.append(f"{share:.2f} of the predictions")
        if said:
            facts[row.iteration] = f"{' and '.join(said)} {what}"
    return facts


def _leaking(summary: runs.Summary, _: list[Row]) -> Facts:
    """Of the draws that were looked at, beyond both intervals: neither more right draws nor 3 of 200 after 1 are a rise."""
    filtered = [row for row in summary.rows if row.filtered]
    counted = [row for row in filtered if row.filtered and "kept_leaks" in row.filtered]  # not by an older version
    drawn = [(row, *counts) for row in counted or filtered if row.filtered and (counts := _leaks(row.filtered))[1]]
    facts = {}
    for row, leaks, looked in drawn[1:]:
        first, before, of = drawn[0]
        if wilson(leaks, looked)[0] > wilson(before, of)[1]:
            facts[row.iteration] = (
                f"{leaks / looked:.2f} of the draws that the leak filter looked at give the hint away after "
                f"{before / of:.2f} in iteration {first.iteration}"
            )
    return facts


def _leaks(filtered: Mapping[str, Any]) -> tuple[int, int]:
    """How many rationales leak, and how many were looked at: right ones that the filters before let pass, or, where leaks
    are not rejected, those that passed all but the ones that count them."""
    verdicts = filtered["verdicts"]
    for kept in ("marked_leaks", "kept_leaks"):
        if kept in filtered:
            return filtered[kept], sum(verdicts.get(name, 0) for name in (ACCEPTED, OVER_LABEL_SHARE, OVER_SIZE))
    return verdicts.get(LEAKED, 0), filtered["attempts"] - sum(verdicts.get(name, 0) for name in _BEFORE_LEAKS)


_KINDS = (
    _Kind(
        "utilization near zero",
        _near_zero,
        "the M-step learns from next to nothing, and mostly from what the model could do before",
        "Try scheme.name pps or star, a larger scheme.budget, worked examples (prompts.sample_exemplars), a larger "
        "sample.max_tokens where draws are truncated, or easier problems; with scheme.name human, fill the column of "
        "problems.rationale",
    ),
    _Kind(
        "accuracy falls",
        _falling,
        "later iterations undo what earlier ones learnt, as training on one's own draws can",
        "Take the checkpoint of the better iteration (fem export RUN@K), lower train.learning_rate or train.epochs, or set "
        "train.init to base",
    ),
    _Kind(
        "the bound falls",
        _bound_fell,
        "an EM step is not to lower the likelihood of the right answers of training problems, so this one moved away from "
        "them, or moved to rationales that the hinted draws do not show",
        "Lower train.learning_rate or train.epochs, keep more rationales (scheme.budget, scheme.keep all), compare the "
        "gap between draws and posterior in fem show, or set train.init to base",
    ),
    _Kind(
        "one label swallows the rest",
        _swallowed,
        "the model learns which label is common and not when it is right",
        "Balance the labels of the training problems, compare acceptance_by_label in fem show RUN --diagnostics, use "
        "scheme.name pps so that rare labels get rationales too, or lower train.learning_rate or train.epochs",
    ),
    _Kind(
        "rationales get short",
        _shorter,
        "the model drops the reasoning and keeps the answer line, which the filter accepts as readily",
        "Set filter.min_rationale_words, lower train.epochs, or use scheme.name rs, whose short draws must be right without "
        "a hint",
    ),
    _Kind(
        "draws are truncated",
        _truncated,
        "they are lost, and it is the long ones that are, so that training favours short rationales",
        "Raise sample.max_tokens (and evaluate.max_tokens), ask for brevity in prompts.plain and prompts.hinted, or show "
        "short examples (prompts.sample_exemplars)",
    ),
    _Kind(
        "leaks increase",
        _leaking,
        "the model learns to name the hint as its reason, and what is kept of such draws teaches little",
        "Word prompts.hinted so that the answer is not to be mentioned before the last line, use scheme.name star, or rs, "
        "which sees no hint",
    ),
    _Kind(
        "answers cannot be parsed",
        _unparsable,
        "how the model writes its answer is measured along with what it knows",
        "Show worked examples (prompts.sample_exemplars, prompts.train_exemplars), or spell out the last line in "
        "prompts.plain",
    ),
)


def _scores(summary: runs.Summary) -> dict[int, Mapping[str, float]]:
    """By iteration, with the training prompt."""
    exemplars = summary.rows[0].exemplars
    return {row.iteration: row.scores for row in summary.rows if row.scores and row.exemplars == exemplars}


def _count(row: runs.Row, verdict: str) -> tuple[int, int]:
    """How many of the attempts have a verdict, and how many attempts there are."""
    filtered = row.filtered or {}
    return filtered["verdicts"].get(verdict, 0), filtered["attempts"]


def _share(row: runs.Row, verdict: str) -> float:
    hits, of = _count(row, verdict)
    return hits / of if of else 0.0


def _interval(scores: Mapping[str, float]) -> str:
    return f"{scores['accuracy']:.3f} ({scores['low']:.3f} to {scores['high']:.3f})"


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:39]}…"
