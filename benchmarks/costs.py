"""What a finished run came to and where its time went, FEM's and the baselines' in one form.

Contract: tokens, operations, utilization and scores of every system are computed by the same code from tables of the same
schemas. ``drawing`` and ``evaluating`` are seconds inside the engine, ``training`` seconds of optimizer steps; all else
is in ``parts`` or in nothing (``rest``).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.baselines.loop import RECORD, iteration_dir
from benchmarks.flops import Model
from fem_core.config import RunConfig
from fem_core.filter.verdict import ACCEPTED
from fem_core.report.costs import covered
from fem_core.report.summary import summarise
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store


@dataclass(frozen=True)
class Work:
    """What was done, whoever did it."""

    train_problems: list[str]
    """Ids, in order."""
    test_problems: list[str]
    """Ids, in order."""
    draws: int
    """Of all E-steps."""
    drawn_tokens: int
    """Completion tokens of all E-steps; FEM's include those of draws that were begun ahead and dropped."""
    evaluated_tokens: int
    """Completion tokens of all evaluations."""
    utilization: list[float]
    """By iteration, from 1."""
    rationales: list[dict[str, str]]
    """By iteration: what was trained on, by problem id (with ``keep: all`` the last one of a problem)."""
    scores: list[dict[str, Any]]
    """By iteration, from 0."""
    engine_flops: float
    """Of drawing and evaluating, dropped draws left out."""
    training_flops: float
    """Of all M-steps."""


@dataclass(frozen=True)
class Outcome:
    """One system's run."""

    system: str
    """fem, script or transformers."""
    work: Work
    seconds: float
    """From the command to its end."""
    drawing: float
    """Seconds inside the engine for E-steps."""
    evaluating: float
    """Seconds inside the engine for evaluations."""
    training: float
    """Seconds of optimizer steps."""
    steps: float
    """Seconds of the sample and evaluate steps with all that is in them, engine starts too."""
    parts: dict[str, float]
    """Seconds of what is none of the three, by name."""
    peak: float
    """Operations per second of a large matrix product, measured just before the run."""

    @property
    def other(self) -> float:
        """Seconds that are neither drawing, evaluating nor training."""
        return self.seconds - self.drawing - self.evaluating - self.training

    def save(self, file: Path) -> None:
        """Write as JSON, whole or not at all."""
        new = file.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1))
        new.replace(file)

    @classmethod
    def read(cls, file: Path) -> "Outcome":
        """Read what ``save`` wrote."""
        data = json.loads(file.read_text())
        return cls(**{**data, "work": Work(**data["work"])})


def work_of(
    config: RunConfig,
    problems: dict[str, pa.Table],
    attempts: Sequence[pa.Table],
    rationales: Sequence[pa.Table],
    predictions: Sequence[pa.Table],
    scores: list[dict[str, Any]],
) -> Work:
    """From the tables of all iterations, in order; ``problems`` by split, ``config.model.source`` is a folder."""
    from transformers import AutoTokenizer

    model, tokenizer = Model.of(Path(config.model.source)), AutoTokenizer.from_pretrained(config.model.source)
    n = problems["train"].num_rows
    training = 0.0
    for table in rationales:
        lengths, completions = _lengths(tokenizer, table)
        training += config.train.epochs * model.train(lengths, completions)
    return Work(
        train_problems=problems["train"]["problem_id"].to_pylist(),
        test_problems=problems["test"]["problem_id"].to_pylist(),
        draws=sum(table.num_rows for table in attempts),
        drawn_tokens=sum(sum(table["completion_tokens"].to_pylist()) for table in attempts),
        evaluated_tokens=sum(sum(table["completion_tokens"].to_pylist()) for table in predictions),
        utilization=[len(_accepted(table)) / n for table in attempts],
        rationales=[
            {row["problem_id"]: row["completion"][0]["content"] for row in table.to_pylist()} for table in rationales
        ],
        scores=scores,
        engine_flops=sum(
            model.draw(table["prompt_tokens"].to_pylist(), table["completion_tokens"].to_pylist())
            for table in [*attempts, *predictions]
        ),
        training_flops=training,
    )


