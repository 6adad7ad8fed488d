"""Second looks at accepted draws, by the engine that drew them: what the plain prompt makes of them.

Contract: a look reads a draw and changes nothing about it; its findings are columns of the draw's own row
(``schemas.LOOKED``), from which the filter decides. ``plain_logprob`` is of the very tokens that were drawn, whatever
follows the answer line included, so that it and ``logprob`` are densities of one thing. ``blind_answer`` shows the
rationale again as text, up to its answer line, and has that line completed greedily.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from fem_core.config import Look
from fem_core.filter.verdict import ACCEPTED, TRUNCATED, Judgement
from fem_core.problems.answers import answer_text, parse_answer
from fem_core.problems.problem import Problem
from fem_core.prompts import PromptKind
from fem_core.sample.vllm_engine import Finished, Sampling
from fem_core.schemas import LOOKED

_HEAD = "Answer:"
"""How the answer line begins."""
_SPARE = 32
"""Tokens that the line may have beyond those of y*: other words for the same, such as a choice's text."""


class Engine(Protocol):
    """The part of an engine that looks need."""

    def add(self, request_id: str, prompt_ids: list[int], sampling: Sampling) -> None:
        """Queue a draw."""

    def add_score(self, request_id: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> None:
        """Queue a look at given tokens."""


class Looker:
    """What a job asks about its accepted draws."""

    schema = LOOKED
    """Of the parts."""

    def __init__(
        self,
        asked: Sequence[Look],
        *,
        render: Callable[[Problem, PromptKind], list[int]],
        text_ids: Callable[[str], list[int]],
        judge: Callable[[str, str, Problem], Judgement],
        room: int,
    ) -> None:
        """
        Args:
            render, judge: as for ``DrawLoop``.
            text_ids: token ids of a text inside the assistant's turn.
            room: prompt and completion together, tokens.
        """
        self._asked = tuple(asked)
        self._render = render
        self._text_ids = text_ids
        self._judge = judge
        self._room = room

    def wanted(self, attempt: int, verdict: str) -> tuple[str, ...]:
        """What is asked about a draw."""
        return self._asked if verdict == ACCEPTED else ()

    def begin(
        self, engine: Engine, request_id: str, look: str, problem: Problem, text: str, token_ids: Sequence[int]
    ) -> dict[str, Any] | None:
        """Queue a look at a draw; the columns themselves where there is nothing to ask.

        Args:
            text, token_ids: of the completion.
        """
        plain = self._render(problem, "plain")
        if look == "plain_logprob":
            engine.add_score(request_id, plain, token_ids)
            return None
        parsed = parse_answer(text, problem)
        if parsed is None:
            raise ValueError(f"{request_id} looks at a draw without an answer line")
        prompt = plain + self._text_ids(text[: parsed.start] + _HEAD)
        if len(prompt) >= self._room:  # text of broken characters may have more tokens than were drawn
            return {"blind_answer": None, "blind_verdict": TRUNCATED}
        budget = len(self._text_ids(answer_text(problem))) + _SPARE
        engine.add(request_id, prompt, Sampling(0.0, 1.0, budget, None, stop="\n"))
        return None

    def columns(self, look: str, problem: Problem, finished: Finished) -> dict[str, Any]:
        """What a finished look found."""
        if look == "plain_logprob":
            return {"plain_logprob": finished.logprob}
        again = self._judge(_HEAD + finished.text, finished.finish_reason, problem)
        return {"blind_answer": again.answer, "blind_verdict": again.verdict}
