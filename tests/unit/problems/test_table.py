import csv
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fem_core.config import TableProblems
from fem_core.digest import digest_file
from fem_core.errors import FemError
from fem_core.problems.answers import is_correct, majority_baseline, parse_answer
from fem_core.problems.registry import ProblemSet, load

ROWS = [{"question": f"What is {i}+{i}?", "answer": str(2 * i), "topic": f"t{i % 5}"} for i in range(20)]


def config(**fields: Any) -> TableProblems:
    return TableProblems(source="table", **fields)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ids(found: ProblemSet) -> tuple[list[str], list[str]]:
    return [p.problem_id for p in found.train], [p.problem_id for p in found.test]


def test_every_file_kind_gives_the_same_problems(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl.read_bytes()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1), encoding="utf-8-sig")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    results = {
        path.name: ids(load(config(path=str(path), test=5, answer_kind="number"), seed=3))
        for path in sorted(tmp_path.iterdir())
    }
    assert len(results) == 6
    assert len({str(result) for result in results.values()}) == 1
    assert [len(side) for side in results["a.json"]] == [15, 5]


def test_choice_of_rows_follows_from_the_seed_and_not_from_their_order(tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    first = config(path=str(write(tmp_path / "a.jsonl", ROWS)), test=5, train=7, group="topic")
    second = config(path=str(write(tmp_path / "b.jsonl", shuffled)), test=5, train=7, group="topic")
    assert ids(load(first, seed=1)) == ids(load(second, seed=1))
    assert ids(load(first, seed=1)) != ids(load(first, seed=2))
    more = load(config(path=first.path, test=5, train=9, group="topic"), seed=1)
    assert ids(more)[0][:7] == ids(load(first, seed=1))[0]


def test_a_group_falls_on_one_side(tmp_path: Path) -> None:
    found = load(config(path=str(write(tmp_path / "a.jsonl", ROWS)), test=6, group="topic"), seed=0)
    assert not {p.group for p in found.train} & {p.group for p in found.test}
    assert (len(found.train), len(found.test)) == (12, 6)
    assert any("2 problems beyond 6" in note for note in found.notes)


def test_repeated_questions_are_kept_once_and_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "question": " what IS  0+0? ", "answer": "9"}, ROWS[1]]
    found = load(config(path=str(write(tmp_path / "a.jsonl", rows)), test=5), seed=0)
    assert len(found.train) + len(found.test) == 20
    assert any("2 rows repeat" in note and "1 of them with another answer" in note for note in found.notes)