def _accepted(attempts: pa.Table) -> set[str]:
    rows = attempts.select(["problem_id", "verdict"]).to_pylist()
    return {row["problem_id"] for row in rows if row["verdict"] == ACCEPTED}


def _lengths(tokenizer: Any, rationales: pa.Table) -> tuple[list[int], list[int]]:
    """Tokens of each training row and of its completion, as TRL makes them."""
    lengths, completions = [], []
    for row in rationales.to_pylist():
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], return_dict=False)
        lengths.append(len(whole))
        completions.append(len(whole) - len(prompt))
    return lengths, completions


def of_baseline(system: str, folder: Path, config: RunConfig, seconds: float, peak: float) -> Outcome:
    """What a baseline left in its folder."""
    record = json.loads((folder / RECORD).read_text())
    seconds_in: dict[str, float] = {}
    for stage in record["stages"]:
        for name, value in stage["parts"].items():
            seconds_in[name] = seconds_in.get(name, 0.0) + value
    ks, all_ks = range(1, config.iterations + 1), range(config.iterations + 1)

    def tables(name: str, iterations: range) -> list[pa.Table]:
        return [pq.read_table(iteration_dir(folder, k) / f"{name}.parquet") for k in iterations]

    work = work_of(
        config,
        {split: pq.read_table(folder / f"{split}.parquet") for split in ("train", "test")},
        tables("attempts", ks),
        tables("rationales", ks),
        tables("predictions", all_ks),
        [json.loads((iteration_dir(folder, k) / "scores.json").read_text()) for k in all_ks],
    )
    drawing, evaluating, training = (seconds_in.pop(name) for name in ("drawing", "evaluating", "training"))
    steps = sum(stage["seconds"] for stage in record["stages"] if stage["stage"] != "train")
    return Outcome(system, work, seconds, drawing, evaluating, training, steps, seconds_in, peak)


def of_fem(store: Store, run: str, clock: Path, config: RunConfig, seconds: float, peak: float) -> Outcome:
    """What a FEM run left in its store, with its engine's times from ``benchmarks/clock``."""
    engine: dict[str, float] = {}
    for line in clock.read_text().splitlines():
        for name, value in json.loads(line).items():
            engine[name] = engine.get(name, 0.0) + value
    ks, all_ks = range(1, config.iterations + 1), range(config.iterations + 1)

    def found(artifact: str) -> Manifest:
        manifest = store.manifest(artifact)
        if manifest is None:
            raise RuntimeError(f"the finished run {run} has no {artifact}")
        return manifest

    def manifests(kind: str, iterations: range) -> list[Manifest]:
        return [found(layout.iteration(run, k, kind)) for k in iterations]

    drawn, predicted = manifests("attempts", ks), manifests("predictions", all_ks)
    work = work_of(
        config,
        {split: store.read_table(found(layout.problems(run, split))) for split in ("train", "test")},
        [store.read_table(manifest) for manifest in drawn],
        [store.read_table(manifest) for manifest in manifests("rationales", ks)],
        [store.read_table(manifest) for manifest in predicted],
        [dict(row.scores or {}) for row in summarise(store, run).rows],
    )
    work = replace(work, drawn_tokens=int(engine["generated"]) - work.evaluated_tokens)
    checkpoints = manifests("checkpoint", ks)
    training = sum(float(manifest.stats["seconds"]) for manifest in checkpoints)
    parts = {
        "engine start": engine["start"],
        "new weights": engine.get("swap", 0.0),
        "trainer beside training": sum(end - start for start, end in map(_span, checkpoints)) - training,
    }
    steps = covered([_span(manifest) for manifest in [*drawn, *predicted]])
    return Outcome("fem", work, seconds, engine["drawing"], engine["evaluating"], training, steps, parts, peak)


def _span(manifest: Manifest) -> tuple[float, float]:
    return datetime.fromisoformat(manifest.started).timestamp(), datetime.fromisoformat(manifest.finished).timestamp()
