"""GSM8K: word problems whose y* is the number behind ``####`` and whose solution is a gold rationale.

Contract: the calculator's marks ``<<…>>`` are taken out of the rationale.
"""

import re

from fem_core.config_problems import Gsm8kProblems
from fem_core.errors import FemError
from fem_core.problems.numbers import parse_number, write_number
from fem_core.problems.problem import Problem, make_problem
from fem_core.problems.published import load as load_published
from fem_core.problems.published import text_in
from fem_core.problems.registry import ProblemSet
from fem_core.problems.rows import Row, shown

_MARK = re.compile(r"<<[^<>\n]{0,500}>>")


def load(config: Gsm8kProblems, seed: int) -> ProblemSet:
    """See ``published.load``."""
    return load_published(config, seed, lambda row: [_problem(row)])


def _problem(row: Row) -> Problem:
    solution, mark, answer = text_in(row, "answer").rpartition("####")
    number = parse_number(answer)
    if not mark or number is None:
        raise FemError(
            f"{row.place}: there is no number behind '####' in the answer, which ends {shown(answer[-80:])}. "
            "Mend or remove the row."
        )
    rationale = _MARK.sub("", solution).strip() or None
    return make_problem(text_in(row, "question"), write_number(number), "number", rationale=rationale)
