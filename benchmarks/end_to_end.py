"""Whole runs of FEM and of what a user would otherwise run, side by side, and where the time goes.

``python -m benchmarks.end_to_end [--config configs/demo.yaml] [--schemes rs star pps] [--train 250] [--test 200]
[--iterations 3] [--budget 8] [--systems fem script transformers] [--repeats 1] [--folder DIR] [--set a.b=c]``

For each scheme and repeat (each with a seed of its own) the systems run in turn on the same problems, the base model's
folder at hand for all of them. FEM is ``fem run`` with an empty store, an empty cache and an empty Prefect home: its
server's start is part of its time. The baselines are ``benchmarks.baselines.script`` and ``.transformers_loop``;
``unrecorded`` is FEM's own steps without Prefect and without a store: what being auditable costs is what it saves. All
evaluate the base model and every iteration without exemplars (FEM's extra baseline with exemplars is off). They differ
in what they leave to TRL's defaults, in the seeds of their draws, and in the saved weights' dtype, which are FEM's
configuration and float32. Each result is kept in DIR (./.cache/end-to-end):
a benchmark that was broken off goes on with what is missing; empty DIR to measure anew.

Prints per run its seconds, tokens, utilization, accuracy with its 95 % interval, and model FLOP/s as a share of what a
4096² bfloat16 product reached on the same cores just before; then the ratios of paired runs, medians over the repeats.
"with starts" compares the sample and evaluate steps as they are, "engine alone" the seconds inside the engines; "fixed costs
at zero" is the baseline's whole time over FEM's drawing, evaluating and training alone: the most there is to get.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import yaml

from benchmarks.costs import Outcome, of_baseline, of_fem
from benchmarks.flops import peak
from fem_core.config import ReasoningGymProblems, RunConfig
from fem_core.config_files import load_config
from fem_core.digest import digest
from fem_core.model import default_cache, resolve_model
from fem_core.store.store import Store

ROOT = Path(__file__).resolve().parents[1]
FEM = str(Path(sys.executable).with_name("fem"))
BASELINES = {
    "script": "benchmarks.baselines.script",
    "transformers": "benchmarks.baselines.transformers_loop",
    "unrecorded": "benchmarks.baselines.unrecorded",
}
SYSTEMS = ("fem", *BASELINES)
CLOCK = "clock.jsonl"


def configured(chosen: argparse.Namespace, scheme: str, seed: int) -> RunConfig:
    """The configuration that all systems get; ``seed`` is added to the file's. Only rs takes the budget."""
    settings = [
        f"scheme.name={scheme}",
        f"problems.train={chosen.train}",
        f"problems.test={chosen.test}",
        f"iterations={chosen.iterations}",
        "evaluate.exemplar_baseline=false",
        *([f"scheme.budget={chosen.budget}"] if scheme == "rs" else []),
    ]
    config = load_config(chosen.config, [*settings, *chosen.set], name="end-to-end")
    source = str(resolve_model(config.model, default_cache()).path)
    changed = {"seed": config.seed + seed, "model": config.model.model_copy(update={"source": source})}
    if not isinstance(config.problems, ReasoningGymProblems):
        paths = {name: getattr(config.problems, name) for name in ("path", "test_path")}
        absolute = {name: str(Path(path).resolve()) for name, path in paths.items() if path is not None}
        changed["problems"] = config.problems.model_copy(update=absolute)
    return config.model_copy(update=changed)


def run_fem(folder: Path, config: RunConfig, file: Path, reached: float) -> Outcome:
    """`fem run`, as a user would."""
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "FEM_CACHE": str(folder / "cache"),
        **clocked(folder),
    }
    url = str(folder / "store")
    command = [FEM, "run", str(file), "--run", "end-to-end", "--store", url]
    seconds = timed(command, folder, environment)
    return of_fem(Store.open(url, check=False), "end-to-end", folder / CLOCK, config, seconds, reached)


def clocked(folder: Path) -> dict[str, str]:
    """Environment that times the engine from the inside, into the folder's ``CLOCK``."""
    paths = [str(ROOT / "benchmarks" / "clock"), str(ROOT)]
    return {"FEM_CLOCK": str(folder / CLOCK), "PYTHONPATH": os.pathsep.join(paths)}


