"""All three schemes on the demo's problem set: the table in docs/findings.md.

``python benchmarks/schemes.py [--store URL] [--seeds 0 1] [--iterations K]`` runs ``configs/demo.yaml`` once per scheme
and seed (about eight minutes each on two cores; finished runs are reused) and prints one Markdown row per run.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from fem_core.report.summary import Row, summarise
from fem_core.store.store import Store

ROOT = Path(__file__).resolve().parents[1]
FEM = str(Path(sys.executable).with_name("fem"))


def main() -> None:
    """Run what is missing, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default=str(ROOT / "fem-store"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--schemes", nargs="+", default=["pps", "star", "rs"])
    parser.add_argument(
        "--iterations", type=int, default=3, help="another number than 3 becomes part of the runs' names"
    )
    arguments = parser.parse_args()
    suffix = "" if arguments.iterations == 3 else f"-k{arguments.iterations}"
    names = [
        (scheme, seed, f"demo-{scheme}-{seed}{suffix}") for seed in arguments.seeds for scheme in arguments.schemes
    ]
    for scheme, seed, name in names:
        command = [FEM, "run", str(ROOT / "configs" / "demo.yaml"), "--run", name, "--store", arguments.store]
        settings = [f"scheme.name={scheme}", f"seed={seed}", f"iterations={arguments.iterations}"]
        subprocess.run([*command, *(word for setting in settings for word in ("--set", setting))], check=True)
    store = Store.open(arguments.store, check=False)
    accuracies = " | ".join(f"iteration {k}" for k in range(1, arguments.iterations + 1))
    print(f"\n| scheme | seed | base, 0 / 2 exemplars | {accuracies} | utilization | draws | tokens drawn |")
    print("|---" * (6 + arguments.iterations) + "|")
    for scheme, seed, name in names:
        rows = summarise(store, name).rows
        base = [row for row in rows if row.iteration == 0]
        later = [row for row in rows if row.iteration]
        drawn = [row.drawn for row in later if row.drawn]
        cells = [
            scheme,
            str(seed),
            " / ".join(f"{row.scores['accuracy']:.3f}" for row in base if row.scores),
            *(_accuracy(row) for row in later),
            ", ".join(f"{row.filtered['utilization']:.2f}" for row in later if row.filtered),
            str(sum(d["draws"] for d in drawn)),
            str(sum(d["completion_tokens"] for d in drawn)),
        ]
        print("| " + " | ".join(cells) + " |")


def _accuracy(row: Row) -> str:
    scores = row.scores
    return f"{scores['accuracy']:.3f} [{scores['low']:.3f}, {scores['high']:.3f}]" if scores else "-"


if __name__ == "__main__":
    main()
