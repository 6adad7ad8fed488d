"""configs/paper: every file passes the checks of a dry run, and every comparison unfolds, on local rows of the real forms."""

import json
from pathlib import Path

import pytest

from fem_core.compare.cells import cells
from fem_core.compare.comparison import load_comparison
from fem_core.config_files import load_config
from fem_core.store.store import Store
from flows.plan import TO_DO, WAITS, plan

PAPER = Path(__file__).parents[2] / "configs" / "paper"
LOCAL = {
    "helpsteer2": {"path": "helpsteer/nvidia_HelpSteer_sample.jsonl", "test": 20},
    "tldr": {"path": "tldr/oai1b.csv_judged.csv.gz", "test": 20},
    "openbookqa": {"path": "openbookqa/train.json.gz", "test_path": "openbookqa/test.json"},
    "arc": {"path": "arc_challenge/train.json", "test_path": "arc_challenge/test.json"},
}


def local_rows(name: str, shared_data: Path, folder: Path) -> dict[str, object]:
    """Where this machine has rows of that set; MMLU's are four of its form."""
    if name in LOCAL:
        return {field: str(shared_data / v) if isinstance(v, str) else v for field, v in LOCAL[name].items()}
    rows = [{"question": f"{n} + 1?", "choices": ["0", str(n + 1), "9", "8"], "answer": 1} for n in range(4)]
    (folder / "mmlu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(folder / "mmlu.jsonl"), "test": 2}


@pytest.mark.parametrize("name", sorted(file.stem for file in PAPER.glob("*.yaml")))
def test_a_papers_configuration_passes_a_dry_run(name: str, shared_data: Path, tmp_path: Path) -> None:
    places = local_rows(name, shared_data, tmp_path)
    settings = [f"problems.{field}={value}" for field, value in places.items()]
    settings += ["problems.train=30", "model.source=packaged:SmolLM2-135M-Instruct", "sample.max_tokens=64"]
    config = load_config(PAPER / f"{name}.yaml", settings)
    assert (config.iterations, config.train.decay, config.train.init) == (5, "linear", "previous")
    steps = plan(config, Store.open(str(tmp_path / "store")))
    assert {step.state for step in steps} == {TO_DO, WAITS} and len(steps) == 37


@pytest.mark.parametrize("file", sorted((PAPER / "compare").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_papers_comparison_is_three_schemes_on_four_models_and_three_seeds(file: Path) -> None:
    found = cells(load_comparison(file))
    assert len(found) == 36
    assert {cell.config.scheme.name for cell in found} == {"rs", "star", "pps"}
    assert f"paper-{file.stem}.pps.source-Qwen_Qwen2.5-3B-Instruct.seed-0" in {cell.name for cell in found}
