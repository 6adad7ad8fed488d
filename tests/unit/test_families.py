"""Prompt families: texts in files, copied into the configuration when it is loaded."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from fem_core import families
from fem_core.config import FilterConfig, PromptsConfig, RunConfig, identity_of, places_of
from fem_core.config_files import parse_config
from fem_core.errors import FemError
from fem_core.families import Hint
from fem_core.preview import described
from flows.commands.resume import with_overrides

SMALL = {"problems": {"source": "reasoning_gym", "dataset": "gcd"}}
GIVEN = {"system": "S", "plain": "{question}", "hinted": "{question} {answer}"}


def run_of(**prompts: object) -> RunConfig:
    return parse_config({**SMALL, "prompts": prompts})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Families that a test may change."""
    for file in families.FOLDER.glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(families, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.parametrize("hint", get_args(Hint))
@pytest.mark.parametrize("name", families.names())
def test_every_family_has_prompts_for_every_hint(name: str, hint: str) -> None:
    prompts, words = run_of(family=name, hint=hint).prompts, families.read(name)
    assert (prompts.system, prompts.plain, prompts.hinted) == (words.system, words.plain, words.hinted[hint])
    assert prompts.plain.splitlines()[-1] == prompts.hinted.splitlines()[-1], "both end with the same answer line"
    last = prompts.plain.splitlines()[-1]
    if name == "general":
        assert last == "Answer: <answer>"
    else:
        assert re.fullmatch(r'End with a line that begins with "Answer:" followed by the [a-z]+ alone\.', last)
        assert "<" not in prompts.plain + prompts.hinted, "small models copy a placeholder, and it is no answer"


def test_no_family_is_the_general_one() -> None:
    default, words = PromptsConfig(), families.read("general")
    assert (default.system, default.plain, default.hinted) == (words.system, words.plain, words.hinted["answer"])
    assert run_of(hint="solution").prompts.hinted == words.hinted["solution"]


def test_the_documentation_of_the_field_names_every_family() -> None:
    description = PromptsConfig.model_fields["family"].description
    assert description is not None and all(f"``{name}``" in description for name in families.names())


def test_what_is_given_goes_before_the_family() -> None:
    prompts = run_of(family="judge_pair", plain="Mine: {question}", system=None).prompts
    assert (prompts.plain, prompts.system) == ("Mine: {question}", None)
    assert prompts.hinted == families.read("judge_pair").hinted["answer"]
    assert described(prompts) == "family judge_pair with another system and plain; hint: answer"
    assert described(PromptsConfig()) == "no family; hint: answer"


def test_the_text_and_not_the_name_is_the_identity(folder: Path) -> None:
    named = run_of(family="number")
    words = families.read("number")
    written = run_of(system=words.system, plain=words.plain, hinted=words.hinted["answer"])
    assert named.digest() == written.digest() and places_of(named)["prompts.family"] == "number"
    file = folder / "number.yaml"
    file.write_text(file.read_text().replace("Work it out", "Work this out"))
    assert run_of(family="number").digest() != named.digest()


def test_a_recorded_configuration_keeps_its_texts_whatever_became_of_the_file(folder: Path) -> None:
    config = run_of(family="judge_rating", hint="candidates")
    for file in folder.iterdir():
        file.unlink()
    again = parse_config(with_overrides(config.identity(), places_of(config), ()))
    assert again.prompts == config.prompts and again.digest() == config.digest()
    assert described(again.prompts) == "no family; hint: candidates"


def test_a_fork_that_asks_for_another_family_or_hint_gets_its_words() -> None:
    config = run_of(family="number", plain="Mine: {question}")

    def forked(*overrides: str) -> PromptsConfig:
        return parse_config(with_overrides(config.identity(), places_of(config), overrides)).prompts

    number, rating = families.read("number"), families.read("judge_rating")
    weaker = forked("prompts.hint=candidates")
    assert (weaker.plain, weaker.hinted) == ("Mine: {question}", number.hinted["candidates"])
    other = forked("prompts.family=judge_rating", "prompts.system=Mine")
    assert (other.system, other.plain, other.hinted) == ("Mine", rating.plain, rating.hinted["answer"])
    assert forked("scheme.name=rs") == config.prompts


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ({"family": "judge_ratin"}, "there is no prompt family 'judge_ratin'; did you mean 'judge_rating'?"),
        ({"family": "../general"}, "there is no prompt family '../general'"),
        ({"family": "xyz"}, "known: general, judge_pair, judge_rating, multiple_choice, number"),
        ({"family": 3}, "prompts.family: Input should be a valid string"),
        ({"hint": "all"}, "prompts.hint: Input should be 'answer', 'candidates'"),
        ({"hint": "candidates", "hinted": "{question} {answer}"}, "must contain {question} and {candidates}"),
        ({"hint": "candidates", "hinted": "{question} {candidates} {answer}"}, "must not contain {answer}; remove it"),
        ({"hint": "solution", "hinted": "{question} {answer}"}, "must contain {question} and {solution}"),
        ({"hinted": "{question} {answer} {solution}"}, "must not contain {solution}; remove it"),
        ({"hinted": "{question}"}, "must contain {question} and {answer}"),
        ({"plain": "{question} {candidates}"}, "must not contain {candidates}; put it into prompts.hinted"),
        ({"plain": "{question} {solution}"}, "must not contain {solution}; put it into prompts.hinted"),
    ],
)
def test_a_mistake_is_one_sentence(prompts: dict[str, object], sentence: str) -> None:
    with pytest.raises(FemError) as caught:
        run_of(**prompts)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("plain: [", "number.yaml is not valid YAML"),
        ("- plain", "must hold plain, hinted and, if wanted, system, and nothing else"),
        ("{plain: a, hinted: {}, more: b}", "and nothing else"),
        ("{plain: a, hinted: {answer: b}}", "one prompt for each of answer, candidates, answer_with"),
        ("{plain: 3, hinted: {answer: b, candidates: b, answer_with_reason_request: b, solution: b}}", "is no text"),
    ],
)
def test_a_spoilt_file_is_named(folder: Path, text: str, sentence: str) -> None:
    (folder / "number.yaml").write_text(text)
    with pytest.raises(FemError, match="prompt_families/number") as caught:
        run_of(family="number")
    assert sentence in str(caught.value)


def test_the_package_takes_the_files_along() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["fem_core"]
    taken = {file for pattern in patterns for file in families.FOLDER.parent.glob(pattern)}
    assert taken == {
        file for file in families.FOLDER.parent.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")
    }


def test_added_fields_take_part_in_the_identity_only_when_they_are_set() -> None:
    assert (
        "hint" not in identity_of(PromptsConfig()) and identity_of(PromptsConfig(hint="solution"))["hint"] == "solution"
    )
    assert run_of(**GIVEN).digest() != run_of(**{**GIVEN, "hint": "answer_with_reason_request"}).digest()
    assert FilterConfig.model_validate(identity_of(FilterConfig())) == FilterConfig()
