import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from fem_core import schemas
from fem_core.problems.problem import from_table, full_question, make_problem, to_table

CHOICE = make_problem("Where?", "B", "choice", choices=("a", "b"), rationale="since", group="g")
TEXT = make_problem("Who? “é”", "Ada", "text")


def test_a_table_gives_the_problems_back() -> None:
    table = to_table([CHOICE, TEXT])
    assert table.schema.equals(schemas.PROBLEMS)
    assert from_table(table) == [CHOICE, TEXT]
    assert from_table(to_table([])) == []


def test_the_id_covers_what_is_asked_and_what_is_right_and_nothing_else() -> None:
    def again(**changes: object) -> str:
        p = replace(CHOICE, **changes)  # type: ignore[arg-type]
        return make_problem(
            p.question, p.answer, p.answer_kind, choices=p.choices, rationale=p.rationale, group=p.group,
            verifier=p.verifier,
        ).problem_id  # fmt: skip

    assert again(rationale=None, group="other") == CHOICE.problem_id
    changes = [
        {"question": "When?"},
        {"answer": "A"},
        {"answer_kind": "text"},
        {"choices": ("a", "c")},
        {"verifier": ""},
    ]
    assert len({CHOICE.problem_id, *(again(**change) for change in changes)}) == 6


def test_the_id_is_the_same_in_another_process() -> None:
    code = (
        "from fem_core.problems.problem import make_problem; print(make_problem('Who? “é”', 'Ada', 'text').problem_id)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == TEXT.problem_id


def test_the_full_question_lists_the_choices() -> None:
    assert full_question(CHOICE) == "Where?\nA. a\nB. b"
    assert full_question(TEXT) == "Who? “é”"
