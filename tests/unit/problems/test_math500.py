"""MATH-500 and the comparison of formulas by math-verify, in the killable process."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fem_core.config_problems import Math500Problems
from fem_core.errors import FemError, VerifierTimeout
from fem_core.filter.verdict import judge
from fem_core.problems.answers import is_correct, parse_answer
from fem_core.problems.problem import Problem, make_problem
from fem_core.problems.registry import load
from fem_core.problems.verifier import Verifier, math_record

ROWS = [
    {"problem": "Write $\\frac{28}{6}$ in lowest terms.", "solution": "Halve both: $\\boxed{\\frac{14}{3}}$.",
     "answer": "\\frac{14}{3}", "subject": "Prealgebra", "level": 1, "unique_id": "test/prealgebra/1.json"},
    {"problem": "Who is fastest?", "solution": "She is.", "answer": "\\text{Evelyn}", "subject": "Algebra", "level": 2,
     "unique_id": "test/algebra/2.json"},
    {"problem": "Where is it?", "solution": "There.", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
     "subject": "Precalculus", "level": 2, "unique_id": "test/precalculus/3.json"},
]  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def formula(answer: str, time_limit: float = 20.0) -> Problem:
    return make_problem("q", answer, "math", verifier=math_record(answer, time_limit))


def right(written: str, problem: Problem, verifier: Verifier) -> bool:
    parsed = parse_answer(f"So it is.\nAnswer: {written}", problem)
    assert parsed is not None
    return is_correct(parsed.answer, problem, verifier)


def test_rows_become_problems_whose_own_answers_count(tmp_path: Path, verifier: Verifier) -> None:
    file = tmp_path / "math.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = load(Math500Problems(source="math500", path=str(file), test=1, time_limit=20), seed=0)
    problems = [*found.train, *found.test]
    assert {(p.question, p.answer, p.rationale) for p in problems} == {
        (row["problem"], row["answer"], row["solution"]) for row in ROWS
    }
    for problem in problems:
        for written in (
            problem.answer,
            f"${problem.answer}$",
            f"$\\boxed{{{problem.answer}}}$.",
            f"**{problem.answer}**",
        ):
            assert right(written, problem, verifier), written
        assert not right("17", problem, verifier)


@pytest.mark.parametrize(
    ("gold", "written"),
    [
        ("\\frac{14}{3}", "14/3"),
        ("\\frac{14}{3}", "\\dfrac{28}{6}"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3, \\pi/2)"),
        ("2k+2", "2(k + 1)"),
        ("2\\sqrt{3}", "2*sqrt(3)"),
        ("5", "x = 5"),
        ("58,500", "$58500$"),
        ("\\text{Evelyn}", "Evelyn"),
        ("11\\sqrt2", "11\\sqrt{2}"),
    ],
)
def test_another_way_to_write_the_same_value_is_right(gold: str, written: str, verifier: Verifier) -> None:
    assert right(written, formula(gold), verifier)


@pytest.mark.parametrize(
    ("gold", "written"),
    [("(1,2)", "[1,2]"), ("5", "zzz"), ("5", "\\frac{"), ("5", "5 or 6"), ("x", "__import__('os').system('true')")],
)
def test_another_value_is_wrong(gold: str, written: str, verifier: Verifier) -> None:
    assert not right(written, formula(gold), verifier)


def test_the_own_answer_needs_no_verifier_and_another_does() -> None:
    problem = formula("\\frac{1}{2}")
    assert is_correct("\\frac{1} {2}", problem)
    with pytest.raises(ValueError, match="Verifier"):
        is_correct("0.5", problem)


def test_a_comparison_that_takes_too_long_is_a_verdict_of_its_own(verifier: Verifier) -> None:
    problem = formula("5", time_limit=1.0)
    begin = time.monotonic()
    with pytest.raises(VerifierTimeout):
        is_correct("9^{9^{9^{9}}}", problem, verifier)
    assert time.monotonic() - begin < 10  # the machine may be busy
    assert judge("Answer: 9^{9^{9^{9}}}", "stop", problem, verifier).verdict == "verifier_timeout"
    assert judge("Answer: 10/2", "stop", formula("5"), verifier).verdict == "accepted"


def test_an_answer_is_read_as_latex_and_never_evaluated(tmp_path: Path, verifier: Verifier) -> None:
    touched = tmp_path / "touched"
    for hostile in (f"__import__('pathlib').Path('{touched}').touch()", f"open('{touched}', 'w')", "exit()"):
        assert not right(hostile, formula("5"), verifier)
    assert not touched.exists()
    assert right("10/2", formula("5"), verifier), "the same child still answers"


def test_a_very_long_answer_is_not_asked_about(verifier: Verifier) -> None:
    assert verifier.score(math_record("5", 20.0), "\\frac{" * 300).reason == "too long"


def test_a_machine_without_math_verify_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('No module named math_verify')")
    popen = __import__("subprocess").Popen

    def without(command: list[str], **settings: object) -> object:
        environment = dict(settings.pop("env"))  # type: ignore[call-overload]
        environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
        return popen(command, env=environment, **settings)

    monkeypatch.setattr("fem_core.problems.verifier.subprocess.Popen", without)
    with Verifier() as verifier, pytest.raises(FemError, match=r"scorer of math-verify cannot be set up: .*installed"):
        verifier.score(math_record("5", 5.0), "6")
