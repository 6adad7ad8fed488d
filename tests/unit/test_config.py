"""The configuration: what it refuses and in which words, and what is part of its identity."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fem_core.config import RunConfig, places_of
from fem_core.config_files import load_config, parse_config
from fem_core.errors import FemError

SMALL = {"problems": {"source": "reasoning_gym", "dataset": "gcd"}}


def written(tmp_path: Path, data: object) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({**SMALL, "schem": {}}, "Unknown key 'schem'; did you mean 'scheme'?"),
        ({**SMALL, "scheme": {"nam": "rs"}}, "Unknown key 'scheme.nam'; did you mean 'scheme.name'?"),
        ({**SMALL, "sample": {"engine": {"dtyp": "auto"}}}, "did you mean 'sample.engine.dtype'?"),
        ({"problems": {"source": "reasoning_gym", "datset": "gcd"}}, "did you mean 'problems.dataset'?"),
        (
            {**SMALL, "scheme": {"name": "gibbs"}},
            "scheme.name: Input should be 'rs', 'star', 'pps', 'answer_only', 'human' or 'none'",
        ),
        ({**SMALL, "iterations": -1}, "iterations: Input should be greater than or equal to 0 (got -1)"),
        ({**SMALL, "iterations": 0}, "iterations is 0, which only scheme.name none has; set it to 1 at least."),
        (
            {**SMALL, "scheme": {"name": "answer_only"}, "filter": {"min_rationale_words": 3}},
            "filter.min_rationale_words 3 would reject them all; set it to 0.",
        ),
        ({**SMALL, "prompts": {"plain": "{question} {answer}"}}, "must not contain {answer}"),
        ({**SMALL, "prompts": {"sample_exemplars": 1}}, "1 exemplars are asked for, but prompts.exemplars holds 0"),
        ({**SMALL, "train": {"batch_size": 12, "micro_batch_size": 8}}, "not a multiple of micro_batch_size"),
        (
            {**SMALL, "filter": {"min_rationale_words": 9, "max_rationale_words": 8}},
            "max_rationale_words 8 is below min_rationale_words 9, so nothing could be kept",
        ),
        ({**SMALL, "filter": {"near_duplicate": 0}}, "filter.near_duplicate: Input should be greater than 0"),
        (
            {**SMALL, "filter": {"label_balance": 0.5}},
            "filter.label_balance: Input should be greater than or equal to 1",
        ),
        ({**SMALL, "filter": {"leak": "drop"}}, "filter.leak: Input should be 'keep', 'mark' or 'reject' (got 'drop')"),
        ({"problems": {"source": "table", "test": 5}}, "name either problems.path"),
        ({"problems": {"source": "table", "path": "a.jsonl"}}, "say where the test problems come from"),
        ({"problems": {"source": "helpsteer2", "atribute": "x"}}, "did you mean 'problems.attribute'?"),
        ({"problems": {"source": "gsm8k", "rationale": "x"}}, "'problems.rationale'; did you mean 'problems.train'?"),
        ({"problems": {"source": "openbookqa", "attribute": "x"}}, "Unknown key 'problems.attribute'; known here:"),
        ({"problems": {"source": "gsm8k", "pairs": 1}}, "Unknown key 'problems.pairs'; "),
        ({**SMALL, "pairs": 1}, "Unknown key 'pairs'; "),
        ({"problems": {"source": "helpsteer2", "attribute": "x"}}, "problems.attribute: Input should be 'helpfulness'"),
        ({"problems": {"source": "gsm9k"}}, "problems: Input tag 'gsm9k' found using 'source' does not match any"),
        ({"problems": {"source": "gsm8k", "path": "a.jsonl"}}, "say where the test problems come from"),
        ({"problems": {"source": "gsm8k", "path": "a.jsonl", "hub": "b/c", "test": 5}}, "not both"),
        ({"problems": {"source": "gsm8k", "test_path": "a.jsonl"}}, "problems.test_path goes with problems.path"),
        ({"problems": {"source": "gsm8k", "train_split": None}}, "name problems.train_split, the hub's split"),
        ({"problems": {"source": "math500"}}, "problems.test, how many to split off"),
        ({"problems": {"source": "pairs", "test": 5}}, "name either problems.path"),
        ({}, "problems is missing; add it."),
        ({**SMALL, "name": "../etc"}, "name: String should match pattern"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_way_out(tmp_path: Path, data: object, sentence: str) -> None:
    with pytest.raises(FemError) as caught:
        load_config(written(tmp_path, data))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_broken_yaml_are_said(tmp_path: Path) -> None:
    with pytest.raises(FemError, match="no configuration file"):
        load_config(tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(FemError, match="not valid YAML"):
        load_config(broken)
    broken.write_text("- a\n- b\n")
    with pytest.raises(FemError, match="mapping"):
        load_config(broken)


def test_names_on_the_command_line_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, SMALL), name="2026-10-02", store="/tmp/a #1")
    assert (config.name, config.store) == ("2026-10-02", "/tmp/a #1")


def test_credentials_in_the_stores_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(FemError, match="set them in the environment") as caught:
        parse_config({**SMALL, "store": "s3://key:hunter2@bucket/x"})
    assert "hunter2" not in str(caught.value)


def test_overrides_reach_into_sections_and_are_typed(tmp_path: Path) -> None:
    config = load_config(
        written(tmp_path, SMALL),
        ["scheme.name=rs", "scheme.budget=8", "train.learning_rate=1e-4", "problems.params={a: 1}"],
    )
    assert (config.scheme.name, config.scheme.budget, config.train.learning_rate) == ("rs", 8, 1e-4)
    assert config.problems.params == {"a": 1}  # type: ignore[union-attr]


@pytest.mark.parametrize("override", ["scheme.name", "=rs", "seed.x=1"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(FemError):
        load_config(written(tmp_path, {**SMALL, "seed": 1}), [override])


def test_the_digest_ignores_places_and_nothing_else(tmp_path: Path) -> None:
    base = parse_config(SMALL)
    elsewhere = parse_config(
        {
            **SMALL,
            "name": "other",
            "store": "s3://bucket/x",
            "train": {"micro_batch_size": 4},
            "sample": {"engine": {"kv_cache_gib": 9.0}},
        }
    )
    assert base.digest() == elsewhere.digest()
    changed = [{"seed": 1}, {"iterations": 2}, {"sample": {"temperature": 0.5}}, {"prompts": {"system": "x"}}]
    digests = {parse_config({**SMALL, **change}).digest() for change in changed}
    assert len(digests) == len(changed)
    assert base.digest() not in digests


def test_a_field_that_came_later_is_part_of_the_identity_only_where_it_is_set() -> None:
    base, set_ = parse_config(SMALL), parse_config({**SMALL, "filter": {"max_rationales": 9}})
    assert base.identity()["filter"] == {"min_rationale_words": 0, "max_per_problem": None}
    assert set_.identity()["filter"]["max_rationales"] == 9
    assert base.digest() != set_.digest()
    assert parse_config({**SMALL, "filter": base.identity()["filter"]}).digest() == base.digest()


def test_places_are_listed_by_dotted_name() -> None:
    assert {"name", "store", "model.source", "sample.engine.max_num_seqs", "train.num_processes"} <= set(
        places_of(parse_config(SMALL))
    )


def test_the_learning_rate_decays_linearly_over_iterations() -> None:
    config = parse_config({**SMALL, "iterations": 5, "train": {"learning_rate": 1.0e-4}})
    assert [round(config.learning_rate(k) / 1e-4, 10) for k in range(1, 6)] == [1.0, 0.8, 0.6, 0.4, 0.2]
    flat = parse_config({**SMALL, "train": {"learning_rate": 1.0e-4, "decay": "none"}})
    assert flat.learning_rate(5) == 1e-4


def test_every_field_is_documented() -> None:
    def undocumented(model: type) -> list[str]:
        from fem_core.config_files import sections_at

        missing = [f"{model.__name__}.{n}" for n, f in model.model_fields.items() if not f.description]
        for name in model.model_fields:
            for inner in sections_at(model, (name,)):
                missing += undocumented(inner)
        return missing

    assert undocumented(RunConfig) == []


SHIPPED = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
RUNS = [file for file in SHIPPED if "base" not in yaml.safe_load(file.read_text())]
"""The others are comparisons, which tests/unit/compare reads."""


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.name)
def test_the_shipped_configurations_are_valid(file: Path) -> None:
    assert load_config(file).name == file.stem


def test_help_and_configuration_errors_load_nothing_heavy() -> None:
    code = (
        "import sys, flows.cli, fem_core.config, fem_core.schemas;"
        "bad = {'torch', 'vllm', 'prefect', 'transformers', 'datasets'} & set(sys.modules); sys.exit(','.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scheme": {"name": "rs", "budget": 4, "keep": "all"}}, "set scheme.name to pps"),
        ({"scheme": {"name": "pps", "budget": 4}}, "scheme.keep to all"),
        ({"scheme": {"name": "pps", "keep": "all"}}, "scheme.budget to 2 at least"),
        ({"sample": {"top_p": 0.9}}, r"sample.top_p 0.9 leaves some of it out; set sample.top_p to 1"),
    ],
)
def test_importance_weights_of_what_was_not_drawn_so_are_refused(changes: dict[str, Any], sentence: str) -> None:
    several = {"scheme": {"name": "pps", "budget": 4, "keep": "all"}, "filter": {"weighting": "importance"}}
    assert parse_config(SMALL | several | {"sample": {"temperature": 0.7}}).filter.looks == ("plain_logprob",)
    with pytest.raises(FemError, match=sentence):
        parse_config(SMALL | several | changes)


def test_looks_are_part_of_the_draws_identity_only_where_they_are_taken() -> None:
    plain, off, blind = (
        parse_config(SMALL | {"filter": values})
        for values in ({}, {"blind": False, "weighting": "none"}, {"blind": True})
    )
    assert plain.digest() == off.digest() != blind.digest()
    assert (off.filter.looks, blind.filter.looks) == ((), ("blind_answer",))
