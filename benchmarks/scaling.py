"""Time and memory of a run against its size: the table and the picture of docs/performance.md.

``python -m benchmarks.scaling [--problems 250 1000 4000] [--budgets 1 4] [--picture FILE.svg]`` runs ``fem run`` once for
each number of problems N and budget M of rejection sampling, one iteration each, on a model of a few hundred kilobytes
that was taught to answer: the engine, the trainer, the store and Prefect are real, and a token costs next to nothing, so
what does not grow with the drawn tokens would show. Memory is the most that each process was seen with, asked for ten
times a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from benchmarks.tiny_model import answering_llama
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model
from fem_core.report.summary import summarise
from fem_core.store.store import Store

FEM = str(Path(sys.executable).with_name("fem"))


@dataclass(frozen=True)
class Measured:
    """One run."""

    problems: int
    budget: int
    draws: int
    tokens: int
    """Drawn by the sample step."""
    seconds: float
    """Of the whole command."""
    sample: float
    """Of the sample step, engine start included."""
    train: float
    """Of the optimizer steps alone."""
    flow_mb: float
    host_mb: float
    trainer_mb: float


def configure(folder: Path, model: Path, problems: int, budget: int) -> Path:
    """A run's file: letters to choose, of which the model gets two thirds right."""
    questions = [f"Which of these letters comes first in row {n}?" for n in range(problems + 8)]
    rows = [
        {"question": q, "answer": "A" if n % 3 else "B", "choices": [f"first of {n}", f"second of {n}"]}
        for n, q in enumerate(questions)
    ]
    (folder / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "iterations": 1,
        "store": str(folder / "store"),
        "problems": {
            "source": "table",
            "path": str(folder / "letters.jsonl"),
            "answer_kind": "choice",
            "choices": "choices",
            "test": 8,
        },
        "model": {"source": str(model)},
        "scheme": {"name": "rs", "budget": budget},
        "sample": {"max_tokens": 32, "problems_per_part": 64, "engine": {"kv_cache_gib": 0.5}},
        "train": {"batch_size": 16, "micro_batch_size": 16},
    }
    file = folder / "scaling.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def watched(command: Sequence[str], folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds of a command, and the most memory of it and its children by role, MB."""
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "FEM_CACHE": str(folder / "cache"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    most = {"flow": 0.0, "host": 0.0, "trainer": 0.0}
    start = time.perf_counter()
    with (folder / "said.txt").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        while process.poll() is None:
            for role, megabytes in memory(process.pid).items():
                most[role] = max(most[role], megabytes)
            time.sleep(0.1)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {(folder / 'said.txt').read_text(errors='replace')[-2000:]}")
    return seconds, most


def memory(pid: int) -> dict[str, float]:
    """Resident memory of the flow's process, the engine host and the trainer, MB, while they are there."""
    found = {}
    try:
        flow = psutil.Process(pid)
        found["flow"] = flow.memory_info().rss / 1e6
        for child in flow.children(recursive=True):
            words = child.cmdline()
            role = "host" if "fem_core.sample.host" in words else "trainer" if "fem_core.train.sft" in words else None
            if role:
                found[role] = max(found.get(role, 0.0), child.memory_info().rss / 1e6)
    except psutil.NoSuchProcess:
        pass
    return found


def measure(model: Path, problems: int, budget: int) -> Measured:
    """One run in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="fem-scaling-") as name:
        folder = Path(name)
        file = configure(folder, model, problems, budget)
        seconds, most = watched([FEM, "run", str(file), "--run", "scaling"], folder)
        row = next(
            row for row in summarise(Store.open(str(folder / "store"), check=False), "scaling").rows if row.drawn
        )
    assert row.drawn is not None and row.trained is not None
    return Measured(
        problems,
        budget,
        row.drawn["draws"],
        row.drawn["completion_tokens"],
        seconds,
        row.seconds["sample"],
        row.trained["seconds"],
        most["flow"],
        most["host"],
        most["trainer"],
    )


def picture(found: Sequence[Measured], file: Path) -> None:
    """Seconds against drawn tokens, and memory against problems."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for budget in sorted({one.budget for one in found}):
        some = sorted((one for one in found if one.budget == budget), key=lambda one: one.tokens)
        left.plot([one.tokens for one in some], [one.sample for one in some], "o-", label=f"M = {budget}")
    left.set(xlabel="tokens drawn", ylabel="seconds of the sample step", ylim=(0, None), xlim=(0, None))
    left.legend()
    for role in ("flow", "host", "trainer"):
        some = sorted(found, key=lambda one: one.draws)
        right.plot([one.draws for one in some], [getattr(one, f"{role}_mb") for one in some], "o-", label=role)
    right.set(xlabel="draws", ylabel="memory, MB", ylim=(0, None), xlim=(0, None))
    right.legend()
    figure.savefig(file, metadata={"Date": None})


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and draw where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--budgets", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--picture", type=Path)
    chosen = parser.parse_args(arguments)
    found = []
    print("| N | M | draws | tokens drawn | whole s | sample s | training s | flow MB | host MB | trainer MB |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="fem-scaling-model-") as name:
        questions = [f"Which of these letters comes first in row {n}?" for n in range(40)]
        model = answering_llama(packaged_model(default_cache()), Path(name), questions)
        for problems in chosen.problems:
            for budget in chosen.budgets:
                one = measure(model, problems, budget)
                found.append(one)
                cells = [f"{one.problems:,}", str(one.budget), f"{one.draws:,}", f"{one.tokens:,}"]
                cells += [f"{value:.1f}" for value in (one.seconds, one.sample, one.train)]
                cells += [f"{value:.0f}" for value in (one.flow_mb, one.host_mb, one.trainer_mb)]
                print(f"| {' | '.join(cells)} |", flush=True)
    if chosen.picture:
        picture(found, chosen.picture)


if __name__ == "__main__":
    main()
