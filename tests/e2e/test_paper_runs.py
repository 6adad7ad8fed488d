"""configs/paper: each file really runs, reduced to a tiny model, a dozen local rows of the set's own form and one iteration."""

import json
import shutil
from pathlib import Path

import pytest
from place import ROOT, Workplace

from benchmarks.tiny_model import answering_llama
from fem_core.config_files import load_config
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model
from fem_core.problems.registry import load
from fem_core.prompts import messages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAPER = ROOT / "configs" / "paper"
REDUCED = {
    "iterations": 1,
    "store": "./fem-store",
    "problems.train": 12,
    "problems.test": 4,
    "sample.max_tokens": 24,
    "sample.engine.dtype": "float32",
    "sample.engine.kv_cache_gib": 0.5,
    "train.precision": "fp32",
}
"""Everything else, the words of the prompts, scheme, decay, batches and checkpointing among it, is as the file says."""

LOCAL = {
    "helpsteer2": {"path": "helpsteer/nvidia_HelpSteer_sample.jsonl", "max_characters": 1400},
    "tldr": {"path": "tldr/oai1b.csv_judged.csv.gz", "max_characters": 2000},
    "openbookqa": {"path": "openbookqa/train.json.gz", "test_path": "openbookqa/test.json"},
    "arc": {"path": "arc_challenge/train.json", "test_path": "arc_challenge/test.json"},
}


@pytest.fixture(scope="module")
def bench(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder with rows of MMLU's form."""
    folder = tmp_path_factory.mktemp("paper")
    rows = [{"question": f"{n} + 1?", "choices": [str(n + 1), "0", "90", "80"], "answer": n % 2} for n in range(16)]
    (folder / "mmlu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Workplace(folder, prefect_server)


@pytest.mark.parametrize("name", sorted(file.stem for file in PAPER.glob("*.yaml")))
def test_a_papers_configuration_runs_reduced(name: str, bench: Workplace, shared_data: Path) -> None:
    settings = dict(REDUCED)
    for field, value in LOCAL.get(name, {"path": str(bench.folder / "mmlu.jsonl")}).items():
        settings[f"problems.{field}"] = str(shared_data / value) if isinstance(value, str) else value
    words = [f"{field}={value}" for field, value in settings.items()]
    config = load_config(PAPER / f"{name}.yaml", words)
    chats = [messages(config.prompts, p, "hinted", 0) for p in load(config.problems, config.seed).train]
    said = f"It is as it should be.\nAnswer: {'3' if name == 'helpsteer2' else 'A'}"
    answering_llama(packaged_model(default_cache()), bench.folder / f"says-{name}", chats, said=said)
    words.append(f"model.source=./says-{name}")
    shutil.copy(PAPER / f"{name}.yaml", bench.folder)
    done = bench.fem("run", f"{name}.yaml", *(part for word in words for part in ("--set", word)))
    assert done.returncode == 0, done.stdout + done.stderr
    run = bench.folder / "fem-store" / "runs" / name
    scores = json.loads((run / "iteration=001" / "scores" / "scores.json").read_text())
    assert scores["n"] == 4
    rationales = json.loads((run / "iteration=001" / "rationales" / "_manifest.json").read_text())
    assert sum(file["rows"] for file in rationales["files"]) > 0, "nothing was trained on"
    assert (run / "iteration=001" / "checkpoint" / "model.safetensors").is_file()
