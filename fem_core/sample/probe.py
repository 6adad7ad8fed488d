"""Looks at the draws of a probe: what EM's bound needs of them.

Contract: under the plain prompt, each right draw's own tokens are scored, and once per problem its direct answer: the
answer line with y* and nothing before it, which was not drawn. The columns are those of ``schemas.PROBES``.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fem_core.filter.verdict import ACCEPTED
from fem_core.problems.problem import Problem
from fem_core.sample.look import Engine, Looker
from fem_core.sample.vllm_engine import Finished
from fem_core.schemas import PROBES


class ProbeLooker(Looker):
    """What a probe asks about its draws."""

    schema = PROBES

    def __init__(self, plain: Callable[[Problem], list[int]], direct: Callable[[Problem], list[int]]) -> None:
        """
        Args:
            plain: ids of a problem's plain prompt.
            direct: ids of the completion that answers a problem without a rationale.
        """
        self._plain = plain
        self._direct = direct

    def wanted(self, attempt: int, verdict: str) -> tuple[str, ...]:
        """See ``Looker``: the first draw of a problem stands for its direct answer, whatever became of it."""
        own = ("plain_logprob",) if verdict == ACCEPTED else ()
        return (*own, "direct_logprob") if attempt == 0 else own

    def begin(
        self, engine: Engine, request_id: str, look: str, problem: Problem, text: str, token_ids: Sequence[int]
    ) -> dict[str, Any] | None:
        """See ``Looker``."""
        completion = self._direct(problem) if look == "direct_logprob" else token_ids
        engine.add_score(request_id, self._plain(problem), completion)
        return None

    def columns(self, look: str, problem: Problem, finished: Finished) -> dict[str, Any]:
        """See ``Looker``."""
        return {look: finished.logprob}
