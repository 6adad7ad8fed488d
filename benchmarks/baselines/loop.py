"""The bash script, in Python: per iteration draw, train and evaluate, each a process of its own, files in between.

Contract: a scheme's prompt kind is drawn ``n = budget`` times for every problem that is still without an accepted draw,
all of them to their end; then they are judged. What counts as accepted, which accepted draw is kept and what is trained on
is FEM's to the letter: a completion is read up to its first answer line, since FEM ends a draw there. No plain
``stop=`` can say that (the line's end comes behind a text that is not known), so the tokens behind it are drawn here.
Writes Parquet tables with FEM's schemas, and the seconds of each stage, into a folder.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fem_core.config import RunConfig
from fem_core.config_files import load_config
from fem_core.digest import derive_seed
from fem_core.evaluate.score import score
from fem_core.filter.rationales import filter_attempts
from fem_core.filter.verdict import ACCEPTED, judge
from fem_core.model import default_cache, resolve_model
from fem_core.problems.answers import has_answer_line
from fem_core.problems.problem import Problem, from_table, to_table
from fem_core.problems.registry import load
from fem_core.problems.verifier import Verifier
from fem_core.prompts import ChatTokens, PromptKind, messages
from fem_core.sample.schemes import plan_of
from fem_core.schemas import ATTEMPTS

ROOT = Path(__file__).resolve().parents[2]
RECORD = "record.json"
"""In the run's folder when it is finished: its seconds and those of its stages."""


@dataclass(frozen=True)
class Decoding:
    """How to draw."""

    n: int
    """Draws per prompt."""
    temperature: float
    """0 is greedy."""
    top_p: float
    """1 is off."""
    max_tokens: int
    """Longest completion, tokens."""


@dataclass(frozen=True)
class Draw:
    """A completion."""

    text: str
    """Without special tokens."""
    finish_reason: str
    """``stop`` or ``length``."""
    tokens: int
    """Of the completion, the end token included."""


Generate = Callable[[list[list[int]], Decoding], list[list[Draw]]]
"""From prompts (token ids) to ``n`` draws each, in the prompts' order."""
Start = Callable[[Path, RunConfig, int], Generate]
"""From a model folder, the configuration and a seed to a model that is ready to draw."""


class Clock:
    """Seconds of a stage by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside towards a part."""
        start = time.perf_counter()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - start


def iteration_dir(folder: Path, k: int) -> Path:
    """Where an iteration's files are."""
    return folder / f"iteration-{k}"


def model_dir(folder: Path, config: RunConfig, k: int) -> Path:
    """theta^(k)."""
    return iteration_dir(folder, k) / "checkpoint" if k else Path(config.model.source)


def read_problems(folder: Path, split: str) -> list[Problem]:
    """The ``train`` or ``test`` problems of a run's folder."""
    return from_table(pq.read_table(folder / f"{split}.parquet"))


def as_fem_reads(draw: Draw, stop_at_answer: bool) -> tuple[str, str]:
    """Text and finish reason of a draw as if it had ended where FEM ends it."""
    end = has_answer_line(draw.text) if stop_at_answer else None
    return (draw.text, draw.finish_reason) if end is None else (draw.text[: end + 1], "answer")


def judged(
    config: RunConfig,
    verifier: Verifier,
    problem: Problem,
    kind: PromptKind,
    exemplars: int,
    first: int,
    prompt: list[int],
    draws: Sequence[Draw],
) -> list[dict[str, Any]]:
    """Rows of ``schemas.ATTEMPTS`` for one problem's draws, numbered from ``first``; log-probabilities and seeds are 0."""
    rows = []
    for attempt, draw in enumerate(draws, first):
        text, finish_reason = as_fem_reads(draw, config.sample.stop_at_answer)
        judgement = judge(text, finish_reason, problem, verifier)
        rows.append(
            {
                "problem_id": problem.problem_id,
                "attempt": attempt,
                "prompt_kind": kind,
                "exemplars": exemplars,
                "text": text,
                "answer": judgement.answer,
                "verdict": judgement.verdict,
                "finish_reason": finish_reason,
                "prompt_tokens": len(prompt),
                "completion_tokens": draw.tokens,
                "logprob": 0.0,
                "seed": 0,
            }
        )
    return rows


def that_count(rows: Sequence[dict[str, Any]], keep: str) -> list[dict[str, Any]]:
    """One problem's rows: with ``keep: first`` none behind its first accepted one."""
    accepted = [n for n, row in enumerate(rows) if row["verdict"] == ACCEPTED]
    return list(rows[: accepted[0] + 1] if accepted and keep == "first" else rows)


def draw(folder: Path, config: RunConfig, k: int, start: Start, clock: Clock) -> None:
    """The E-step of iteration k with theta^(k-1)."""
    problems, exemplars = read_problems(folder, "train"), config.prompts.sample_exemplars
    model = model_dir(folder, config, k - 1)
    with clock.part("engine start"):
        generate = start(model, config, derive_seed(config.seed, "draw", k))
        tokens = ChatTokens(model)
    rows: dict[str, list[dict[str, Any]]] = {problem.problem_id: [] for problem in problems}
    plan = plan_of(config.scheme)
    with Verifier() as verifier:
        for stage in plan.stages:
            left = [p for p in problems if all(row["verdict"] != ACCEPTED for row in rows[p.problem_id])]
            if not left:
                break
            prompts = [tokens.ids(messages(config.prompts, problem, stage.kind, exemplars)) for problem in left]
            how = Decoding(stage.budget, config.sample.temperature, config.sample.top_p, config.sample.max_tokens)
            with clock.part("drawing"):
                drawn = generate(prompts, how)
            with clock.part("filter"):
                for problem, prompt, draws in zip(left, prompts, drawn, strict=True):
                    mine = rows[problem.problem_id]
                    mine += judged(config, verifier, problem, stage.kind, exemplars, len(mine), prompt, draws)
    with clock.part("filter"):
        all_rows = [row for mine in rows.values() for row in mine]
        pq.write_table(pa.Table.from_pylist(all_rows, schema=ATTEMPTS), iteration_dir(folder, k) / "attempts.parquet")
        counting = [row for mine in rows.values() for row in that_count(mine, plan.keep)]
        table = pa.Table.from_pylist(counting, schema=ATTEMPTS)
        filtered = filter_attempts(problems, [table], config.filter, config.prompts)
        pq.write_table(filtered.rationales, iteration_dir(folder, k) / "rationales.parquet")
        (iteration_dir(folder, k) / "filter.json").write_text(json.dumps(filtered.stats, indent=1))