def test_a_question_on_both_sides_is_refused(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.jsonl", [ROWS[3], ROWS[4]])
    with pytest.raises(FemError, match=r"2 questions are both among the 20 train and the 2 test problems"):
        load(config(path=str(train), test_path=str(test)), seed=0)


def test_a_group_on_both_sides_is_refused(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", ROWS[:10]), write(tmp_path / "b.jsonl", ROWS[12:13])
    with pytest.raises(FemError, match=r"1 groups have rows both in train and in test, such as 't2'"):
        load(config(path=str(train), test_path=str(test), group="topic"), seed=0)


def test_inputs_are_the_digests_of_the_files(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", ROWS[:10]), write(tmp_path / "b.jsonl", ROWS[10:])
    found = load(config(path=str(train), test_path=str(test)), seed=0)
    assert found.inputs == {"train": digest_file(train), "test": digest_file(test)}


LISTED = ["bank", "library", "mall"]
LABELLED = [{"label": str(i + 1), "text": text} for i, text in enumerate(LISTED)]


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (LISTED, "B", "B"),
        (LISTED, "b", "B"),
        (LISTED, "answer3", "C"),
        (LISTED, "Library", "B"),
        (LABELLED, "2", "B"),
        (LABELLED, 3, "C"),
        ({"text": LISTED, "label": ["A", "B", "C"]}, "C", "C"),
        (json.dumps(LISTED), "mall", "C"),
        (["2", "1"], "1", "B"),
        ([{"label": "x", "text": "B"}, {"label": "B", "text": "x"}], "B", "B"),
    ],
)
def test_choice_answers_become_letters(tmp_path: Path, choices: Any, answer: Any, letter: str) -> None:
    rows = [{"q": {"stem": f"Where {i}?", "choices": choices}, "answerKey": answer} for i in range(2)]
    found = load(
        config(
            path=str(write(tmp_path / "a.jsonl", rows)),
            test=1,
            question="q.stem",
            choices="q.choices",
            answer="answerKey",
            answer_kind="choice",
        ),
        seed=0,
    )
    assert found.train[0].answer == letter
    assert found.train[0].choices is not None and len(found.train[0].choices) >= 2


def test_a_row_may_have_no_gold_rationale_though_the_column_must_be_there(tmp_path: Path) -> None:
    told = [row | {"why": why} for row, why in zip(ROWS[:4], ["So.", None, " ", "Thus."], strict=True)]
    found = load(config(path=str(write(tmp_path / "a.jsonl", told)), test=1, rationale="why"), seed=0)
    rationales = {problem.question: problem.rationale for problem in [*found.train, *found.test]}
    assert [rationales[row["question"]] for row in told] == ["So.", None, None, "Thus."]
    with pytest.raises(FemError, match="has no column 'wy'"):
        load(config(path=str(tmp_path / "a.jsonl"), test=1, rationale="wy"), seed=0)


GOOD = {"question": "Q?", "answer": "1", "options": ["a", "b"]}


@pytest.mark.parametrize(
    ("bad", "fields", "message"),
    [
        ("{", {}, "line 2 is not valid JSON"),
        ("[1]", {}, "line 2 is a list where a record"),
        ({"answer": "1"}, {}, "line 2 has no column 'question'; at 'question' there is: answer"),
        ({**GOOD, "question": " "}, {}, "line 2: the column 'question' is empty"),
        ({**GOOD, "answer": None}, {}, "line 2: the column 'answer' is empty"),
        ({**GOOD, "answer": ["x"]}, {}, "line 2: the column 'answer' is a list"),
        ({**GOOD, "answer": "many"}, {"answer_kind": "number"}, "line 2: the answer 'many' is no number"),
        ({**GOOD, "answer": "a\nb"}, {}, "line 2: the answer 'a\\nb' has several lines"),
        ({**GOOD, "answer": "..."}, {}, "line 2: '...' reads as no answer"),
        ({**GOOD, "answer": "x"}, {"answer_pattern": "([0-9]+)"}, "line 2: problems.answer_pattern '([0-9]+)' finds"),
        ({**GOOD, "answer": "z"}, {"answer_kind": "choice"}, "line 2: the answer 'z' is not among the choices"),
        (
            {**GOOD, "answer": "A", "options": ["b", "a"]},
            {"answer_kind": "choice"},
            "line 2: the answer 'A' may be any of several",
        ),
        ({**GOOD, "options": ["a"]}, {"answer_kind": "choice"}, "line 2: 'options' must be a list of 2 to 26"),
        ({**GOOD, "options": ["a", None]}, {"answer_kind": "choice"}, "line 2: a choice in 'options' has no text"),
        ({**GOOD, "question": "\ud800"}, {}, "line 2: the column 'question' holds half a character"),
        ({**GOOD}, {"question": "question.stem"}, "has no column 'question.stem'; at 'stem' there is: a str"),
    ],
)
def test_an_unreadable_row_is_named_by_file_and_line(
    tmp_path: Path, bad: Any, fields: dict[str, Any], message: str
) -> None:
    good = {**GOOD, "answer": "a" if fields.get("answer_kind") == "choice" else "1"}
    second = bad if isinstance(bad, str) else json.dumps(bad)
    (tmp_path / "a.jsonl").write_text(json.dumps(good) + "\n" + second + "\n", encoding="utf-8")
    extra = {"choices": "options"} if fields.get("answer_kind") == "choice" else {}
    with pytest.raises(FemError, match=re.escape(message)):
        load(config(path=str(tmp_path / "a.jsonl"), test=1, **fields, **extra), seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[\n{"a": 1},\n{', "line 3 is not valid JSON"),
        ("a.json", b"{}", "holds a dict where a JSON array"),
        ("a.csv", b"question,answer\nx,1,2\n", "line 2 has more fields"),
        ("a.csv", b"question,answer\nx\n", "line 2 has no column 'answer'"),
        ("a.csv", b'question,answer\n"x" y,1\n', "line 2 is not valid CSV"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl", b'{"question": "\xff"}', "is not UTF-8 (near line 1)"),
        ("a.txt", b"x", "is none of .jsonl, .json, .csv, .parquet"),
        ("a.jsonl", b"", "gave no train problems"),
    ],
)
def test_an_unreadable_file_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FemError, match=re.escape(message)):
        load(config(path=str(tmp_path / name), test=1), seed=0)


def test_a_missing_file_and_an_empty_side_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FemError, match=r"There is no file"):
        load(config(path=str(tmp_path / "none.jsonl"), test=1), seed=0)
    with pytest.raises(FemError, match=r"gave no train problems"):
        load(config(path=str(write(tmp_path / "a.jsonl", ROWS)), test=20), seed=0)


def test_a_bad_pattern_is_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", ROWS))
    with pytest.raises(FemError, match=r"is no regular expression"):
        load(config(path=path, test=1, answer_pattern="("), seed=0)
    with pytest.raises(FemError, match=r"has no group"):
        load(config(path=path, test=1, answer_pattern="x"), seed=0)


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS[:15]), folder / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[15:]), folder / "test-00000-of-00001.parquet")
    return folder


def test_a_hub_data_set_is_read_by_split(hub_folder: Path) -> None:
    found = load(config(hub=str(hub_folder), test_split="test"), seed=0)
    assert (len(found.train), len(found.test)) == (15, 5)
    assert found.inputs.keys() == {"train", "test"}
    assert found.inputs == load(config(hub=str(hub_folder), test_split="test"), seed=9).inputs
    assert any("hub_revision" in note for note in found.notes)


