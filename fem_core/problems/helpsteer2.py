"""HelpSteer2, and HelpSteer in the same form: predict the rating that people gave a response.

Contract: y* is one of the five ratings, 0 to 4, and the group is the prompt. In prompts of several turns the set's marks
become the speakers' names.
"""

import re

from fem_core.config_problems import HelpSteer2Problems
from fem_core.errors import FemError
from fem_core.problems.problem import Problem, group_of, make_problem
from fem_core.problems.published import Unfit, text_in
from fem_core.problems.published import load as load_published
from fem_core.problems.ratings import parse_rating, scale_record
from fem_core.problems.registry import ProblemSet
from fem_core.problems.rows import Row, is_empty, reach, shown, string_in

LOW, HIGH = 0, 4

MEANINGS = {
    "helpfulness": "Helpfulness is how well the response, taken as a whole, does what the prompt asks for. "
    "0 is of no use, 4 could hardly serve better.",
    "correctness": "Correctness is whether the response is free of errors and leaves out nothing that the prompt asks for. "
    "0 is wrong throughout, 4 is right and complete.",
    "coherence": "Coherence is whether the response is clear and agrees with itself from beginning to end. "
    "0 cannot be followed, 4 is clear throughout.",
    "complexity": "Complexity is how much knowledge somebody needs to write such a response; it says nothing of its quality. "
    "0 takes a command of everyday language, 4 takes an expert of the subject.",
    "verbosity": "Verbosity is how much the response says for what the prompt asks; it says nothing of its quality. "
    "0 is as brief as can be, 4 is long and full of detail.",
}
"""What each attribute means, in this project's words."""

_TURN = re.compile(r"\s{0,8}<extra_id_1>(User|Assistant)[ \t]{0,8}\n?")


def load(config: HelpSteer2Problems, seed: int) -> ProblemSet:
    """See ``published.load``."""
    return load_published(config, seed, lambda row: [_problem(row, config.attribute)])


def _problem(row: Row, attribute: str) -> Problem:
    prompt = _TURN.sub(r"\n\n\1:\n", text_in(row, "prompt")).strip()
    if is_empty(row, attribute):
        raise Unfit(f"it has no rating of {attribute}")
    rating = parse_rating(string_in(row, attribute), LOW, HIGH)
    if rating is None:
        raise FemError(
            f"{row.place}: the {attribute} {shown(reach(row, attribute))} is no whole number from {LOW} to {HIGH}. "
            "Mend or remove the row."
        )
    question = (
        f"How would a careful reader rate the {attribute} of the response below? {MEANINGS[attribute]}\n\n"
        f"Prompt:\n{prompt}\n\nResponse:\n{text_in(row, 'response')}\n\n"
        f"Rate the {attribute} of the response as a whole number from {LOW} to {HIGH}."
    )
    return make_problem(question, str(rating), "rating", group=group_of(prompt), verifier=scale_record(LOW, HIGH))
