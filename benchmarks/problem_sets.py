"""Which problem set can a 135M model learn in one iteration? The table of docs/findings.md, "What did not work".

``python benchmarks/problem_sets.py [--store URL]`` runs one PPS iteration of ``configs/demo.yaml`` on each candidate
(about two minutes each on two cores; finished runs are reused) and prints one Markdown row per set.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from fem_core.report.summary import summarise
from fem_core.store.store import Store

ROOT = Path(__file__).resolve().parents[1]
FEM = str(Path(sys.executable).with_name("fem"))

CANDIDATES: dict[str, dict[str, Any]] = {
    "spell_backward": {
        "params": {"min_word_len": 3, "max_word_len": 4},
        "exemplars": [
            (
                "Spell this word backward (example: sun -> nus): cat",
                "The letters are c, a, t. Backward: t, a, c.",
                "tac",
            ),
            (
                "Spell this word backward (example: sun -> nus): lamp",
                "The letters are l, a, m, p. Backward: p, m, a, l.",
                "pmal",
            ),
        ],
    },
    "leg_counting": {
        "params": {"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 4},
        "exemplars": [
            (
                "Your task is to count how many legs there are in total when given a list of animals.\n\n"
                "Now, how many legs are there in total if you have 2 cats?\n",
                "A cat has 4 legs. 2 cats have 2 * 4 = 8 legs.",
                "8",
            ),
            (
                "Your task is to count how many legs there are in total when given a list of animals.\n\n"
                "Now, how many legs are there in total if you have 1 chicken, 3 ants?\n",
                "A chicken has 2 legs, an ant has 6. 1 * 2 + 3 * 6 = 20.",
                "20",
            ),
        ],
    },
}


def main() -> None:
    """Run what is missing, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=str(ROOT / "fem-store"))
    store = parser.parse_args().store
    rows = []
    for dataset, candidate in CANDIDATES.items():
        config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
        config["iterations"] = 1
        config["problems"] |= {"dataset": dataset, "params": candidate["params"], "train": 60, "test": 100}
        config["prompts"]["exemplars"] = [
            {"question": question, "rationale": rationale, "answer": answer}
            for question, rationale, answer in candidate["exemplars"]
        ]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"set-{dataset}.yaml"
            file.write_text(yaml.safe_dump(config))
            subprocess.run([FEM, "run", str(file), "--store", store], check=True)
        rows.append((dataset, summarise(Store.open(store, check=False), f"set-{dataset}").rows))
    print(
        "\n| problem set | base, 0 exemplars | base, 2 exemplars | after one iteration | utilization |\n|---|---|---|---|---|"
    )
    for dataset, found in rows:
        scores = [f"{s['accuracy']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in (row.scores for row in found) if s]
        used = [f"{row.filtered['utilization']:.2f}" for row in found if row.filtered]
        print(f"| {dataset} | " + " | ".join([*scores, *used]) + " |")


if __name__ == "__main__":
    main()
