"""A whole run in a store without a model: every artifact made by the steps' own code from drawn-up texts.

Contract: ``make_run(store)`` gives what a finished run of two iterations leaves, byte for byte the same each time but
for times, code and hardware; only the weights are not weights. What needs a run to read, copy, audit or collect takes
this one.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from fem_core import annotations
from fem_core.config import RunConfig
from fem_core.config_files import parse_config
from fem_core.digest import derive_seed
from fem_core.evaluate.bound import bound as figures
from fem_core.evaluate.bound import draw_seed, probe_ids, weighed
from fem_core.evaluate.score import score
from fem_core.filter.rationales import filter_attempts
from fem_core.filter.verdict import ACCEPTED, judge
from fem_core.problems.problem import Problem, make_problem, to_table
from fem_core.problems.verifier import Verifier
from fem_core.sample.draw import draw_stats
from fem_core.sample.given import given_stats, is_given
from fem_core.schemas import ATTEMPTS, LOOKED, PROBES, TRAINING_LOG
from fem_core.store import layout
from fem_core.store.manifest import InputRef, Manifest
from fem_core.store.store import Store
from tasks import bound, evaluate, prepare, sample, step, train
from tasks import filter as filter_task

PER_PART = 4
"""Problems per part file."""


def made_config(name: str = "made", **changes: Any) -> RunConfig:
    """Sums of two numbers, drawn with STaR."""
    values: dict[str, Any] = {
        "name": name,
        "iterations": 2,
        "problems": {"source": "table", "path": "sums.jsonl", "answer_kind": "number", "test": 4},
        "scheme": {"name": "star", "budget": 1},
        "sample": {"problems_per_part": PER_PART},
    }
    return parse_config(values | changes)


def problems_of(numbers: range, explained: bool = False) -> list[Problem]:
    """One sum per number; ``explained`` gives all but each third a gold rationale."""
    return [
        make_problem(
            f"What is {n} + {n + 1}?",
            str(2 * n + 1),
            "number",
            rationale=f"{n} and {n + 1} together are {2 * n + 1}." if explained and n % 3 else None,
        )
        for n in numbers
    ]


def make_run(
    store: Store,
    config: RunConfig | None = None,
    iterations: int | None = None,
    make: Callable[[range], list[Problem]] | None = None,
    wrong: int = 3,
) -> list[Manifest]:
    """Write the run; its manifests in the order in which they were committed.

    Args:
        iterations: stop after so many, as a run that was killed; all by default.
        make: problems whose answers are whole numbers above 0; ``problems_of`` by default.
        wrong: sums that this divides are answered wrong.
    """
    config = config or made_config()
    name, made = config.name or "made", []
    store.create_run(prepare.run_record(name, config))

    def commit(todo: step.Work, files: list[Any], stats: dict[str, Any], **more: Any) -> Manifest:
        made.append(store.commit(todo.manifest(files, step.now(), stats=stats, **more)))
        return made[-1]

    explained = {"explained": True} if config.scheme.name == "human" else {}
    make = make or partial(problems_of, **explained)
    sides = {"train": make(range(10)), "test": make(range(100, 104))}
    source = (InputRef(role="sums.jsonl", artifact="sums.jsonl", digest="5" * 64),)
    split: dict[str, Manifest] = {}
    for side, problems in sides.items():
        todo = prepare.problems_work(name, config, side, source)
        file = store.write_table(todo.artifact, layout.part_name(0), to_table(problems), todo.key)
        split[side] = commit(todo, [file], {"problems": len(problems), "notes": []}, seeds={"run": config.seed})
    todo = prepare.model_work(name, config)
    model = commit(todo, [store.write_bytes(todo.artifact, "model.safetensors", b"base")], {"context_length": 64})
    todo = prepare.prompts_work(name, config, split["train"], split["test"], model)
    lengths = {"longest_prompt": 40, "longest_sequence": 60}
    prompts = commit(todo, [store.write_bytes(todo.artifact, "examples.json", b"[]\n")], lengths)
    del prompts
    _evaluate(store, config, 0, sides, split, model, commit, wrong)
    checkpoint = model
    for k in range(1, (iterations or config.iterations) + 1):
        todo = sample.work(name, config, k, split["train"], checkpoint)
        if is_given(config.scheme):
            files, tables = sample.give(step.Run(name, config, store, Path()), todo, sides["train"])
            attempts = commit(todo, files, given_stats(config.scheme, sides["train"], tables))
        else:
            looks = bool(config.filter.looks)
            tables = [
                _attempts(sides["train"][i : i + PER_PART], config.seed, k, wrong, hinted=True, looks=looks)
                for i in range(0, len(sides["train"]), PER_PART)
            ]
            attempts = commit(
                todo,
                [store.write_table(todo.artifact, layout.part_name(n), t, todo.key) for n, t in enumerate(tables)],
                draw_stats(tables),
                seeds={"run": config.seed},
                engine={"weights": checkpoint.digest, "dtype": "float32"},
            )
        said = filter_task.annotated(store, config)
        words = [] if said is None else annotations.read(store, said)
        filtered = filter_attempts(sides["train"], tables, config.filter, config.prompts, words)
        for kind, table in (("verdicts", filtered.verdicts), ("rationales", filtered.rationales)):
            todo = filter_task.work(name, config, k, kind, split["train"], attempts, said)
            file = store.write_table(todo.artifact, layout.part_name(0), table, todo.key)
            rationales = commit(todo, [file], filtered.stats)
        todo = train.work(name, config, k, rationales, model if config.train.init == "base" else checkpoint)
        log = {"step": 1, "epoch": 1.0, "loss": 0.5, "learning_rate": 1e-4, "seconds": 1.0}
        checkpoint = commit(
            todo,
            [
                store.write_bytes(todo.artifact, "config.json", json.dumps({"k": k}).encode()),
                store.write_bytes(
                    todo.artifact, "model.safetensors", f"weights {k} of seed {config.seed}".encode() * 9
                ),
                store.write_table(
                    todo.artifact,
                    "training_log.parquet",
                    pa.Table.from_pylist([log], schema=TRAINING_LOG),
                    todo.key,
                ),
            ],
            {"rationales": filtered.stats["accepted"], "steps": 1},
            seeds={"run": config.seed},
        )
        _evaluate(store, config, k, sides, split, checkpoint, commit, wrong)
    return made


def _evaluate(
    store: Store,
    config: RunConfig,
    k: int,
    sides: dict[str, list[Problem]],
    split: dict[str, Manifest],
    checkpoint: Manifest,
    commit: Any,
    wrong: int,
) -> None:
    name, exemplars = config.name or "made", config.prompts.train_exemplars
    todo = evaluate.predictions_work(name, config, k, split["test"], checkpoint, exemplars)
    table = _predictions(sides["test"], config, k, wrong)
    file = store.write_table(todo.artifact, layout.part_name(0), table, todo.key)
    predictions = commit(todo, [file], draw_stats([table]))
    todo = evaluate.scores_work(name, config, k, split["train"], split["test"], predictions, exemplars)
    scores = score([table], sides["train"], sides["test"], todo.version)
    text = json.dumps(scores, indent=2, sort_keys=True).encode() + b"\n"
    commit(todo, [store.write_bytes(todo.artifact, evaluate.SCORES, text)], scores)
    if config.evaluate.bound is not None:
        _bound(store, config, k, sides["train"], split["train"], checkpoint, commit, wrong)


def _bound(
    store: Store,
    config: RunConfig,
    k: int,
    problems: list[Problem],
    train_set: Manifest,
    checkpoint: Manifest,
    commit: Any,
    wrong: int,
) -> None:
    """Probes that iteration 1 makes a nat less likely, and iteration 2 two nats."""
    name, known = config.name or "made", {one.problem_id: one for one in problems}
    todo = bound.probes_work(name, config, k, train_set, checkpoint)
    asked, seed = todo.config["bound"], todo.config["seed"]
    chosen = probe_ids(known, asked["problems"], seed)
    rows = [
        row
        | {
            "attempt": attempt,
            "prompt_kind": "hinted",
            "seed": derive_seed(draw_seed(seed), k, row["problem_id"], attempt),
            "plain_logprob": -4.0 - k - attempt if row["verdict"] == ACCEPTED else None,
            "direct_logprob": None if attempt else -20.0,
        }
        for row in _attempts([known[one] for one in chosen], seed, k, wrong, hinted=False).to_pylist()
        for attempt in range(asked["draws"])
    ]
    table = pa.Table.from_pylist(rows, schema=PROBES)
    file = store.write_table(todo.artifact, layout.part_name(0), table, todo.key)
    probes = commit(todo, [file], draw_stats([table]))
    before = store.manifest(layout.iteration(name, k - 1, "probes")) if k else None
    todo = bound.bound_work(name, k, train_set, probes, before)
    earlier = None if before is None else weighed(store.iter_tables(before), known)
    found = figures(weighed([table], known), earlier)
    text = json.dumps(found, indent=2, sort_keys=True).encode() + b"\n"
    commit(todo, [store.write_bytes(todo.artifact, bound.FILE, text)], found)


def _predictions(problems: list[Problem], config: RunConfig, k: int, wrong: int) -> pa.Table:
    """One greedy attempt each, and behind it as many sampled ones as are configured; the last of these is wrong."""
    rows, draws = [], config.evaluate.draws or 0
    for row in _attempts(problems, config.seed, k, wrong, hinted=False).to_pylist():
        for attempt in range(1 + draws):
            seed = derive_seed(config.seed, k, row["problem_id"], attempt) if attempt else 0
            last = (
                {"text": "Answer: 0", "answer": "0", "verdict": "wrong_answer"} if attempt and attempt == draws else {}
            )
            rows.append(row | {"attempt": attempt, "seed": seed} | last)
    return pa.Table.from_pylist(rows, schema=ATTEMPTS)


def _attempts(
    problems: list[Problem], run_seed: int, k: int, wrong: int, *, hinted: bool, looks: bool = False
) -> pa.Table:
    """What ``wrong`` divides is answered wrong; drawn again with the hint, where there is one, it is right.

    Args:
        looks: draw each problem four times with the hint, the first time wrong, and take both looks at the others; from
            the second one's rationale another answer is reached.
    """
    rows = []
    with Verifier() as verifier:
        for problem in problems:
            right = int(problem.answer) % wrong != 0
            tries = [("plain", right)] if right or not hinted else [("plain", False), ("hinted", True)]
            if looks:
                tries = [("hinted", attempt > 0) for attempt in range(4)]
            for attempt, (kind, correct) in enumerate(tries):
                answer = problem.answer if correct else "0"
                text = f"Adding the two numbers in iteration {k} gives the sum.\nAnswer: {answer}"
                judgement = judge(text, "stop", problem, verifier)
                looked = {
                    "plain_logprob": -4.0 - attempt,
                    "blind_answer": "0" if attempt == 1 else problem.answer,
                    "blind_verdict": "wrong_answer" if attempt == 1 else "accepted",
                }
                rows.append(
                    (looked if looks and correct else {})
                    | {
                        "problem_id": problem.problem_id,
                        "attempt": attempt,
                        "prompt_kind": kind,
                        "exemplars": 0,
                        "text": text,
                        "answer": judgement.answer,
                        "verdict": judgement.verdict,
                        "finish_reason": "stop",
                        "prompt_tokens": 30,
                        "completion_tokens": 12,
                        "logprob": -3.5,
                        "seed": derive_seed(run_seed, k, problem.problem_id, attempt),
                    }
                )
    return pa.Table.from_pylist(rows, schema=LOOKED if looks else ATTEMPTS)


def golden(folder: Path) -> None:
    """Write a golden store with this version's code; run it before ``SCHEMA_VERSION`` is raised:
    ``PYTHONPATH=.:tests python -c 'import pathlib, made_run; made_run.golden(pathlib.Path("tests/golden/store-v2"))'``.
    """
    make_run(Store.open(str(folder)))