def run_baseline(system: str, folder: Path, config: RunConfig, file: Path, reached: float) -> Outcome:
    """A baseline, by its command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if system == "unrecorded":
        environment |= clocked(folder)
    command = [sys.executable, "-m", BASELINES[system], str(file), str(folder / "run")]
    seconds = timed(command, folder, environment)
    return of_baseline(system, folder / "run", config, seconds, reached)


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Seconds that a command takes.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    start = time.perf_counter()
    with (folder / "said.txt").open("wb") as log:
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    seconds = time.perf_counter() - start
    if done.returncode:
        tail = (folder / "said.txt").read_text(errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}; all of it is in {folder}: {tail}")
    return seconds


def outcome(folder: Path, system: str, config: RunConfig) -> Outcome:
    """One system's run: from the folder where it is there, else now."""
    # Not the run's own digest: that leaves out which folder the model is in and how wide a step is.
    kept = folder / f"{digest(config.model_dump(mode='json'))[:16]}-{system}.json"
    if kept.is_file():
        return Outcome.read(kept)
    work = folder / f"{kept.stem}-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    file = work / "end-to-end.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    reached = peak()
    print(f"{system}: {config.scheme.name}, seed {config.seed}", file=sys.stderr, flush=True)
    found = (
        run_fem(work, config, file, reached) if system == "fem" else run_baseline(system, work, config, file, reached)
    )
    found.save(kept)
    shutil.rmtree(work)
    return found


RUN_HEADERS = (
    *("scheme", "N", "seed", "system", "total s", "drawing s", "evaluating s", "training s", "other s", "of other, s"),
    *("draws", "tokens drawn", "utilization", "accuracy", "95 % interval", "engine GFLOP/s", "training GFLOP/s"),
)


def run_row(config: RunConfig, one: Outcome) -> list[str]:
    """A run's cells, in the order of ``RUN_HEADERS``."""
    work, score = one.work, one.work.scores[-1]
    parts = {**one.parts, "rest": one.other - sum(one.parts.values())}
    rates = (work.engine_flops / (one.drawing + one.evaluating), work.training_flops / one.training)
    return [
        config.scheme.name,
        str(len(work.train_problems)),
        str(config.seed),
        one.system,
        *(f"{value:.1f}" for value in (one.seconds, one.drawing, one.evaluating, one.training, one.other)),
        ", ".join(f"{name} {value:.1f}" for name, value in parts.items()),
        str(work.draws),
        str(work.drawn_tokens),
        ", ".join(f"{value:.2f}" for value in work.utilization),
        f"{score['accuracy']:.3f}",
        f"{score['low']:.3f} to {score['high']:.3f}",
        *(f"{rate / 1e9:.1f} ({rate / one.peak:.0%})" for rate in rates),
    ]


RATIOS: dict[str, Callable[[Outcome, Outcome], float]] = {
    "whole run": lambda fem, other: other.seconds / fem.seconds,
    "drawing and evaluation, with starts": lambda fem, other: other.steps / fem.steps,
    "drawing and evaluation, engine alone": lambda fem, other: (
        (other.drawing + other.evaluating) / (fem.drawing + fem.evaluating)
    ),
    "training alone": lambda fem, other: other.training / fem.training,
    "whole run, fixed costs at zero": lambda fem, other: other.seconds / (fem.drawing + fem.evaluating + fem.training),
}
"""A baseline's seconds over FEM's."""


def same_problems(outcomes: list[Outcome]) -> None:
    """The systems of one pair had the same problems.

    Raises:
        SystemExit: they had not.
    """
    for one in outcomes[1:]:
        if (one.work.train_problems, one.work.test_problems) != (
            outcomes[0].work.train_problems,
            outcomes[0].work.test_problems,
        ):
            raise SystemExit(f"{one.system} had other problems than {outcomes[0].system}: nothing can be compared.")


def row(cells: list[str]) -> None:
    """Print a Markdown row."""
    print("| " + " | ".join(cells) + " |", flush=True)


def header(cells: list[str]) -> None:
    """Print a Markdown header."""
    print()
    row(cells)
    print("|---" * len(cells) + "|")


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "demo.yaml")
    parser.add_argument("--schemes", nargs="+", choices=["rs", "star", "pps"], default=["rs", "star", "pps"])
    parser.add_argument("--train", type=int, default=250, help="N, the training problems")
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--budget", type=int, default=8, help="M of rs")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["fem", "script", "transformers"])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "end-to-end", help="where results are kept")
    parser.add_argument("--set", action="append", default=[], help="override another field of the configuration")
    chosen = parser.parse_args(arguments)
    folder = chosen.folder.resolve()
    pairs: dict[str, list[dict[str, Outcome]]] = {}
    header(list(RUN_HEADERS))
    for scheme in chosen.schemes:
        for seed in range(chosen.repeats):
            config = configured(chosen, scheme, seed)
            found = {}
            for system in chosen.systems:
                found[system] = outcome(folder, system, config)
                row(run_row(config, found[system]))
            same_problems(list(found.values()))
            pairs.setdefault(scheme, []).append(found)
    if "fem" not in chosen.systems:
        return
    header(["scheme", "N", "against", "pairs", *RATIOS])
    for scheme, runs in pairs.items():
        for system in (system for system in chosen.systems if system != "fem"):
            ratios = [median(ratio(run["fem"], run[system]) for run in runs) for ratio in RATIOS.values()]
            row([scheme, str(chosen.train), system, str(len(runs)), *(f"{ratio:.2f}" for ratio in ratios)])


if __name__ == "__main__":
    main()
