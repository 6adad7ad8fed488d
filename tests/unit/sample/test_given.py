"""Control arms: what is given, who is left out, and that nothing is drawn."""

from pathlib import Path

import pyarrow as pa
import pytest

from fem_core.config import Exemplar, FilterConfig, PromptsConfig, SchemeConfig
from fem_core.config_files import parse_config
from fem_core.errors import FemError
from fem_core.filter.rationales import filter_attempts
from fem_core.preview import check_lengths, examples
from fem_core.problems.problem import Problem, make_problem
from fem_core.problems.verifier import Verifier
from fem_core.prompts import Message, messages
from fem_core.sample.given import given_attempts, given_by, given_stats, refuse_without_rationale
from fem_core.sample.schemes import plan_of
from fem_core.schemas import RATIONALES
from flows.calibrate import training_tokens

ANSWER_ONLY, HUMAN = SchemeConfig(name="answer_only"), SchemeConfig(name="human")
PROBLEMS = [
    make_problem("2 + 2?", "4", "number", rationale=" Two and two.\n"),
    make_problem("Which?", "B", "choice", choices=("red", "blue"), rationale="It is not red.\nAnswer: A"),
    make_problem("3 + 3?", "6", "number"),
    make_problem("Sky?", "blue", "label", rationale="  "),
]


def given(scheme: SchemeConfig, problems: list[Problem] = PROBLEMS):  # type: ignore[no-untyped-def]
    with Verifier() as verifier:
        return given_attempts(scheme, problems, verifier)


def test_answer_only_is_the_answer_line_of_every_problem() -> None:
    rows = given(ANSWER_ONLY).to_pylist()
    assert [row["text"] for row in rows] == ["Answer: 4", "Answer: B", "Answer: 6", "Answer: blue"]
    assert {row["verdict"] for row in rows} == {"accepted"} and {row["prompt_kind"] for row in rows} == {"given"}
    assert sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows) == 0


def test_human_is_the_gold_rationale_before_the_answer_line() -> None:
    table = given(HUMAN)
    assert table["text"].to_pylist() == ["Two and two.\nAnswer: 4", "It is not red.\nAnswer: A\nAnswer: B"]
    assert table["verdict"].to_pylist() == ["accepted"] * 2, "the last answer line counts"
    assert given_stats(HUMAN, PROBLEMS, [table]) == {
        "draws": 0,
        "given": 2,
        "problems_accepted": 2,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "without_rationale": 2,
        "without_rationale_ids": [PROBLEMS[2].problem_id, PROBLEMS[3].problem_id],
    }


def test_a_generated_problem_is_judged_by_its_scorer() -> None:
    from fem_core.problems.registry import load

    config = parse_config({"problems": {"source": "reasoning_gym", "dataset": "gcd", "train": 3, "test": 3}})
    rows = given(ANSWER_ONLY, load(config.problems, 0).train).to_pylist()
    assert [row["verdict"] for row in rows] == ["accepted"] * 3


def test_they_are_trained_on_with_the_plain_prompt() -> None:
    prompts = PromptsConfig(exemplars=(Exemplar(question="1 + 1?", rationale="one more", answer="2"),))
    prompts = prompts.model_copy(update={"sample_exemplars": 1})
    found = filter_attempts(PROBLEMS, [given(HUMAN)], FilterConfig(), prompts)
    assert found.stats["utilization"] == 0.5 and found.stats["verdicts"] == {"accepted": 2}
    rows = {row["problem_id"]: row for row in found.rationales.to_pylist()}
    first = rows[PROBLEMS[0].problem_id]
    assert first["prompt"] == messages(prompts, PROBLEMS[0], "plain", 0)
    assert first["completion"] == [{"role": "assistant", "content": "Two and two.\nAnswer: 4"}]
    assert first["prompt_kind"] == "given"


def test_without_a_gold_rationale_there_is_nothing_human() -> None:
    refuse_without_rationale(HUMAN, PROBLEMS)
    refuse_without_rationale(ANSWER_ONLY, PROBLEMS[2:])
    with pytest.raises(FemError, match=r"no training problem has one. Name their column in problems.rationale"):
        refuse_without_rationale(HUMAN, PROBLEMS[2:])


def test_what_draws_nothing_has_no_plan() -> None:
    for name in ("answer_only", "human", "none"):
        assert plan_of(SchemeConfig(name=name)).stages == () and plan_of(SchemeConfig(name=name)).budget == 0
    assert given_by({"scheme": HUMAN.model_dump()}) == HUMAN
    strange = [{"scheme": {"name": "pps"}}, {}, {"scheme": "human"}, {"scheme": {"name": "human", "budget": "many"}}]
    assert [given_by(config) for config in strange] == [None] * 4, "no record makes it fail"


class Letters:
    """A tokenizer of single characters, in place of a model's."""

    def ids(self, chat: list[Message]) -> list[int]:
        return [0] * len(self.text(chat))

    def closed(self, text: str) -> list[int]:
        return [0] * (len(text) + 1)

    def text(self, chat: list[Message], open_assistant: bool = True) -> str:
        return "".join(message["content"] for message in chat)


def config_of(name: str, **changes: object):  # type: ignore[no-untyped-def]
    base = {"problems": {"source": "table", "path": "x", "test": 1}, "prompts": {"plain": "{question}"}}
    return parse_config({**base, "scheme": {"name": name}, "sample": {"max_tokens": 1}, **changes})