def evaluate(folder: Path, config: RunConfig, k: int, start: Start, clock: Clock) -> None:
    """Greedy predictions of theta^(k) on the test problems, and their scores."""
    train, test = read_problems(folder, "train"), read_problems(folder, "test")
    exemplars, model = config.prompts.train_exemplars, model_dir(folder, config, k)
    with clock.part("engine start"):
        generate = start(model, config, config.seed)
        tokens = ChatTokens(model)
    prompts = [tokens.ids(messages(config.prompts, problem, "plain", exemplars)) for problem in test]
    with clock.part("evaluating"):
        drawn = generate(prompts, Decoding(1, 0.0, 1.0, config.evaluate.max_tokens or config.sample.max_tokens))
    with clock.part("filter"), Verifier() as verifier:
        rows = [
            row
            for problem, prompt, draws in zip(test, prompts, drawn, strict=True)
            for row in judged(config, verifier, problem, "plain", exemplars, 0, prompt, draws)
        ]
        table = pa.Table.from_pylist(rows, schema=ATTEMPTS)
        pq.write_table(table, iteration_dir(folder, k) / "predictions.parquet")
        scores = score([table], train, test)
        (iteration_dir(folder, k) / "scores.json").write_text(json.dumps(scores, indent=1))


def stage(name: str, folder: Path, config: RunConfig, k: int, start: Start) -> None:
    """Do one stage in this process and write down its seconds."""
    clock = Clock()
    iteration_dir(folder, k).mkdir(exist_ok=True)
    if name == "draw":
        draw(folder, config, k, start, clock)
    elif name == "train":
        from benchmarks.baselines.trainer import train

        origin = model_dir(folder, config, 0 if config.train.init == "base" else k - 1)
        train(origin, iteration_dir(folder, k), config, k, clock)
    else:
        evaluate(folder, config, k, start, clock)
    (iteration_dir(folder, k) / f"{name}.json").write_text(json.dumps(clock.parts, indent=1))


def environment(drawing: Mapping[str, str]) -> dict[str, str]:
    """No hub, all cores, this repository; and what drawing needs."""
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "PYTHONPATH": os.pathsep.join(paths),
        **drawing,
    }


def run(module: str, file: Path, folder: Path, config: RunConfig, drawing: Mapping[str, str]) -> None:
    """All stages in turn, each in a process of its own.

    Args:
        file: the configuration's file, for the stages.
        drawing: environment variables of the stages that draw; training knows nothing of them.

    Raises:
        SystemExit: a stage failed; the end of ``output.txt`` says why.
    """
    began = time.perf_counter()
    problems = load(config.problems, config.seed)
    for split, side in (("train", problems.train), ("test", problems.test)):
        pq.write_table(to_table(side), folder / f"{split}.parquet")
    stages = []
    in_turn = [
        ("evaluate", 0),
        *((s, k) for k in range(1, config.iterations + 1) for s in ("draw", "train", "evaluate")),
    ]
    for name, k in in_turn:
        start = time.perf_counter()
        command = [sys.executable, "-m", module, str(file), str(folder), "--stage", name, "--iteration", str(k)]
        with (folder / "output.txt").open("ab") as log:
            variables = environment(drawing if name != "train" else {})
            done = subprocess.run(command, cwd=folder, env=variables, stdout=log, stderr=log)
        if done.returncode:
            tail = (folder / "output.txt").read_text(errors="replace")[-2000:]
            raise SystemExit(f"{module} failed at {name} of iteration {k}: {tail}")
        parts = json.loads((iteration_dir(folder, k) / f"{name}.json").read_text())
        seconds = time.perf_counter() - start
        stages.append({"stage": name, "iteration": k, "seconds": seconds, "parts": parts})
    record = {"seconds": time.perf_counter() - began, "stages": stages}
    (folder / RECORD).write_text(json.dumps(record, indent=1))


def main(module: str, description: str | None, start: Start, drawing: Mapping[str, str]) -> None:
    """The command line of a baseline.

    Args:
        module: its name, by which the stages are started.
        drawing: environment variables of the stages that draw.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", action="append", default=[], help="override a field, such as scheme.name=rs")
    parser.add_argument("--stage", choices=["draw", "train", "evaluate"], help="this stage alone; needs --iteration")
    parser.add_argument("--iteration", type=int)
    chosen = parser.parse_args()
    file, folder = chosen.config.resolve(), chosen.folder.resolve()
    config = load_config(file, chosen.set)
    if chosen.stage is not None:
        stage(chosen.stage, folder, config, chosen.iteration, start)
        return
    folder.mkdir(parents=True)
    source = str(resolve_model(config.model, default_cache()).path)
    config = config.model_copy(update={"model": config.model.model_copy(update={"source": source})})
    resolved = folder / "config.yaml"
    resolved.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    run(module, resolved, folder, config, drawing)
