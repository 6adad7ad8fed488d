import ast
import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reasoning_gym import factory

from fem_core.config import ReasoningGymProblems
from fem_core.errors import FemError, VerifierTimeout
from fem_core.problems import generated, lossless
from fem_core.problems.answers import is_correct, parse_answer
from fem_core.problems.problem import Problem, make_problem
from fem_core.problems.verifier import EVALUATING, REFUSED, Verifier, is_arithmetic

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "__import__('os').system('touch {path}')"


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier() as verifier:
        yield verifier


def record(dataset: str, time_limit: float = 5.0, entry: dict[str, Any] | None = None, **params: Any) -> str:
    entry = entry or factory.create_dataset(dataset, seed=1, size=3, **params)[0]
    return lossless.dumps(
        {"source": "reasoning_gym", "dataset": dataset, "params": params, "threshold": 1.0, "time_limit": time_limit,
         "entry": entry}
    )  # fmt: skip


def gold(text: str) -> str:
    return str(lossless.loads(text)["entry"]["answer"])


@pytest.mark.parametrize(
    "dataset",
    ["needle_haystack", "leg_counting", "spell_backward", "chain_sum", "family_relationships", "gcd", "countdown",
     "number_sorting", "rearc", "calendar_arithmetic"],
)  # fmt: skip
def test_the_own_answer_scores_one_after_the_round_trip(verifier: Verifier, dataset: str) -> None:
    text = record(dataset)
    assert verifier.score(text, gold(text)).value == 1.0
    assert verifier.score(text, "surely wrong").value < 1.0


def test_a_scorer_that_hangs_is_killed_within_its_limit_and_the_next_answer_still_works() -> None:
    text = record("coin_flip", time_limit=0.5)
    with Verifier() as verifier:
        assert verifier.score(text, gold(text)).value == 1.0
        begin = time.monotonic()
        with pytest.raises(VerifierTimeout, match=r"longer than 0.5 s"):
            verifier.score(text, "1e1000000000")  # Fraction() expands it
        assert time.monotonic() - begin < 10  # the machine may be busy
        assert verifier.score(text, gold(text)).value == 1.0


def test_a_scorer_that_raises_scores_zero_with_the_reason(verifier: Verifier) -> None:
    entry = {"question": "q", "answer": "1", "metadata": {}}
    score = verifier.score(record("time_intervals", entry=entry), "1")
    assert score.value == 0.0
    assert score.reason is not None and score.reason.startswith("KeyError")


def test_a_child_that_died_is_replaced(verifier: Verifier) -> None:
    text = record("gcd")
    assert verifier.score(text, gold(text)).value == 1.0
    assert verifier._child is not None
    verifier._child.kill()
    verifier._child.wait()
    assert verifier.score(text, gold(text)).value == 1.0


def test_a_verifier_that_cannot_work_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    text = record("gcd")
    with Verifier() as verifier:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(FemError, match="did not start"):
            verifier.score(text, "1")
        monkeypatch.undo()
        assert verifier.score(text, gold(text)).value == 1.0


def test_close_leaves_no_process_and_a_later_score_starts_another() -> None:
    text = record("gcd")
    verifier = Verifier()
    verifier.score(text, "1")
    assert verifier._child is not None
    pid = verifier._child.pid
    verifier.close()
    verifier.close()
    assert not Path(f"/proc/{pid}").exists()
    assert verifier.score(text, gold(text)).value == 1.0
    verifier.close()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "hanging"])
