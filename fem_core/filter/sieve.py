"""The filters in their order: what a right answer's attempt must pass to become a rationale.

Contract: attempts come one by one in the order of problem id and attempt; each gets ``accepted`` or the verdict of the
first filter that objects, with its reason in words. The first ones judge a draw by itself, so they can be asked ahead
(``admits``); what the later ones compare with is what all of them have kept so far. A filter that needs all kept
rationales at once comes after these (``label_share``).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fem_core.annotations import text_digest
from fem_core.config import FilterConfig, PromptsConfig
from fem_core.filter.leak import Leaks
from fem_core.filter.near_duplicates import NearDuplicates
from fem_core.filter.verdict import (
    ACCEPTED,
    ANNOTATED,
    BLIND,
    LEAKED,
    NEAR_DUPLICATE,
    OUTWEIGHED,
    OVER_CAP,
    TOO_LONG,
    TOO_SHORT,
)
from fem_core.filter.weighting import Choice
from fem_core.problems.problem import Problem
from fem_core.sample.given import GIVEN


@dataclass(frozen=True)
class Draft:
    """An attempt whose answer is right."""

    number: int
    """Its row among the attempts."""
    problem: Problem
    prompt_kind: str
    rationale: str
    """What stands before the answer line."""
    text: str
    """Rationale and answer line, in training form."""
    drawn: str
    """The whole completion as it was drawn."""
    answer: str
    """The parsed answer."""
    attempt: int
    """Index of the draw."""
    blind_verdict: str | None = None
    """See ``schemas.LOOKED``."""
    blind_answer: str | None = None
    """See ``schemas.LOOKED``."""


class Sieve:
    """The filters of one iteration, with what they remember."""

    def __init__(
        self,
        config: FilterConfig,
        prompts: PromptsConfig,
        texts: Iterable[str],
        name_of: Callable[[int], str],
        annotated: Mapping[tuple[str, str], str],
    ) -> None:
        """
        Args:
            texts: of all attempts with the right answer; read only where near duplicates are looked for.
            name_of: names the attempt in a row, for reasons.
            annotated: what people objected to, as ``annotations.rejected`` gives it.
        """
        self.leaks = 0
        """Kept rationales that speak of having been given the answer, or repeat the hint's own words."""
        self._config = config
        self._leaks = Leaks(prompts)
        self._near = None if config.near_duplicate is None else NearDuplicates(config.near_duplicate, texts)
        self._name_of = name_of
        self._annotated_as = annotated
        self._kept: Counter[str] = Counter()
        self._choices: Mapping[str, Choice] | None = None
        self._alone: tuple[tuple[str, Callable[[Draft], str | None]], ...] = (
            (ANNOTATED, self._annotated),
            (TOO_SHORT, self._too_short),
            (TOO_LONG, self._too_long),
            (LEAKED, self._leaked),
            (BLIND, self._blind),
        )
        self._filters = (
            *self._alone,
            (OUTWEIGHED, self._outweighed),
            (NEAR_DUPLICATE, self._repeats),
            (OVER_CAP, self._over_cap),
        )

    def admits(self, draft: Draft) -> bool:
        """Whether the filters that judge a draw by itself have nothing against it. Nothing is remembered."""
        return all(objection(draft) is None for _, objection in self._alone)

    def weigh(self, choices: Mapping[str, Choice]) -> None:
        """Let one draw of each problem through, where ``admits`` has been asked about all of them."""
        self._choices = choices

    def decide(self, draft: Draft) -> tuple[str, str]:
        """Verdict and reason; what is accepted is remembered."""
        for verdict, objection in self._filters:
            reason = objection(draft)
            if reason is not None:
                return verdict, reason
        if self._config.max_per_problem is not None:
            self._kept[draft.problem.problem_id] += 1
        if self._near is not None:
            self._near.keep(draft.number, draft.rationale)
        reason = f"answered {draft.answer!r}"
        if self._choices is not None:
            choice = self._choices[draft.problem.problem_id]
            reason += (
                f", chosen with weight {choice.shares[draft.attempt]:.2f} among {len(choice.shares)}, "
                f"effective sample size {choice.effective:.1f}"
            )
        if self._config.leak != "reject" and (found := self._leak(draft)):
            self.leaks += 1
            reason += f", and {found}" if self._config.leak == "mark" else ""
        return ACCEPTED, reason

    def _annotated(self, draft: Draft) -> str | None:
        value = (
            self._annotated_as.get((draft.problem.problem_id, text_digest(draft.drawn))) if self._annotated_as else None
        )
        return None if value is None else f"annotated {value!r} in {self._config.annotations}"

    def _too_short(self, draft: Draft) -> str | None:
        words, least = len(draft.rationale.split()), self._config.min_rationale_words
        return f"{words} words before the answer line, at least {least} wanted" if words < least else None

    def _too_long(self, draft: Draft) -> str | None:
        words, most = len(draft.rationale.split()), self._config.max_rationale_words
        too_long = most is not None and words > most
        return f"{words} words before the answer line, at most {most} wanted" if too_long else None

    def _leaked(self, draft: Draft) -> str | None:
        return self._leak(draft) if self._config.leak == "reject" else None

    def _leak(self, draft: Draft) -> str | None:
        return None if draft.prompt_kind == GIVEN else self._leaks.find(draft.rationale, draft.problem)

    def _blind(self, draft: Draft) -> str | None:
        if not self._config.blind or draft.prompt_kind == GIVEN or draft.blind_verdict == ACCEPTED:
            return None
        if draft.blind_verdict is None:
            raise ValueError(f"{self._name_of(draft.number)} is accepted, but no blind look was taken at it")
        found = "to no answer" if draft.blind_answer is None else f"to {draft.blind_answer!r}"
        return f"without its answer line the rationale leads {found} ({draft.blind_verdict})"

    def _outweighed(self, draft: Draft) -> str | None:
        if self._choices is None:
            return None
        choice = self._choices[draft.problem.problem_id]
        if draft.attempt == choice.attempt:
            return None
        return (
            f"weighs {choice.shares[draft.attempt]:.2f} of the problem's {len(choice.shares)} draws, and attempt "
            f"{choice.attempt} was chosen"
        )

    def _repeats(self, draft: Draft) -> str | None:
        found = None if self._near is None else self._near.repeated(draft.rationale)
        return None if found is None else f"repeats {self._name_of(found[0])} (similarity {found[1]:.2f})"

    def _over_cap(self, draft: Draft) -> str | None:
        most = self._config.max_per_problem
        full = most is not None and self._kept[draft.problem.problem_id] >= most
        return f"the problem already has {most} rationales" if full else None
