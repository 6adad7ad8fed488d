"""Sampling schemes as plans of prompt kinds, walked by one pure stepper.

Contract: a plan is a sequence of stages; a later stage is entered only when no draw of the earlier ones was accepted.
``keep: first`` stops at the first acceptance, ``keep: all`` spends a stage's budget. The stepper sees outcomes only,
so every scheme is exactly as many lines as its row in DESIGN's table (arXiv 2512.20169, section 4). The control arms
draw nothing: their plan has no stage (``given.py`` has their completions).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fem_core.config import SchemeConfig
from fem_core.prompts import PromptKind


@dataclass(frozen=True)
class Stage:
    """Up to ``budget`` draws with one kind of prompt."""

    kind: PromptKind
    budget: int


@dataclass(frozen=True)
class Plan:
    """What is tried for a problem, in order."""

    stages: tuple[Stage, ...]
    keep: Literal["first", "all"] = "first"

    @property
    def budget(self) -> int:
        """The most draws that one problem can cost."""
        return sum(stage.budget for stage in self.stages)

    @property
    def kinds(self) -> tuple[PromptKind, ...]:
        """The prompt kinds that may be drawn with, each once."""
        return tuple(dict.fromkeys(stage.kind for stage in self.stages))

    def kind_of(self, attempt: int) -> PromptKind:
        """The prompt kind of an attempt by its index, where every attempt before it failed.

        Raises:
            IndexError: the plan has no such attempt.
        """
        return [stage.kind for stage in self.stages for _ in range(stage.budget)][attempt]


EVALUATION = Plan((Stage("plain", 1),))
"""One plain draw per problem; the evaluation makes it greedy."""


def evaluation_of(draws: int | None) -> Plan:
    """``EVALUATION``, and so many sampled draws behind the greedy one."""
    return Plan((Stage("plain", 1 + draws),), "all") if draws else EVALUATION


def plan_of(scheme: SchemeConfig) -> Plan:
    """The plan of a configured scheme: RS(M), STaR(M, R) or PPS(M); without a stage for what draws nothing."""
    stages: tuple[Stage, ...]
    if scheme.name in ("answer_only", "human", "none"):
        stages = ()
    elif scheme.name == "rs":
        stages = (Stage("plain", scheme.budget or 4),)
    elif scheme.name == "star":
        stages = (Stage("plain", scheme.budget or 1), Stage("hinted", scheme.hinted_budget))
    else:
        stages = (Stage("hinted", scheme.budget or 1),)
    return Plan(stages, scheme.keep)


def next_draws(plan: Plan, accepted: Sequence[bool]) -> tuple[PromptKind, ...]:
    """Which draws to queue next for a problem; empty when it is settled.

    Args:
        accepted: the outcome of every draw so far, in the plan's order, none of them in flight.
    """
    spent = 0
    for stage in plan.stages:
        outcomes = accepted[spent : spent + stage.budget]
        left = stage.budget - len(outcomes)
        if any(outcomes) and (plan.keep == "first" or not left):
            return ()
        if left:
            return (stage.kind,) * (1 if plan.keep == "first" else left)
        spent += stage.budget
    return ()