def test_a_missing_split_or_data_set_is_refused(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FemError, match=r"split 'dev', cannot be loaded"):
        load(config(hub=str(hub_folder), test_split="dev"), seed=0)
    with pytest.raises(FemError, match=r"cannot be loaded.*Check problems.hub"):
        load(config(hub=str(hub_folder / "none"), test=1), seed=0)

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(FemError, match=r"Couldn't reach the Hub"):
        load(config(hub="openai/gsm8k", hub_config="main", test=1), seed=0)


def test_the_hub_is_asked_for_the_named_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def serve(name: str, hub_config: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        asked.append((name, hub_config, split, revision))
        return datasets.Dataset.from_list(ROWS[:5] if split == "train" else ROWS[5:])

    monkeypatch.setattr(datasets, "load_dataset", serve)
    found = load(config(hub="a/b", hub_config="main", hub_revision="abc", test_split="test"), seed=0)
    assert asked == [("a/b", "main", "train", "abc"), ("a/b", "main", "test", "abc")]
    assert (len(found.train), found.notes) == (5, [])


def test_gsm8k(shared_data: Path) -> None:
    found = load(
        config(
            path=str(shared_data / "gsm8k" / "train.jsonl"),
            test_path=str(shared_data / "gsm8k" / "test.jsonl"),
            answer_pattern=r"####\s*(.+)$",
            answer_kind="number",
            rationale="answer",
        ),
        seed=0,
    )
    assert (len(found.train), len(found.test)) == (7473, 1319)
    for problem in found.train[:500]:
        parsed = parse_answer(f"{problem.rationale}\nAnswer: {problem.answer}", problem)
        assert parsed is not None and is_correct(parsed.answer, problem)


def test_number_parsing_agrees_with_gsm8k_marks(shared_data: Path) -> None:
    """OpenAI's marks are for the number behind ``A:``; measured agreement: 5,276 of 5,276."""
    found = load(
        config(
            path=str(shared_data / "gsm8k" / "train.jsonl"),
            test_path=str(shared_data / "gsm8k" / "test.jsonl"),
            answer_pattern=r"####\s*(.+)$",
            answer_kind="number",
        ),
        seed=0,
    )
    problems = {p.question: p for p in found.test}
    agree = disagree = 0
    with gzip.open(shared_data / "gsm8k" / "example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            problem = problems[row["question"].strip()]
            for value in row.values():
                if isinstance(value, dict):
                    text = re.sub(r"^A: ", "Answer: ", value["solution"], flags=re.MULTILINE)
                    parsed = parse_answer(text, problem)
                    right = parsed is not None and is_correct(parsed.answer, problem)
                    agree += right == value["is_correct"]
                    disagree += right != value["is_correct"]
    assert (agree, disagree) == (4 * 1319, 0)


@pytest.mark.parametrize(("folder", "train"), [("openbookqa", "train.json.gz"), ("arc_challenge", "train.json")])
def test_inline_choices_are_labels(shared_data: Path, folder: str, train: str) -> None:
    found = load(
        config(path=str(shared_data / folder / train), test=100, question="instruction", answer_kind="label"), seed=0
    )
    labels = {p.answer for p in found.train}
    assert {"answer1", "answer2", "answer3", "answer4"} <= labels <= {f"answer{i}" for i in range(1, 6)}
    baseline = majority_baseline(found.train, found.test)
    assert baseline is not None and 0.1 < baseline < 0.5


def test_commonsenseqa(shared_data: Path) -> None:
    found = load(
        config(
            path=str(shared_data / "commonsenseqa" / "train_rand_split.jsonl.gz"),
            test_path=str(shared_data / "commonsenseqa" / "dev_rand_split.jsonl"),
            question="question.stem",
            choices="question.choices",
            answer="answerKey",
            answer_kind="choice",
        ),
        seed=0,
    )
    assert (len(found.train), len(found.test)) == (9741, 1221)
    for problem in found.test[:300]:
        assert problem.choices is not None
        index = "ABCDE".index(problem.answer)
        for written in (problem.answer, f"({problem.answer.lower()})", f"{problem.answer}) {problem.choices[index]}"):
            parsed = parse_answer(f"Answer: {written}", problem)
            assert parsed is not None and is_correct(parsed.answer, problem)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hub": "a/b", "test_path": "mine.jsonl", "test": 5}, r"test_path is a file beside problems\.path"),
        ({"path": "rows.jsonl", "test_split": "validation", "test": 3}, r"test_split is a split of problems\.hub"),
        ({"path": "rows.jsonl", "test_split": "validation"}, r"with problems\.path name a test_path"),
    ],
)
def test_test_problems_of_another_kind_of_place_are_not_left_out_in_silence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**changes)