def test_no_child_outlives_a_killed_parent(busy: bool) -> None:
    text = record("coin_flip", time_limit=1.0 if busy else 30.0)
    code = (
        "import sys, threading, time\n"
        "from fem_core.problems.verifier import Verifier\n"
        f"v = Verifier(); v.score({text!r}, '1'); print(v._child.pid, flush=True)\n"
        + (f"threading.Thread(target=v.score, args=({text!r}, '1e1000000000')).start()\n" if busy else "")
        + "print('ready', flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.stdout.readline()
    time.sleep(0.3)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("dataset", sorted(EVALUATING))
def test_a_hostile_answer_never_reaches_an_evaluating_scorer(verifier: Verifier, dataset: str, tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    text = record(dataset)
    score = verifier.score(text, HOSTILE.format(path=target))
    assert (score.value, score.reason) == (0.0, "refused characters")
    assert not target.exists()


@pytest.mark.parametrize("dataset", sorted(EVALUATING))
def test_what_runs_in_the_child_can_neither_write_nor_start_processes(
    verifier: Verifier, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first fence taken away the answer is evaluated, and the child's own fences hold."""
    monkeypatch.setitem(EVALUATING, dataset, lambda _: True)
    for attack in (HOSTILE, "open('{path}', 'w').write('x')", "__import__('subprocess').run(['touch', '{path}'])"):
        target = tmp_path / "pwned"
        verifier.score(record(dataset), attack.format(path=target))
        assert not target.exists()


@pytest.mark.parametrize("dataset", sorted(REFUSED))
def test_refused_generators_are_refused_at_load_and_when_scoring(verifier: Verifier, dataset: str) -> None:
    with pytest.raises(FemError, match=f"The generator {dataset} is refused"):
        generated.load(ReasoningGymProblems(source="reasoning_gym", dataset=dataset), seed=0)
    entry = {"question": "q", "answer": "1", "metadata": {}}
    with pytest.raises(FemError, match=f"The generator {dataset} is refused"):
        verifier.score(record(dataset, entry=entry), "1")


@pytest.mark.parametrize("answer", ["9**9**9**9", "9* *9", "1e9", "a", "1_0", "[1]", "", "1" * 301, "٣", "1\n2"])
def test_the_fence_refuses(answer: str) -> None:
    assert not is_arithmetic(answer)


@pytest.mark.parametrize("answer", ["8 / (3 - 8/3)", "58 + 39 - 19", "1 2 3", "1.5*2"])
def test_the_fence_lets_arithmetic_pass(answer: str) -> None:
    assert is_arithmetic(answer)


EVALUATES = {
    "algebra/intermediate_integration.py": "refused",
    "algebra/polynomial_multiplication.py": "refused",
    "algebra/simple_integration.py": "refused",
    "algorithmic/binary_matrix.py": "fenced",
    "algorithmic/number_sorting.py": "evaluates its own answer, reads the model's with json",
    "algorithmic/spiral_matrix.py": "fenced",
    "algorithmic/string_insertion.py": "refused",
    "arithmetic/basic_arithmetic.py": "evaluates its own expression when it generates",
    "arithmetic/bitwise_arithmetic.py": "evaluates its own problem, reads the answer with int()",
    "arithmetic/gsm_symbolic/generators_00_49.py": "evaluates its own fractions when it generates",
    "arithmetic/gsm_symbolic/generators_50_99.py": "evaluates its own fractions when it generates",
    "code/codeio.py": "runs its own code when it generates",
    "games/countdown.py": "fenced",
    "games/n_queens.py": "refused",
    "games/puzzle24.py": "fenced",
    "logic/propositional_logic.py": "has a parser of its own that is named parse_expr",
}
"""Every file of reasoning-gym 0.1.25 that evaluates text as code, as read by hand."""

DANGEROUS = {"eval", "exec", "parse_expr", "sympify", "parse_latex", "literal_eval", "__import__", "lambdify"}
DANGEROUS_MODULES = {"pickle", "subprocess", "ctypes", "marshal"}


def test_no_other_file_of_reasoning_gym_evaluates_text() -> None:
    """Fails when another version brings an evaluating scorer that nobody has looked at."""
    package = Path(factory.__file__).parent
    found = set()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = {alias.name for alias in node.names} if isinstance(node, (ast.Import, ast.ImportFrom)) else set()
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if called in DANGEROUS or names & DANGEROUS_MODULES:
                found.add(str(file.relative_to(package)))
    assert found == EVALUATES.keys()
    for way, generators in (("fenced", EVALUATING), ("refused", REFUSED)):
        named = {Path(file).stem for file, how in EVALUATES.items() if how == way}
        assert named == set(generators) - {"composite"}


def test_a_full_stop_behind_a_generated_answer_does_not_make_it_wrong(verifier: Verifier) -> None:
    problem = generated.load(ReasoningGymProblems(source="reasoning_gym", dataset="gcd", train=1, test=1), 0).train[0]
    for written in (problem.answer, f"{problem.answer}.", f"**{problem.answer}**", f"\\boxed{{{problem.answer}}}"):
        parsed = parse_answer(f"Answer: {written}", problem)
        assert parsed is not None and is_correct(parsed.answer, problem, verifier)
    assert not is_correct("0", problem, verifier)


UNFIT = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"} | {
    "arc_agi", "binary_matrix", "futoshiki", "kakurasu", "manipulate_matrix", "mini_sudoku", "modulo_grid",
    "pool_matrix", "game_of_life_halting", "rearc", "rotate_matrix", "sudoku", "survo", "tower_of_hanoi",
}  # fmt: skip
"""Generators that give no answer of their own, one of several lines, or that accept any: loading them says so."""


@pytest.mark.slow
def test_every_generator_survives_the_round_trip(verifier: Verifier) -> None:
    wrong = []
    for name, (_, config) in sorted(factory.DATASETS.items()):
        if name in REFUSED:
            continue
        assert {"seed", "size"} <= {field.name for field in dataclasses.fields(config)}, name
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = factory.create_dataset(name, seed=5, size=2)
            entries = [dataset[i] for i in range(2)]
        for entry in entries:
            text = record(name, time_limit=20, entry=entry)
            if entry["answer"] is None:
                assert name in UNFIT
                continue
            score = verifier.score(text, entry["answer"])
            if score.value != 1.0 and not (name in EVALUATING and "\n" in entry["answer"]):
                wrong.append((name, entry["answer"], score))
    assert wrong == []


@pytest.mark.slow
def test_every_generator_loads_or_says_why_not(verifier: Verifier) -> None:
    for name in sorted(factory.DATASETS.keys() - REFUSED.keys()):
        config = ReasoningGymProblems(source="reasoning_gym", dataset=name, train=1, test=1)
        if name in UNFIT:
            continue
        found = generated.load(config, seed=0)
        problem: Problem = found.train[0]
        parsed = parse_answer(f"Answer: {problem.answer}", problem)
        assert parsed is not None and is_correct(parsed.answer, problem, verifier), name


def test_the_environment_of_the_child_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Verifier() as verifier:
        verifier.score(record("gcd"), "1")
        assert verifier._child is not None
        environment = Path(f"/proc/{verifier._child.pid}/environ").read_bytes()
    assert b"secret" not in environment
    assert b"PATH=" + os.defpath.encode() in environment


def test_a_problem_without_its_record_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="Verifier"):
        is_correct("1", make_problem("q", "1", "reasoning_gym", verifier="{}"), None)
