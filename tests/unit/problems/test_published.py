"""The published sets, from files of their real forms and from hub folders: the same rows give the same problems."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from fem_core.config import places_of
from fem_core.config_files import parse_config
from fem_core.config_problems import SOURCES, Problems, PublishedProblems
from fem_core.errors import FemError
from fem_core.problems import registry
from fem_core.problems.answers import is_correct, majority_baseline, parse_answer
from fem_core.problems.problem import Problem
from fem_core.problems.registry import ProblemSet
from flows.commands.resume import with_overrides


def config(source: str, **fields: Any) -> Any:
    return TypeAdapter(Problems).validate_python({"source": source, **fields})


def load(problems: Any, seed: int) -> ProblemSet:
    """As the registry loads; the section knows of every set how its answers are compared."""
    found = registry.load(problems, seed)
    assert {p.answer_kind for p in (*found.train, *found.test)} == {problems.answer_kind}
    return found


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def ids(found: ProblemSet) -> set[str]:
    return {p.problem_id for p in (*found.train, *found.test)}


def letters_mean(problem: Problem) -> str:
    """The text that y* stands for."""
    assert problem.choices is not None
    return problem.choices["ABCDE".index(problem.answer)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a local folder that datasets reads as it reads the hub: one Parquet file per split."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def made(**splits: list[Any]) -> str:
        folder = tmp_path / "hub" / "data"
        folder.mkdir(parents=True)
        for split, rows in splits.items():
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
        return str(folder.parent)

    return made


# -- HelpSteer2 -----------------------------------------------------------------------------------------------------------


def rated(prompt: str, response: str, **ratings: Any) -> dict[str, Any]:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return {"prompt": prompt, "response": response, **dict.fromkeys(names, 2), **ratings}


RATED = [rated(f"Prompt {i // 2}?", f"Response {i}.", helpfulness=i % 5, verbosity=4) for i in range(20)]


def test_a_rating_is_asked_for_with_its_meaning_prompt_and_response(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", RATED)
    found = load(config("helpsteer2", path=path, test=4, attribute="verbosity"), seed=0)
    problem = found.train[0]
    assert (problem.answer_kind, problem.answer) == ("rating", "4")
    assert re.search(r"Prompt \d\?", problem.question) and re.search(r"Response \d+\.", problem.question)
    assert "how much the response says" in problem.question and "from 0 to 4" in problem.question
    assert parse_answer("Answer: 5", problem) is None, "off the scale is unparsable, not wrong"
    other = load(config("helpsteer2", path=path, test=4), seed=0)
    assert {p.answer for p in (*other.train, *other.test)} == {"0", "1", "2", "3", "4"}
    assert not ids(found) & ids(other)


def test_all_responses_to_a_prompt_are_on_one_side(tmp_path: Path) -> None:
    found = load(config("helpsteer2", path=write(tmp_path / "a.jsonl", RATED), test=6), seed=1)
    assert (len(found.train), len(found.test)) == (14, 6)
    assert not {p.group for p in found.train} & {p.group for p in found.test}


def test_a_prompt_on_both_sides_stays_on_the_test_side(hub: Callable[..., str]) -> None:
    validation = [rated("prompt  3?", "Another.", helpfulness=0), rated("Prompt 99?", "Response.")]
    found = load(config("helpsteer2", hub=hub(train=RATED, validation=validation)), seed=0)
    assert (len(found.train), len(found.test)) == (18, 2)
    assert any("train: 2 problems share a group with test problems" in note for note in found.notes)


def test_helpsteer_from_hub_and_from_a_file_are_the_same_problems(hub: Callable[..., str], tmp_path: Path) -> None:
    train, validation = RATED[:16], RATED[16:]
    files = {"path": write(tmp_path / "t.jsonl", train), "test_path": write(tmp_path / "v.jsonl", validation)}
    first = load(config("helpsteer2", **files), seed=0)
    second = load(config("helpsteer2", hub=hub(train=train, validation=validation)), seed=0)
    assert [p.problem_id for p in first.train] == [p.problem_id for p in second.train]
    assert [p.problem_id for p in first.test] == [p.problem_id for p in second.test]


def test_turns_of_a_conversation_are_shown_with_their_speakers(tmp_path: Path) -> None:
    prompt = "Hello\n<extra_id_1>Assistant\nHi!\n<extra_id_1>User\nBye"
    path = write(tmp_path / "a.jsonl", [rated(prompt, "So long."), rated("Other", "Text")])
    found = load(config("helpsteer2", path=path, test=1), seed=0)
    asked = "".join(p.question for p in (*found.train, *found.test))
    assert "Prompt:\nHello\n\nAssistant:\nHi!\n\nUser:\nBye\n\nResponse:\nSo long." in asked


def test_rows_that_cannot_serve_are_counted_by_their_reason(tmp_path: Path) -> None:
    rows = [*RATED, rated("Long?", "x" * 3000), rated("Empty?", " "), rated("None?", "Text", helpfulness=None)]
    found = load(config("helpsteer2", path=write(tmp_path / "a.jsonl", rows), test=4, max_characters=2000), seed=0)
    assert len(found.train) + len(found.test) == 20
    assert found.notes == [
        "rows: 1 rows were left out because it has no rating of helpfulness.",
        "rows: 1 rows were left out because response is empty.",
        "rows: 1 rows were left out because the question has more than 2000 characters.",
    ]


def test_an_empty_cell_is_no_rating(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    cells = ["Why?,Text,", *(f"Prompt {i}?,Text,3" for i in range(4))]
    path.write_text("\n".join(["prompt,response,helpfulness", *cells]) + "\n")
    found = load(config("helpsteer2", path=str(path), test=1), seed=0)
    assert len(found.train) == 3
    assert found.notes == ["rows: 1 rows were left out because it has no rating of helpfulness."]


def test_of_several_ratings_of_a_response_the_seed_keeps_one_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = [rated(f"Prompt {i}?", "Text.", helpfulness=n) for i in range(60) for n in range(3)]
    found, backwards, other = (
        load(config("helpsteer2", path=write(tmp_path / f"{name}.jsonl", listed), test=10), seed)
        for name, listed, seed in (("a", rows, 0), ("b", rows[::-1], 0), ("c", rows, 1))
    )
    assert len(ids(found)) == 60 and ids(found) == ids(backwards) != ids(other)
    assert min(Counter(p.answer for p in (*found.train, *found.test)).values()) > 8, "not the first, nor the lowest"
    assert found.notes == [
        "rows: 120 rows repeat a question and were left out, 120 of them with another answer than the one kept."
    ]


def test_a_question_with_many_ratings_is_not_chosen_more_often(tmp_path: Path) -> None:
    many = [rated(f"Often {i}?", "Text.", helpfulness=n) for i in range(100) for n in range(5)]
    path = write(tmp_path / "a.jsonl", [*many, *(rated(f"Once {i}?", "Text.") for i in range(100))])
    found = load(config("helpsteer2", path=path, test=1, train=80), seed=0)
    assert 28 < sum("Often" in p.question for p in found.train) < 52


def test_helpsteer_of_the_real_files(shared_data: Path) -> None:
    path = str(shared_data / "helpsteer" / "nvidia_HelpSteer_sample.jsonl")
    found = load(config("helpsteer2", path=path, test=100), seed=0)
    assert (len(found.train), len(found.test)) == (366, 100)
    assert not {p.group for p in found.train} & {p.group for p in found.test}
    assert Counter(p.answer for p in (*found.train, *found.test)).most_common(1)[0][0] == "3"
    path = str(shared_data / "helpsteer2" / "helpsteer2_sample_10.jsonl")
    assert len(load(config("helpsteer2", path=path, test=3), seed=0).train) == 7


# -- Summarize from Feedback ----------------------------------------------------------------------------------------------


def post(i: int) -> dict[str, Any]:
    return {"id": f"t3_{i}", "post": f"Post {i}.\nMore.", "title": f"Title {i}", "subreddit": "tifu", "article": None}


def compared(i: int, choice: int, first: str = "good", second: str = "bad") -> dict[str, Any]:
    summaries = [{"text": f" {text} summary {i}", "policy": "sup", "note": None} for text in (first, second)]
    return {"info": post(i), "summaries": summaries, "choice": choice, "worker": "w", "batch": "b", "split": "train",
            "extra": {"confidence": 7}}  # fmt: skip


def rated_summary(i: int, **axes: Any) -> dict[str, Any]:
    rated = {"overall": 1 + i % 7, "accuracy": 7, "coverage": 2, "coherence": None, **axes}
    return {"info": post(i), "summary": {"text": f"Summary {i}", "policy": "ref", "note": None, "axes": rated},
            "worker": "w", "batch": "b", "split": "valid1"}  # fmt: skip


def test_the_better_summary_is_y_wherever_it_stands(tmp_path: Path) -> None:
    rows = [compared(i, 0) for i in range(60)]
    found = load(config("tldr", path=write(tmp_path / "a.jsonl", rows), test=20), seed=0)
    problems = [*found.train, *found.test]
    assert {p.answer_kind for p in problems} == {"choice"}
    assert all(letters_mean(p).startswith("good summary") for p in problems)
    assert 15 < sum(p.answer == "A" for p in problems) < 45, "the order does not follow from the row"
    assert "Subreddit: r/tifu\nTitle: Title" in problems[0].question
    swapped = [compared(i, 1, "bad", "good") for i in range(60)]
    again = load(config("tldr", path=write(tmp_path / "b.jsonl", swapped), test=20), seed=0)
    assert ids(again) == ids(found), "a pair listed the other way round is the same pair"
    assert ids(load(config("tldr", path=write(tmp_path / "a.jsonl", rows), test=20), seed=1)) != ids(found)


def test_both_orders_ask_each_pair_twice_on_the_same_side(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [compared(i, i % 2) for i in range(30)])
    found = load(config("tldr", path=path, test=10, train=21, both_orders=True), seed=0)
    assert (len(found.train), len(found.test)) == (20, 10)
    for side in (found.train, found.test):
        for first, second in zip(side[::2], side[1::2], strict=True):
            assert first.group == second.group
            assert first.choices is not None and first.choices[::-1] == second.choices
            assert {first.answer, second.answer} == {"A", "B"} and letters_mean(first) == letters_mean(second)


def test_comparisons_of_a_post_are_on_one_side_and_news_are_left_out(tmp_path: Path) -> None:
    news = {**compared(77, 0), "info": {"id": "n", "article": "News.", "post": None, "title": None}}
    rows = [compared(i // 3, 0, f"good {i}") for i in range(30)]
    found = load(config("tldr", path=write(tmp_path / "a.jsonl", [*rows, news]), test=9), seed=0)
    assert not {p.group for p in found.train} & {p.group for p in found.test}
    assert "rows: 1 rows were left out because they hold no post." in found.notes


def test_a_post_under_two_ids_is_on_one_side(tmp_path: Path) -> None:
    again = {**compared(1, 0, "better"), "info": {**post(1), "id": "t3_x", "post": "post 1.  More."}}
    files = {"path": write(tmp_path / "a.jsonl", [again, compared(2, 0)]),
             "test_path": write(tmp_path / "b.jsonl", [compared(1, 0)])}  # fmt: skip
    found = load(config("tldr", **files), seed=0)
    assert len(found.train) == 1 and "Post 2." in found.train[0].question
    assert "train: 1 problems share a group with test problems and were left out." in found.notes


def test_a_title_that_is_a_number_is_shown_as_text(tmp_path: Path) -> None:
    numbered = {**compared(1, 0), "info": {**post(1), "title": 1984}}
    found = load(config("tldr", path=write(tmp_path / "a.jsonl", [numbered, compared(2, 0)]), test=1), seed=0)
    assert any("\nTitle: 1984\n" in p.question for p in (*found.train, *found.test))


def test_a_summary_is_rated_on_an_axis(tmp_path: Path) -> None:
    rows = [rated_summary(i) for i in range(14)]
    path = write(tmp_path / "a.jsonl", rows)
    found = load(config("tldr", form="axis", path=path, test=4), seed=0)
    assert Counter(p.answer for p in (*found.train, *found.test)) == {str(n): 2 for n in range(1, 8)}
    problem = found.train[0]
    assert problem.answer_kind == "rating" and parse_answer("Answer: 8", problem) is None
    assert "Summary:\nSummary" in problem.question and "from 1 to 7" in problem.question
    with pytest.raises(FemError, match="gave no train problems"):
        load(config("tldr", form="axis", axis="coherence", path=path, test=4), seed=0)


@pytest.mark.parametrize(
    ("form", "splits"), [("comparisons", ("train", "validation")), ("axis", ("validation", "test"))]
)
def test_summaries_are_read_from_the_hubs_parquet_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, splits: tuple[str, str]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [compared(i, i % 2) if form == "comparisons" else rated_summary(i) for i in range(12)]
    files: list[str] = []
    for split, part in zip(splits, (rows[:8], rows[8:]), strict=True):
        (tmp_path / "hub" / form / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(part), tmp_path / "hub" / form / split / "0000.parquet")
        files.append(write(tmp_path / f"{split}.jsonl", part))
    served = load(config("tldr", form=form, hub=str(tmp_path / "hub")), seed=0)
    local = load(config("tldr", form=form, path=files[0], test_path=files[1]), seed=0)
    assert [p.problem_id for p in served.train] == [p.problem_id for p in local.train]
    assert [p.problem_id for p in served.test] == [p.problem_id for p in local.test]
    assert any("names no commit" in note for note in served.notes)


@pytest.mark.parametrize(
    ("revision", "at"), [({}, "refs%2Fconvert%2Fparquet"), ({"hub_revision": "0a" * 20}, "0a" * 20)]
)
def test_a_script_on_the_hub_is_read_from_its_converted_branch_or_a_commit_of_it(
    monkeypatch: pytest.MonkeyPatch, revision: dict[str, str], at: str
) -> None:
    asked: list[Any] = []

    def serve(kind: str, *, data_files: dict[str, str], split: str) -> datasets.Dataset:
        asked.append((kind, data_files[split], split))
        return datasets.Dataset.from_list([compared(len(asked), 0)])

    monkeypatch.setattr(datasets, "load_dataset", serve)
    found = load(config("tldr", **revision), seed=0)
    assert any("names no commit" in note for note in found.notes) == (not revision)
    root = f"hf://datasets/openai/summarize_from_feedback@{at}/comparisons"
    assert asked == [
        ("parquet", f"{root}/train/*.parquet", "train"),
        ("parquet", f"{root}/validation/*.parquet", "validation"),
    ]


def test_a_table_judged_by_a_model_is_taken_with_a_note(shared_data: Path, tmp_path: Path) -> None:
    path = str(shared_data / "tldr" / "oai1b.csv_judged.csv.gz")
    found = load(config("tldr", path=path, test=200), seed=0)
    assert (len(found.train), len(found.test)) == (800, 200)
    assert any("choice of a language model, not of people" in note for note in found.notes)
    assert any("945 rows were left out because preferred is empty" in note for note in found.notes)
    problem = found.train[0]
    title = re.search(r"^Title: (.*)$", problem.question, re.MULTILINE)
    body = re.search(r"Post:\n(.*)\n\nThe two summaries:$", problem.question, re.DOTALL)
    subreddit = re.search(r"r/(.*)", problem.question)
    assert title and body and subreddit and problem.choices
    info = {"id": "x", "title": title[1], "post": body[1], "subreddit": subreddit[1]}
    row = {"info": info, "summaries": [{"text": t} for t in problem.choices], "choice": "AB".index(problem.answer)}
    other = load(config("tldr", path=write(tmp_path / "a.jsonl", [row, compared(1, 0)]), test=1), seed=0)
    assert problem.problem_id in ids(other), "the set's own form of the row is the same problem"


# -- multiple choice ------------------------------------------------------------------------------------------------------

STEMS = [(f"Where is {i}?", [f"w{i}", f"x{i}", f"y{i}", f"z{i}"], i % 4) for i in range(8)]


def labelled(texts: list[str], labels: str = "ABCDE") -> dict[str, list[str]]:
    return {"text": texts, "label": list(labels[: len(texts)])}


FORMS: dict[str, Callable[[str, list[str], int], dict[str, Any]]] = {
    "openbookqa": lambda q, c, n: {"id": "7", "question_stem": q, "choices": labelled(c), "answerKey": "ABCD"[n]},
    "arc": lambda q, c, n: {"id": "7", "question": q, "choices": labelled(c, "1234"), "answerKey": "1234"[n]},
    "mmlu": lambda q, c, n: {"question": q, "subject": "anatomy", "choices": c, "answer": n},
    "commonsenseqa": lambda q, c, n: {"id": "7", "question": q, "question_concept": "place", "choices": labelled(c),
                                      "answerKey": "ABCD"[n]},
}  # fmt: skip
"""A row as the hub has it, of a question, its choices and the index of the right one."""

TEST_SPLITS = {"openbookqa": ("train", "test"), "arc": ("train", "test"), "mmlu": ("auxiliary_train", "test"),
               "commonsenseqa": ("train", "validation")}  # fmt: skip


def inline(question: str, choices: list[str], right: int) -> dict[str, Any]:
    listed = " ".join(f"Answer{i}: {text}" for i, text in enumerate(choices, start=1))
    names = "/".join(f"answer{i + 1}" for i in range(len(choices)))
    return {
        "instruction": f"Please choose the correct answer to the question: {question}\n\n{listed}\n\nAnswer format: {names}",
        "input": "", "output": f"the correct answer is answer{right + 1}", "answer": f"answer{right + 1}",
    }  # fmt: skip


@pytest.mark.parametrize("source", FORMS)
def test_hub_form_and_file_form_are_the_same_problems(source: str, hub: Callable[..., str], tmp_path: Path) -> None:
    train, test = TEST_SPLITS[source]
    rows = [FORMS[source](*stem) for stem in STEMS]
    served = load(config(source, hub=hub(**{train: rows[:5], test: rows[5:]}), hub_config=None), seed=0)
    assert (len(served.train), len(served.test)) == (5, 3)
    for problem in (*served.train, *served.test):
        _, choices, right = next(stem for stem in STEMS if stem[0] == problem.question)
        assert (problem.choices, problem.answer) == (tuple(choices), "ABCD"[right])
    nested = [
        {"id": "1", "answerKey": "ABCD"[n], "question": {"stem": q, "choices": [
            {"label": label, "text": text} for label, text in zip("ABCD", c, strict=True)]}}
        for q, c, n in STEMS
    ]  # fmt: skip
    for other in ([inline(*stem) for stem in STEMS], nested, rows):
        files = {"path": write(tmp_path / "t.jsonl", other[:5]), "test_path": write(tmp_path / "v.jsonl", other[5:])}
        again = load(config(source, **files), seed=0)
        assert [p.problem_id for p in again.train] == [p.problem_id for p in served.train]
        assert [p.problem_id for p in again.test] == [p.problem_id for p in served.test]


def test_a_subject_of_mmlu_is_trained_on_with_its_validation_split() -> None:
    def splits(**fields: Any) -> tuple[str, str, str]:
        made = config("mmlu", **fields)
        return made.hub_config, made.train_split, made.test_split

    assert splits() == splits(hub_config="all") == ("all", "auxiliary_train", "test")
    assert splits(hub_config="anatomy") == ("anatomy", "validation", "test")
    assert splits(hub_config="anatomy", train_split="dev") == ("anatomy", "dev", "test")


def test_shuffled_choices_follow_from_seed_and_content(tmp_path: Path) -> None:
    rows = [FORMS["openbookqa"](*stem) for stem in STEMS]
    path, other = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", rows[::-1])
    plain = load(config("openbookqa", path=path, test=3), seed=0)
    first = load(config("openbookqa", path=path, test=3, shuffle=True), seed=0)
    assert ids(first) == ids(load(config("openbookqa", path=other, test=3, shuffle=True), seed=0))
    assert ids(first) != ids(load(config("openbookqa", path=other, test=3, shuffle=True), seed=1))
    assert not ids(first) <= ids(plain)
    assert {p.group for p in first.test} == {p.group for p in plain.test}, "the split does not change"
    meant = {q: c[n] for q, c, n in STEMS}
    assert all(letters_mean(p) == meant[p.question] for p in (*first.train, *first.test))


def test_a_question_with_its_choices_in_another_order_stays_on_the_test_side(tmp_path: Path) -> None:
    rows = [FORMS["arc"](*stem) for stem in STEMS]
    turned = FORMS["arc"](STEMS[0][0], STEMS[0][1][::-1], 3)
    files = {"path": write(tmp_path / "a.jsonl", rows), "test_path": write(tmp_path / "b.jsonl", [turned])}
    found = load(config("arc", **files), seed=0)
    assert (len(found.train), len(found.test)) == (7, 1)


def test_a_question_in_another_case_stays_on_the_test_side(tmp_path: Path) -> None:
    rows = [FORMS["arc"](*stem) for stem in STEMS]
    other = FORMS["arc"](STEMS[0][0].upper(), ["w0", "X0", "y0", "Z0"], 0)
    files = {"path": write(tmp_path / "a.jsonl", [*rows, FORMS["arc"]("Which?", ["b", "A"], 0)]),
             "test_path": write(tmp_path / "b.jsonl", [other, FORMS["arc"]("Which?", ["a", "B"], 1)])}  # fmt: skip
    found = load(config("arc", **files), seed=0)
    assert (len(found.train), len(found.test)) == (7, 2)


@pytest.mark.parametrize(
    ("source", "files", "sizes", "baseline"),
    [
        ("openbookqa", ("openbookqa/train.json.gz", "openbookqa/test.json"), (4938, 500), 0.276),
        ("arc", ("arc_challenge/train.json", "arc_challenge/test.json"), (1118, 1172), 0.265),
        ("commonsenseqa", ("commonsenseqa/train_rand_split.jsonl.gz", "commonsenseqa/dev_rand_split.jsonl"),
         (9741, 1221), 0.206),
    ],
)  # fmt: skip
def test_the_real_files_of_the_choice_sets(
    shared_data: Path, source: str, files: tuple[str, str], sizes: tuple[int, int], baseline: float
) -> None:
    path, test_path = (str(shared_data / file) for file in files)
    found = load(config(source, path=path, test_path=test_path), seed=0)
    assert (len(found.train), len(found.test)) == sizes
    assert majority_baseline(found.train, found.test) == pytest.approx(baseline, abs=5e-4)
    for problem in found.test[:200]:
        for written in (problem.answer, f"({problem.answer}) {letters_mean(problem)}"):
            parsed = parse_answer(f"Answer: {written}", problem)
            assert parsed is not None and is_correct(parsed.answer, problem)


def test_real_rows_of_the_inline_form_are_the_hubs_problems(shared_data: Path, tmp_path: Path) -> None:
    """Ten rows of OpenBookQA, written down again as the hub has them."""
    path = shared_data / "openbookqa" / "test.json"
    rows = json.loads(path.read_text(encoding="utf-8"))[:10]
    as_hub = []
    for row in rows:
        found = re.fullmatch(
            r".*?question: (.*)\n\nAnswer1: (.*) Answer2: (.*) Answer3: (.*) Answer4: (.*)\n\nAnswer format: .*",
            row["instruction"],
            re.DOTALL,
        )
        assert found is not None
        right = int(row["answer"].removeprefix("answer")) - 1
        as_hub.append(FORMS["openbookqa"](found[1], list(found.groups()[1:]), right))
    raw = load(config("openbookqa", path=write(tmp_path / "raw.jsonl", rows), test=3), seed=0)
    hub_form = load(config("openbookqa", path=write(tmp_path / "hub.jsonl", as_hub), test=3), seed=0)
    assert [p.problem_id for p in raw.train] == [p.problem_id for p in hub_form.train]
    assert len(ids(raw)) == 10 and ids(raw) == ids(hub_form)


# -- GSM8K ----------------------------------------------------------------------------------------------------------------


def test_gsm8k_gives_numbers_and_rationales_without_marks(shared_data: Path, hub: Callable[..., str]) -> None:
    files = {"path": str(shared_data / "gsm8k/train.jsonl"), "test_path": str(shared_data / "gsm8k/test.jsonl")}
    found = load(config("gsm8k", **files), seed=0)
    assert (len(found.train), len(found.test)) == (7473, 1319)
    assert all(p.rationale and "<<" not in p.rationale and "####" not in p.rationale for p in found.train)
    clips = next(p for p in found.train if p.question.startswith("Natalia sold clips"))
    assert clips.answer == "72"
    assert clips.rationale is not None and clips.rationale.startswith("Natalia sold 48/2 = 24 clips in May.\n")
    lines = (shared_data / "gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    rows = [json.loads(line) for line in lines]
    served = load(config("gsm8k", hub=hub(train=rows[:15], test=rows[15:]), hub_config=None), seed=0)
    assert ids(served) <= {p.problem_id for p in found.train}


# -- pairs ----------------------------------------------------------------------------------------------------------------


def test_pairs_of_both_forms_and_their_ties(tmp_path: Path) -> None:
    autoj = [
        {"scenario": "s", "label": i % 3, "prompt": f"Do {i}", "response 1": "one\ntwo", "response 2": f"three {i}"}
        for i in range(12)
    ]
    llmbar = [{"input": f"Do {i}", "output_1": "one\ntwo", "output_2": f"three {i}", "label": 1 + i % 3 % 2}
              for i in range(12) if i % 3 != 2]  # fmt: skip
    path = write(tmp_path / "autoj.jsonl", autoj)
    dropped = load(config("pairs", path=path, test=3), seed=0)
    assert len(ids(dropped)) == 8
    assert any("4 rows were left out because both responses were judged equally good" in note for note in dropped.notes)
    assert ids(dropped) == ids(load(config("pairs", path=write(tmp_path / "l.jsonl", llmbar), test=3), seed=0))
    kept = load(config("pairs", path=path, test=3, ties="keep"), seed=0)
    problems = [*kept.train, *kept.test]
    assert Counter(p.answer == "C" for p in problems) == {True: 4, False: 8}
    for problem in problems:
        number = int(re.findall(r"Do (\d+)", problem.question)[0])
        first_is_one = problem.question.index("one\ntwo") < problem.question.index("three")
        wanted = {0: "A" if first_is_one else "B", 1: "B" if first_is_one else "A", 2: "C"}
        assert problem.answer == wanted[number % 3]
        assert problem.choices == ("Response A", "Response B", "Both are equally good")


def test_the_real_pairs(shared_data: Path) -> None:
    found = load(config("pairs", path=str(shared_data / "autoj/testdata_pairwise.jsonl.gz"), test=300), seed=0)
    assert (len(found.train), len(found.test)) == (717, 300)
    total = 0
    for file in sorted((shared_data / "llmbar").glob("*.json")):
        rows = json.loads(file.read_text(encoding="utf-8"))
        made = load(config("pairs", path=str(file), test=10, both_orders=True), seed=0)
        assert len(ids(made)) == len(made.train) + len(made.test) <= 2 * len(rows)
        total += len(rows)
    assert total > 600


# -- mistakes -------------------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[str, dict[str, Any], Any, str]] = [
    ("helpsteer2", {}, rated("p", "r", helpfulness=5), "line 1: the helpfulness 5 is no whole number from 0 to 4"),
    ("helpsteer2", {}, {"prompt": "p", "response": "r"}, "line 1 has no column 'helpfulness'"),
    ("helpsteer2", {}, rated("p", "r", helpfulness="x"), "the helpfulness 'x' is no whole number"),
    ("tldr", {}, compared(1, 2), "line 1: 'summaries' and 'choice' are not two summaries and 0 or 1, but 2 of"),
    ("tldr", {}, {**compared(1, 0), "info": "x"}, "line 1: 'info' is no record, but 'x'"),
    ("tldr", {}, {**compared(1, 0), "summaries": ["a", "b"]}, "line 1: a summary has no text, but is 'a'"),
    ("tldr", {"form": "axis"}, rated_summary(1, overall=9), "line 1: the overall 9 is no whole number from 1 to 7"),
    ("tldr", {"form": "axis"}, {**compared(1, 0), "summary": "x"}, "line 1: 'summary' has no 'axes', but is 'x'"),
    ("tldr", {}, {"preferred": "ours", "query": "POST: x"}, "line 1: 'query' is not of the form 'SUBREDDIT: "),
    (
        "tldr", {}, {"preferred": "both", "query": "SUBREDDIT: r/a\n\nTITLE: b\n\nPOST: c\n\nTL;DR:"},
        "line 1: 'preferred' is 'both', not 'reference' or 'ours'",
    ),
    ("arc", {}, {"instruction": "Which? A or B", "answer": "answer1"}, "do not hold a question with choices 'Answer1: …'"),
    ("arc", {}, inline("Q?", ["a", "b"], 2), "do not hold a question with choices 'Answer1: …'"),
    ("mmlu", {}, FORMS["mmlu"]("Q?", ["a", "b"], 7), "line 1: the answer '7' is not among the choices"),
    ("gsm8k", {}, {"question": "q", "answer": "It is 5."}, "line 1: there is no number behind '####' in the answer"),
    ("pairs", {}, {"input": "i", "output_1": "a", "output_2": "b", "label": 3}, "line 1: the label 3 is none of 1, 2"),
    ("pairs", {}, {"input": "i", "output_1": "a", "output_2": "b", "label": [1]}, "the label [1] is none of 1, 2"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "fields", "row", "sentence"), MISTAKES)
def test_a_row_of_another_form_is_named(
    tmp_path: Path, source: str, fields: dict[str, Any], row: Any, sentence: str
) -> None:
    with pytest.raises(FemError) as caught:
        load(config(source, path=write(tmp_path / "a.jsonl", [row]), test=1, **fields), seed=0)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("source", "row", "why"),
    [
        ("mmlu", FORMS["mmlu"]("Q?", ["a", " "], 0), "a choice has no text"),
        ("tldr", compared(1, 0, "same", "same"), "both texts are the same"),
        ("tldr", {**compared(1, 0), "summaries": [{"text": " "}, {"text": "b"}]}, "a summary is empty"),
        ("pairs", {"input": "i", "output_1": "a", "output_2": "", "label": 1}, "output_2 is empty"),
    ],
)
def test_a_row_that_cannot_serve_is_left_out(tmp_path: Path, source: str, row: Any, why: str) -> None:
    good = {
        "mmlu": [FORMS["mmlu"](*stem) for stem in STEMS],
        "tldr": [compared(i, 0) for i in range(2, 5)],
        "pairs": [{"input": f"i {i}", "output_1": "a", "output_2": "b", "label": 1} for i in range(3)],
    }[source]
    found = load(config(source, path=write(tmp_path / "a.jsonl", [row, *good]), test=1), seed=0)
    assert len(ids(found)) == len(good)
    assert found.notes == [f"rows: 1 rows were left out because {why}."]


@pytest.mark.parametrize(
    "problems",
    [
        {"source": "tldr", "form": "axis"},
        {"source": "helpsteer2", "path": "a.jsonl", "test": 5},
        {"source": "math500", "test": 50},
        {"source": "gsm8k", "hub": "b/c", "hub_config": None, "test_split": None, "test": 50},
    ],
)
def test_the_record_of_a_run_gives_its_configuration_back(problems: dict[str, Any]) -> None:
    made = parse_config({"problems": problems})
    again = parse_config(with_overrides(made.identity(), places_of(made), []))
    assert (again.problems, again.digest()) == (made.problems, made.digest())


def test_every_source_has_a_module_and_the_published_ones_their_place_on_the_hub() -> None:
    members = Problems.__origin__.__args__  # type: ignore[attr-defined]
    sources = {member.model_fields["source"].annotation.__args__[0]: member for member in members}
    assert sources.keys() == SOURCES.keys()
    for source, member in sources.items():
        if issubclass(member, PublishedProblems) and source != "pairs":
            made = config(source, test=5)
            assert made.hub == member.HUB["hub"] and made.train_split
            assert config(source, path="x.jsonl", test=5).hub is None, "a local copy does not claim to be the hub's"