def test_the_preview_shows_what_is_trained_on() -> None:
    def texts(name: str) -> list[str]:
        return [one.training for one in examples(config_of(name), PROBLEMS, Letters())]  # type: ignore[arg-type]

    assert texts("answer_only")[0] == "2 + 2?Answer: 4"
    assert texts("human")[0] == "2 + 2?Two and two.\nAnswer: 4" and texts("human")[2] == ""
    assert texts("none") == [""] * 3
    assert texts("pps")[2] == "3 + 3?<rationale>\nAnswer: 6"


def test_a_hint_that_cannot_be_given_stops_only_schemes_that_show_it() -> None:
    def hinted(name: str, problems: list[Problem] = PROBLEMS, **prompts: str) -> list[str]:
        config = config_of(name, prompts={"plain": "{question}", **prompts})
        check_lengths(config, problems, problems, Letters(), 900)  # type: ignore[arg-type]
        return [one.hinted for one in examples(config, problems, Letters())]  # type: ignore[arg-type]

    solution = {"hint": "solution", "hinted": "{question} {solution}"}
    candidates = {"hint": "candidates", "hinted": "{question} {candidates}"}
    for name in ("rs", "none", "answer_only", "human"):
        assert hinted(name, **solution)[::2] == ["2 + 2?  Two and two.\n", ""]
        assert hinted(name, PROBLEMS[1:2], **candidates) == [""], "two choices"
        assert hinted(name, hinted="{question} {answer}")[0] == "2 + 2? 4", "what can be shown stays shown"
    for name in ("star", "pps"):
        with pytest.raises(FemError, match="has no gold rationale"):
            hinted(name, **solution)


def test_a_given_completion_that_does_not_fit_is_refused_before_the_run() -> None:
    long = [make_problem("x?", "1", "number", rationale="so " * 40)]
    for name, fits in (("answer_only", True), ("human", False), ("pps", True)):
        config = config_of(name, prompts={"plain": "{question}", "hinted": "{question}{answer}"})
        if fits:
            assert check_lengths(config, long, long, Letters(), 60).longest_sequence < 20  # type: ignore[arg-type]
            continue
        with pytest.raises(
            FemError, match=r"1 of 1 training texts do not fit the 60 tokens of the model's context .* 13\d"
        ):
            check_lengths(config, long, long, Letters(), 60)  # type: ignore[arg-type]


def test_rows_that_train_max_length_does_not_allow_are_refused_before_the_run() -> None:
    def checked(name: str, allowed: int) -> None:
        config = config_of(name, sample={"max_tokens": 20}, train={"max_length": allowed})
        check_lengths(config, long, long, Letters(), 900)  # type: ignore[arg-type]

    long = [make_problem("x?", "one" * 9, "text")]
    checked("rs", 22)  # x? and 20 tokens
    with pytest.raises(FemError, match=r"train\.max_length is 21, and a training prompt of 2 tokens .* has 22\. Rows"):
        checked("rs", 21)
    checked("answer_only", 37)  # x?Answer: oneone...
    with pytest.raises(FemError, match="1 of 1 training texts do not fit the 36 tokens"):
        checked("answer_only", 36)


def test_training_rows_are_as_long_as_their_prompt_and_what_is_given() -> None:
    """A given completion records no tokens, as nobody drew it."""
    config = config_of("human")
    table = given(HUMAN)
    rationales = filter_attempts(PROBLEMS, [table], FilterConfig(), config.prompts).rationales
    texts = ["2 + 2?Two and two.\nAnswer: 4", messages(config.prompts, PROBLEMS[1], "plain", 0)[-1]["content"]]
    wanted = len(texts[0]) + len(texts[1]) + len("It is not red.\nAnswer: A\nAnswer: B")
    assert training_tokens(rationales, Letters()) == wanted  # type: ignore[arg-type]
    drawn = rationales.set_column(
        rationales.schema.get_field_index("prompt_kind"), RATIONALES.field("prompt_kind"), pa.array(["plain"] * 2)
    )
    assert training_tokens(drawn, Letters()) == len("2 + 2?") + len(texts[1])  # type: ignore[arg-type]


def test_the_real_gold_rationales_are_all_accepted(shared_data: Path) -> None:
    from fem_core.problems.registry import load

    problems = {
        "source": "table",
        "path": str(shared_data / "gsm8k" / "train.jsonl"),
        "answer_pattern": r"####\s*(.+)$",
        "rationale": "answer",
        "answer_kind": "number",
        "test": 20,
        "train": 300,
    }
    table = given(HUMAN, load(parse_config({"problems": problems}).problems, 0).train)
    assert table.num_rows == 300 and set(table["verdict"].to_pylist()) == {"accepted"}


def test_the_bound_needs_room_for_its_hinted_prompts_and_its_direct_answers() -> None:
    def longest(problems: list[Problem], context: int = 900, **evaluate: object) -> int:
        prompts = {"plain": "{question}", "hinted": "{question} {answer}!"}
        config = config_of("rs", prompts=prompts, evaluate=evaluate)
        return check_lengths(config, problems, problems, Letters(), context).longest_sequence  # type: ignore[arg-type]

    short, long = [make_problem("x?", "1", "text")], [make_problem("x?", "one" * 9, "text")]
    assert longest(short) == len("x?") + 1
    assert longest(short, bound={}) == len("x?Answer: 1") + 1
    assert longest(long, bound={}) == len("x?Answer: ") + 27 + 1
    with pytest.raises(FemError, match=r"1 of 1 hinted prompts of evaluate\.bound do not fit"):
        longest(long, 30, bound={})
