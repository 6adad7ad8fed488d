"""From a comparison's file to its runs: which there are, what they are called, and what is refused in which words."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fem_core import families
from fem_core.compare.cells import beside, cells
from fem_core.compare.comparison import load_comparison
from fem_core.errors import FemError

ROOT = Path(__file__).parents[3]
BASE: dict[str, Any] = {"problems": {"source": "reasoning_gym", "dataset": "gcd"}, "scheme": {"budget": 2}}


def loaded(folder: Path, data: object, **more: Any) -> Any:
    (folder / "which.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return load_comparison(folder / "which.yaml", **more)


def test_runs_are_all_combinations_with_the_seed_outermost(tmp_path: Path) -> None:
    axes = {"scheme.name": ["rs", "pps"], "seed": [3, 4], "problems.train": [50]}
    found = cells(loaded(tmp_path, {"base": BASE, "axes": axes}))
    assert [cell.name for cell in found] == [
        "which.name-rs.train-50.seed-3",
        "which.name-pps.train-50.seed-3",
        "which.name-rs.train-50.seed-4",
        "which.name-pps.train-50.seed-4",
    ]
    assert [(c.arm, c.seed, c.config.scheme.name, c.config.problems.train) for c in found[1:3]] == [
        ("name-pps.train-50", 3, "pps", 50),
        ("name-rs.train-50", 4, "rs", 50),
    ]
    assert found[0].config.name == found[0].name
    assert {cell.config.scheme.budget for cell in found} == {2}, "what no axis names is the base's"


def test_arms_have_names_and_combine_with_axes_but_for_what_is_excluded(tmp_path: Path) -> None:
    data = {
        "name": "n",
        "base": {**BASE, "seed": 7},
        "arms": [{"name": "few", "set": {"scheme.budget": 1}}, {"name": "many", "set": {"scheme.budget": 4}}],
        "axes": {"train.method": ["full", "lora"]},
        "exclude": [{"arm": "many", "train.method": "lora"}],
    }
    found = cells(loaded(tmp_path, data))
    assert [cell.name for cell in found] == [
        f"n.{arm}.seed-7" for arm in ("few.method-full", "few.method-lora", "many.method-full")
    ]
    assert [cell.config.scheme.budget for cell in found] == [1, 1, 4]


def test_a_comparison_without_arms_or_axes_is_its_base(tmp_path: Path) -> None:
    (cell,) = cells(loaded(tmp_path, {"base": BASE}))
    assert (cell.name, cell.arm) == ("which.base.seed-0", "base")


@pytest.mark.parametrize(
    ("field", "value", "tag"),
    [
        ("train.learning_rate", 1e-4, "learning_rate-0.0001"),
        ("prompts.system", "Be kind / brief", "system-Be_kind___brief"),
        ("prompts.system", "x" * 40, "system-x{40}"),
        ("prompts.system", "x" * 41, "system-[0-9a-f]{8}"),
        ("scheme.budget", None, "budget-none"),
        ("train.lora", {"r": 8}, "lora-[0-9a-f]{8}"),
        ("evaluate.exemplar_baseline", False, "exemplar_baseline-false"),
        ("problems.params.min words", 3, "min_words-3"),
    ],
)
def test_values_are_names_whatever_they_hold(tmp_path: Path, field: str, value: object, tag: str) -> None:
    (cell,) = cells(loaded(tmp_path, {"base": BASE, "axes": {field: [value]}}))
    assert re.fullmatch(rf"which\.{tag}\.seed-0", cell.name)


def test_axes_that_end_alike_keep_their_whole_name(tmp_path: Path) -> None:
    axes = {"sample.max_tokens": [8], "evaluate.max_tokens": [9]}
    (cell,) = cells(loaded(tmp_path, {"base": BASE, "axes": axes}))
    assert cell.arm == "sample-max_tokens-8.evaluate-max_tokens-9"
    axes = {"problems.params.min words": [1], "problems.params.min_words": [2]}
    (cell,) = cells(loaded(tmp_path, {"base": BASE, "axes": axes}))
    assert cell.arm == "problems-params-min_words-1.problems-params-min_words-2", "apart by place, whatever the words"


def test_the_base_may_be_a_file_beside_it_and_is_changed_by_overrides(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({**BASE, "name": "one", "store": "here"}))
    (cell,) = cells(loaded(tmp_path, {"base": "one.yaml"}, overrides=["iterations=2"], store="there"))
    assert (cell.name, cell.config.iterations, cell.config.store) == ("which.base.seed-0", 2, "there")


def test_equal_numbers_of_rationales_are_a_cap_on_every_run(tmp_path: Path) -> None:
    data = {"base": BASE, "axes": {"scheme.name": ["rs", "pps"]}, "fair": "accepted", "accepted": 30}
    assert {cell.config.filter.max_rationales for cell in cells(loaded(tmp_path, data))} == {30}
    plain = cells(loaded(tmp_path, {**data, "fair": "draws", "accepted": None}))
    assert {cell.config.filter.max_rationales for cell in plain} == {None}


WORDS = {"plain": "{question} Mine.", "hinted": "{question} Mine, as {answer} is right."}


def test_a_family_or_a_hint_of_an_arm_goes_before_the_bases_words(tmp_path: Path) -> None:
    base = {**BASE, "prompts": {"family": "number", **WORDS}}
    found = cells(loaded(tmp_path, {"base": base, "axes": {"prompts.family": ["general", "number"]}}))
    for cell, family in zip(found, ("general", "number"), strict=True):
        words = families.read(family)
        assert (cell.config.prompts.plain, cell.config.prompts.hinted) == (words.plain, words.hinted["answer"])
    axes = {"prompts.hint": ["answer", "candidates"]}
    for cell in cells(loaded(tmp_path, {"base": base, "axes": axes})):
        prompts = cell.config.prompts
        assert prompts.plain == WORDS["plain"], "a hint is words of the hinted prompt alone"
        assert prompts.hinted == families.read("number").hinted[prompts.hint]
    arms = [{"name": "own", "set": {"prompts.plain": "{question} Own.", "prompts.family": "general"}}]
    (cell,) = cells(loaded(tmp_path, {"base": base, "arms": arms}))
    assert cell.config.prompts.plain == "{question} Own.", "the arm's own words stay"


def test_runs_that_only_places_tell_apart_are_the_same_run(tmp_path: Path) -> None:
    for field, values in {"train.micro_batch_size": [4, 8], "sample.engine.max_num_seqs": [8, 16]}.items():
        with pytest.raises(FemError, match=r"seed-0 are the same run under two names\. Exclude one of them"):
            cells(loaded(tmp_path, {"base": BASE, "axes": {field: values}}))
    assert len(cells(loaded(tmp_path, {"base": BASE, "axes": {"model.source": ["a", "b"]}}))) == 2
    table = {"problems": {"source": "table", "answer_kind": "number", "test": 4}}
    assert len(cells(loaded(tmp_path, {"base": table, "axes": {"problems.path": ["a.jsonl", "b.jsonl"]}}))) == 2


def test_runs_of_the_same_problems_model_and_seed_share_what_the_first_made(tmp_path: Path) -> None:
    axes = {"scheme.name": ["rs", "pps"], "problems.train": [50, 60], "seed": [0, 1]}
    found = cells(loaded(tmp_path, {"base": BASE, "axes": axes}))
    assert {name: cell.name for name, cell in beside(found).items()} == {
        cell.name: cell.name.replace("pps", "rs") for cell in found
    }


def test_a_run_begins_beside_the_one_before_it_that_has_most_steps_alike(tmp_path: Path) -> None:
    pps = {"scheme.name": "pps", "scheme.budget": 2}
    arms = [
        {"name": "rs", "set": {"scheme.name": "rs"}},
        {"name": "pps", "set": pps},
        {"name": "hotter", "set": pps | {"sample.temperature": 1.5}},
        {"name": "shorter", "set": pps | {"filter.max_rationale_words": 30}},
        {"name": "longer", "set": pps | {"train.epochs": 2}},
        {"name": "both", "set": pps | {"filter.max_rationale_words": 30, "train.epochs": 2}},
        {"name": "looked", "set": pps | {"filter.blind": True}},
        {"name": "sure", "set": {"scheme.name": "star", "evaluate.draws": 4}},
        {"name": "sure-too", "set": {"scheme.name": "rs", "scheme.budget": 1, "evaluate.draws": 4}},
    ]
    found = cells(loaded(tmp_path, {"base": BASE, "arms": arms}))
    chosen = beside(found)
    assert {cell.arm: chosen[cell.name].arm for cell in found} == {
        "rs": "rs",
        "pps": "rs",
        "hotter": "rs",
        "shorter": "pps",
        "longer": "pps",  # the same rationales, trained on otherwise
        "both": "shorter",
        "looked": "rs",  # its draws are looked at, and so are others
        "sure": "rs",
        "sure-too": "sure",  # the same base evaluation
    }


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"axes": {"scheme.nam": ["rs"]}}, "Unknown field 'scheme.nam' under axes; did you mean 'scheme.name'?"),
        ({"axes": {"sed": [1]}}, "Unknown field 'sed' under axes; did you mean 'seed'?"),
        ({"axes": {"seed.of": [1]}}, "'seed' is no section, so 'seed.of' under axes names no field."),
        ({"axes": {"store": ["a"]}}, "'store' under axes cannot differ between the runs of a comparison."),
        ({"axes": {"seed": []}}, "The axis 'seed' has no values. Give it one or more, or leave it out."),
        ({"axes": {"seed": 3}}, "axes.seed: Input should be a valid tuple (got 3)."),
        ({"axes": {"seed": [1, 1]}}, "2 runs of the comparison would be called 'which.base.seed-1'."),
        ({"axes": {"scheme.name": ["rs", "gibbs"]}}, "which.name-gibbs.seed-0 is no valid configuration: scheme.name:"),
        ({"arms": [{"name": "a", "set": {"schem": 1}}]}, "Unknown field 'schem' under arm 'a'; did you mean 'scheme'?"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "2 runs of the comparison would be called 'which.a.seed-0'."),
        ({"arms": [{"name": "a"}, {"name": "b"}]}, "which.a.seed-0 and which.b.seed-0 are the same run under two names."),
        ({"arms": [{"name": "a b"}]}, "arms.0.name: String should match pattern"),
        ({"arms": [{"nam": "a"}]}, "Unknown key 'arms.0.nam'; did you mean 'arms.0.name'?"),
        ({"arms": [{"name": "a", "set": {"seed": 1}}]}, "'seed' is set by arm 'a' and is an axis."),
        ({"exclude": [{"seed": 1}]}, "exclude names 'seed', which is no axis. Known here: arm."),
        ({"axes": {"seed": [0]}, "exclude": [{"seed": 1}]}, "exclude {'seed': 1} matches no run."),
        ({"axes": {"seed": [0]}, "exclude": [{"seed": 0}]}, "Everything in the comparison 'which' is excluded."),
        ({"fair": "accepted"}, "fair: accepted and accepted: N go together"),
        ({"accepted": 3}, "fair: accepted and accepted: N go together"),
        (
            {"fair": "accepted", "accepted": 3, "axes": {"filter.max_rationales": [2]}},
            "which.max_rationales-2.seed-0 sets filter.max_rationales, and so does fair: accepted.",
        ),
        ({"axis": {}}, "Unknown key 'axis'; did you mean 'axes'?"),
        ({"base": 3}, "is neither a mapping of settings nor the path of a configuration file."),
        ({"base": "nowhere.yaml"}, "There is no configuration file"),
        ({"base": None}, "is neither a mapping of settings"),
        ({"name": "n" * 60, "arms": [{"name": "a" * 60}]}, "is too long for the name of a run."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_the_way_out(tmp_path: Path, data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FemError) as caught:
        cells(loaded(tmp_path, {"base": BASE, **data}))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_comparison_without_a_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FemError, match="base is missing; add it"):
        loaded(tmp_path, {"axes": {"seed": [1]}})


def test_the_parameters_of_a_generator_may_be_an_axis(tmp_path: Path) -> None:
    found = cells(loaded(tmp_path, {"base": BASE, "axes": {"problems.params.max_num": [5, 9]}}))
    assert [cell.config.problems.params for cell in found] == [{"max_num": 5}, {"max_num": 9}]


def test_the_shipped_comparison_is_what_it_says() -> None:
    found = cells(load_comparison(ROOT / "configs" / "small" / "needle.yaml"))
    arms = ("answer-only", "rs-1", "rs-4", "star", "pps")
    assert [cell.name for cell in found[:5]] == [f"needle.{arm}.seed-0" for arm in arms]
    assert {cell.seed for cell in found} == {0, 1, 2} and len(found) == 15
    assert {(cell.config.problems.train, cell.config.iterations) for cell in found} == {(160, 3)}
    assert [(cell.config.scheme.name, cell.config.scheme.budget) for cell in found[1:5]] == [
        ("rs", 1), ("rs", 4), ("star", None), ("pps", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "controls"),
    [("gsm8k", ["answer-only", "human"]), ("helpsteer", ["answer-only"]), ("openbookqa", ["answer-only"])],
)
def test_a_shipped_comparison_has_its_controls_and_three_seeds(name: str, controls: list[str]) -> None:
    found = cells(load_comparison(ROOT / "configs" / "small" / f"{name}.yaml"))
    arms = [*controls, "rs-1", "rs-4", "star", "pps"]
    assert [cell.name for cell in found] == [f"small-{name}.{arm}.seed-{seed}" for seed in range(3) for arm in arms]
    assert {len(cell.config.prompts.exemplars) for cell in found} == {2}
