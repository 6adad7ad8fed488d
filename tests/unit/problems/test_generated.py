import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fem_core.config import ReasoningGymProblems
from fem_core.errors import FemError
from fem_core.problems.problem import from_table, question_identity, to_table
from fem_core.problems.registry import load

ROOT = Path(__file__).resolve().parents[3]


def config(dataset: str, **fields: Any) -> ReasoningGymProblems:
    return ReasoningGymProblems(source="reasoning_gym", dataset=dataset, **fields)


def test_no_question_is_on_both_sides() -> None:
    found = load(config("leg_counting", train=60, test=40), seed=0)
    assert (len(found.train), len(found.test)) == (60, 40)
    assert len({question_identity(p) for p in [*found.train, *found.test]}) == 100
    assert all(p.answer_kind == "reasoning_gym" and p.verifier for p in found.train)
    assert from_table(to_table(found.train)) == found.train


def test_few_distinct_questions_are_all_found_and_more_are_refused() -> None:
    tiny = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    found = load(config("chain_sum", train=80, test=50, params=tiny), seed=0)
    assert len({p.question for p in [*found.train, *found.test]}) == 130
    with pytest.raises(FemError, match=r"gave [0-9]+ distinct problems in [0-9]+ draws, but .* ask for 500"):
        load(config("chain_sum", train=400, test=100, params=tiny), seed=0)


def test_the_test_problems_stay_when_n_grows_and_change_with_the_seed() -> None:
    few, many = load(config("gcd", train=5, test=5), seed=1), load(config("gcd", train=50, test=5), seed=1)
    assert few.test == many.test and few.train == many.train[:5]
    assert few.inputs != many.inputs
    other = load(config("gcd", train=5, test=5), seed=2)
    assert {p.question for p in other.test}.isdisjoint({p.question for p in few.test})


def test_the_problems_are_the_same_in_another_process() -> None:
    code = (
        "import json; from fem_core.config import ReasoningGymProblems as C\n"
        "from fem_core.problems.registry import load\n"
        "f = load(C(source='reasoning_gym', dataset='needle_haystack', train=3, test=3), 7)\n"
        "print(json.dumps([[p.problem_id for p in f.train + f.test], f.inputs]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    found = load(config("needle_haystack", train=3, test=3), seed=7)
    assert json.loads(done.stdout) == [[p.problem_id for p in found.train + found.test], found.inputs]


@pytest.mark.parametrize(
    ("dataset", "params", "message"),
    [
        ("leg_countin", {}, r"no generator 'leg_countin'. Did you mean leg_counting"),
        ("zzzz", {}, r"no generator 'zzzz'. Known: ab, acre"),
        ("gcd", {"max_nmbers": 3}, r"no parameter max_nmbers. Its parameters are: max_numbers"),
        ("gcd", {"seed": 3}, r"no parameter seed. seed and size follow from the run"),
        ("gcd", {"min_numbers": 5, "max_numbers": 2}, r"refuses problems.params .*max_numbers"),
        ("gcd", {"min_numbers": "x"}, r"refuses problems.params"),
        (
            "graph_color",
            {},
            r"Most entries of graph_color .*of 30 drawn, 30 because the generator gives no answer of its own",
        ),
        ("game_of_life_halting", {}, r"the scorer accepts 'zzz'"),
        ("survo", {}, r"Most entries of survo .* does not fit on one answer line"),
    ],
)
def test_what_cannot_be_made_says_why(dataset: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(FemError, match=message):
        load(config(dataset, train=2, test=2, params=params), seed=0)


def test_threshold_is_part_of_the_problem() -> None:
    strict, loose = (load(config("gcd", train=1, test=1, threshold=t), seed=0).train[0] for t in (1.0, 0.5))
    assert strict.question == loose.question
    assert strict.problem_id != loose.problem_id
