"""Which of two texts is better; and Auto-J's and LLMBar's pairs of responses.

Contract: which text stands first follows from the seed and the texts, not from the row, so that neither the order nor a
habit of the source can be learnt, and a pair that is listed twice the other way round is one question. With both orders
a pair gives two problems in one group, whose answers name the same text.
"""

from collections.abc import Callable

from fem_core.config_problems import PairProblems
from fem_core.digest import digest
from fem_core.errors import FemError
from fem_core.problems.problem import Problem, group_of, make_problem
from fem_core.problems.published import Unfit, text_in
from fem_core.problems.published import load as load_published
from fem_core.problems.registry import ProblemSet
from fem_core.problems.rows import Row, reach, shown

TIE = "C"
"""y* of a pair judged equally good."""

_FORMS: dict[str, tuple[str, str, str, dict[int, int | None]]] = {
    "autoj": ("prompt", "response 1", "response 2", {0: 0, 1: 1, 2: None}),
    "llmbar": ("input", "output_1", "output_2", {1: 0, 2: 1}),
}
"""Columns of prompt, first and second response, and what the column ``label`` means: the better one, or None for a tie."""


def load(config: PairProblems, seed: int) -> ProblemSet:
    """See ``published.load``."""
    return load_published(config, seed, lambda row: _problems(row, config, seed))


def ask(
    texts: tuple[str, str],
    better: int | None,
    context: str,
    seed: int,
    both_orders: bool,
    problem: Callable[[str, str, str], Problem],
) -> list[Problem]:
    """The problems of a pair: one, or with both orders two.

    Args:
        better: index of the better text; None for a tie.
        context: what the texts are about, so that a text stands first in one pair and second in another.
        problem: makes the problem of a first text, a second text and y* (A, B or C).

    Raises:
        Unfit: the two texts are the same.
    """
    if texts[0].split() == texts[1].split():
        raise Unfit("both texts are the same")
    order = sorted((0, 1), key=lambda i: digest([seed, context, texts[i]]))
    orders = [order, order[::-1]] if both_orders else [order]
    return [problem(texts[i], texts[j], TIE if better is None else "AB"[[i, j].index(better)]) for i, j in orders]


def _problems(row: Row, config: PairProblems, seed: int) -> list[Problem]:
    prompt_column, one, other, meanings = _FORMS["llmbar" if "output_1" in row.record else "autoj"]
    label = reach(row, "label")
    label = int(label) if isinstance(label, str) and label.strip() in ("0", "1", "2") else label
    if not isinstance(label, int) or label not in meanings:
        known = ", ".join(map(str, meanings))
        raise FemError(f"{row.place}: the label {shown(label)} is none of {known}. Mend or remove the row.")
    better = meanings[label]
    if better is None and config.ties == "drop":
        raise Unfit("both responses were judged equally good")
    prompt = text_in(row, prompt_column)
    tie = ("Both are equally good",) if config.ties == "keep" else ()

    def problem(first: str, second: str, answer: str) -> Problem:
        question = (
            "Two responses to the prompt below are to be compared. Which one serves the prompt better?\n\n"
            f"Prompt:\n{prompt}\n\nResponse A:\n{first}\n\nResponse B:\n{second}\n\nWhich response is better?"
        )
        choices = ("Response A", "Response B", *tie)
        return make_problem(question, answer, "choice", choices=choices, group=group_of(prompt))

    texts = (text_in(row, one), text_in(row, other))
    return ask(texts, better, prompt, seed, config.both_orders, problem)
