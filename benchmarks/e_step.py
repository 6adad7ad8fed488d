"""How full is the engine kept, and is nothing drawn that is not needed? The E-step beside vLLM alone.

``python -m benchmarks.e_step [--parts draws rs overlap] [--problems 96] [--repeats 3] [--model FOLDER]`` draws for problems
of the demo's kind with the engine host of a run, its part files and all, and repeats exactly these draws (same prompts,
same number of tokens) with ``vllm.LLM.generate``, everything handed in at once, in processes that live side by side and
work in turn. ``default`` is vLLM with what a CPU needs to run at all, ``tuned`` has the engine arguments, kernels and
environment of the host.

- draws: one draw per problem (pps). Ratio of tokens per second.
- rs: rejection sampling with a budget of 8 on problems of mixed difficulty, beside ``generate(n=8)`` of ``default`` for
  all of them. What the second drew says what the first need have drawn: up to the first accepted one. That share is the
  bound; printed beside it are the shares of tokens and seconds that were taken.
- overlap: evaluation and sampling as two jobs on one host, beside all their draws as one batch of ``tuned``.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fem_core.config import RunConfig
from fem_core.config_files import load_config
from fem_core.filter.verdict import ACCEPTED, judge
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model
from fem_core.problems.problem import Problem, to_table
from fem_core.problems.registry import load
from fem_core.problems.verifier import Verifier
from fem_core.prompts import ChatTokens, messages
from fem_core.sample import cpu_kernels
from fem_core.sample.client import EngineHost
from fem_core.sample.engine_settings import EngineSettings, engine_arguments, environment, preload
from fem_core.sample.job import DrawJob, HostSettings
from fem_core.sample.schemes import EVALUATION, Plan, plan_of
from fem_core.store import layout
from fem_core.store.store import Store
from tasks import prepare, step

ROOT = Path(__file__).resolve().parents[1]
LENGTH = 512
"""Longest sequence, tokens."""
BUDGET = 8
MIXED = {"min_num_statements": 2, "max_num_statements": 9}

Draw = tuple[list[int], int]
"""Prompt ids, and how many tokens were drawn."""


def settings() -> EngineSettings:
    """The engine's, for both sides."""
    return EngineSettings("auto", LENGTH, None, 2.0, 0.85, 1, 0)


class Alone:
    """``vllm.LLM`` in a process of its own, which answers a line of JSON with one."""

    def __init__(self, way: str, model: Path) -> None:
        needed = {
            name: value
            for name, value in environment("cpu").items()
            if way == "tuned" or not name.startswith("MALLOC_")
        }
        env = {**os.environ, **needed, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
        if (library := preload()) is not None:
            env["LD_PRELOAD"] = library
        command = [sys.executable, "-m", "benchmarks.e_step", "--serve", way, str(model)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._read()

    def generate(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """See ``serve``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(requests) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit("The engine beside ended. Run it alone: python -m benchmarks.e_step --serve default FOLDER")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def serve(way: str, model: Path) -> None:
    """Draw what each line of standard input asks for, all of it at once; say the seconds, texts and lengths."""
    from vllm import LLM, SamplingParams

    ours = engine_arguments(settings(), model, "cpu")
    if way == "tuned":
        cpu_kernels.register()
        chosen = {**ours, "ir_op_priority": cpu_kernels.PRIORITY}
    else:
        kept = ("model", "dtype", "max_model_len", "load_format", "distributed_executor_backend", "enforce_eager")
        chosen = {name: ours[name] for name in (*kept, "enable_chunked_prefill", "max_num_batched_tokens")}
    llm = LLM(**chosen)
    print(json.dumps({"ready": way}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = [{"prompt_token_ids": one.pop("prompt")} for one in asked]
        start = time.perf_counter()
        outputs = llm.generate(prompts, [SamplingParams(**one) for one in asked], use_tqdm=False)
        seconds = time.perf_counter() - start
        texts = [[[draw.text, draw.finish_reason, len(draw.token_ids)] for draw in one.outputs] for one in outputs]
        print(json.dumps({"seconds": seconds, "draws": texts}), flush=True)


class Hosted:
    """A run's engine host, with a store of its own."""

    def __init__(self, host: EngineHost, config: RunConfig, folder: Path, model: Path) -> None:
        self._host, self._config, self._model = host, config, model
        self._store = Store.open(str(folder / "store"))
        self._tokens = ChatTokens(model)
        self._jobs = 0
        self.dropped = 0
        """Tokens that the last job drew ahead in vain."""

    async def draw(self, *jobs: tuple[Sequence[Problem], Plan, int, float]) -> tuple[float, list[pa.Table]]:
        """Do jobs side by side.

        Args:
            jobs: problems, plan, exemplars, temperature.

        Returns:
            Seconds, and each job's attempts.
        """
        made = [self._job(*job) for job in jobs]
        start = time.perf_counter()
        await asyncio.gather(*(self._host.draw(job, ("base", self._model), self._hear) for job in made))
        seconds = time.perf_counter() - start
        files = [sorted(self._store.parts(job.artifact, job.key)) for job in made]
        tables = [
            pa.concat_tables([pq.read_table(self._store.root.at(f"{job.artifact}/{name}")) for name in names])
            for job, names in zip(made, files, strict=True)
        ]
        return seconds, tables

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            self.dropped = event["dropped_tokens"]

    def _job(self, problems: Sequence[Problem], plan: Plan, exemplars: int, temperature: float) -> DrawJob:
        self._jobs += 1
        run, config = f"job-{self._jobs}", self._config
        todo = prepare.problems_work(run, config, "train", ())
        record = self._store.write_table(todo.artifact, layout.part_name(0), to_table(list(problems)), todo.key)
        self._store.commit(todo.manifest([record], step.now(), stats={}))
        return DrawJob(
            id=run,
            store=self._store.url,
            problems=todo.artifact,
            artifact=layout.iteration(run, 1, "attempts"),
            key="0" * 64,
            iteration=1,
            seed=self._jobs,
            prompts=config.prompts,
            exemplars=exemplars,
            stages=tuple((stage.kind, stage.budget) for stage in plan.stages),
            keep=plan.keep,
            temperature=temperature,
            top_p=1.0,
            max_tokens=config.sample.max_tokens,
            problems_per_part=config.sample.problems_per_part,
        )

    def prompt(self, problem: Problem, kind: Any, exemplars: int) -> list[int]:
        """As the host renders it."""
        return self._tokens.ids(messages(self._config.prompts, problem, kind, exemplars))

    def draws_of(self, problems: Sequence[Problem], table: pa.Table) -> list[Draw]:
        """What the attempts cost."""
        by_id = {problem.problem_id: problem for problem in problems}
        return [
            (self.prompt(by_id[row["problem_id"]], row["prompt_kind"], row["exemplars"]), row["completion_tokens"])
            for row in table.to_pylist()
        ]


def again(draws: Sequence[Draw], temperature: float) -> list[dict[str, Any]]:
    """Requests for the same prompts and numbers of tokens."""
    return [
        {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": temperature, "seed": n}
        for n, (prompt, tokens) in enumerate(draws)
    ]


def ratios(values: Sequence[float]) -> str:
    """Median with least and most."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


async def same_draws(ours: Hosted, beside: dict[str, Alone], sets: list[list[Problem]], config: RunConfig) -> None:
    """Part ``draws``."""
    found: dict[str, list[float]] = {way: [] for way in beside}
    rates = []
    for problems in sets:
        seconds, (table,) = await ours.draw(
            (problems, plan_of(config.scheme), config.prompts.sample_exemplars, config.sample.temperature)
        )
        draws = ours.draws_of(problems, table)
        rates.append(sum(tokens for _, tokens in draws) / seconds)
        for way, engine in beside.items():
            found[way].append(engine.generate(again(draws, config.sample.temperature))["seconds"] / seconds)
    print("\n| the same draws | tokens/s of the E-step | of `default` | of `tuned` |\n|---|---|---|---|")
    print(
        f"| {len(sets[0])} a time, {len(sets)} times | {median(rates):.0f} | "
        + " | ".join(ratios(found[way]) for way in ("default", "tuned"))
        + " |",
        flush=True,
    )


async def rejection(ours: Hosted, engine: Alone, sets: list[list[Problem]], config: RunConfig) -> None:
    """Part ``rs``."""
    plan = plan_of(config.scheme.model_copy(update={"name": "rs", "budget": BUDGET}))
    shown, temperature = config.prompts.sample_exemplars, config.sample.temperature
    print("\n| problems | accepted | bound on draws | draws | bound on tokens | tokens | dropped | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for n, problems in enumerate(sets):
        asked = [
            {
                "prompt": ours.prompt(problem, "plain", shown),
                "n": BUDGET,
                "max_tokens": config.sample.max_tokens,
                "temperature": temperature,
                "seed": 1000 * n + i,
            }
            for i, problem in enumerate(problems)
        ]
        # In turn: the second to see a set of problems finds nothing of it in its prefix cache either.
        whole = engine.generate(asked)
        seconds, (table,) = await ours.draw((problems, plan, shown, temperature))
        needed_draws = needed_tokens = all_tokens = accepted = 0
        with Verifier() as verifier:
            for problem, draws in zip(problems, whole["draws"], strict=True):
                right = [judge(text, reason, problem, verifier).verdict == ACCEPTED for text, reason, _ in draws]
                first = right.index(True) + 1 if True in right else BUDGET
                accepted += True in right
                needed_draws += first
                needed_tokens += sum(tokens for _, _, tokens in draws[:first])
                all_tokens += sum(tokens for _, _, tokens in draws)
        every = len(problems) * BUDGET
        tokens = sum(table.column("completion_tokens").to_pylist())
        shares = [needed_draws / every, table.num_rows / every]
        shares += [count / all_tokens for count in (needed_tokens, tokens, ours.dropped)]
        shares += [seconds / whole["seconds"]]
        cells = [str(len(problems)), f"{accepted / len(problems):.2f}", *(f"{share:.3f}" for share in shares)]
        print(f"| {' | '.join(cells)} |", flush=True)


async def overlap(ours: Hosted, engine: Alone, sets: list[list[Problem]], config: RunConfig) -> None:
    """Part ``overlap``."""
    found, prompts = [], config.prompts
    for problems in sets:
        half = len(problems) // 2
        drawn, scored = problems[:half], problems[half:]
        seconds, tables = await ours.draw(
            (drawn, plan_of(config.scheme), prompts.sample_exemplars, config.sample.temperature),
            (scored, EVALUATION, prompts.train_exemplars, 0.0),
        )
        requests = again(ours.draws_of(drawn, tables[0]), config.sample.temperature)
        requests += again(ours.draws_of(scored, tables[1]), 0.0)
        found.append(seconds / engine.generate(requests)["seconds"])
    print("\n| evaluation beside sampling | seconds, of one batch of `tuned` |\n|---|---|")
    print(f"| {len(sets[0]) // 2} and {len(sets[0]) - len(sets[0]) // 2} problems | {ratios(found)} |", flush=True)


@contextmanager
def engines(ways: Sequence[str], model: Path) -> Iterator[dict[str, Alone]]:
    """The engines beside, ended with the block."""
    started = {way: Alone(way, model) for way in ways}
    try:
        yield started
    finally:
        for engine in started.values():
            engine.close()


async def measure(chosen: argparse.Namespace) -> None:
    """All parts asked for."""
    model = chosen.model or packaged_model(default_cache())
    config = load_config(ROOT / "configs" / "demo.yaml")
    count, repeats = chosen.problems, chosen.repeats

    def sets(salt: int, params: dict[str, int] | None = None) -> list[list[Problem]]:
        source: Any = config.problems.model_copy(
            update={"train": count * repeats, "test": 1, "params": params or config.problems.params}
        )  # type: ignore[union-attr]
        problems = load(source, salt).train
        return [problems[n * count : (n + 1) * count] for n in range(repeats)]

    with tempfile.TemporaryDirectory(prefix="fem-e-step-") as name, engines(("default", "tuned"), model) as beside:
        host = HostSettings(model_dir=str(model), engine=settings(), stop_at_answer=config.sample.stop_at_answer)
        async with EngineHost(host, Path(name) / "engine.log") as started:
            ours = Hosted(started, config, Path(name), model)
            shown, temperature = config.prompts.sample_exemplars, config.sample.temperature
            few = load(config.problems, 99).train[:4]
            _, (table,) = await ours.draw((few, plan_of(config.scheme), shown, temperature))  # starts the engine
            for engine in beside.values():
                engine.generate(again(ours.draws_of(few, table), temperature))
            if "draws" in chosen.parts:
                await same_draws(ours, beside, sets(1), config)
            if "rs" in chosen.parts:
                await rejection(ours, beside["default"], sets(2, MIXED), config)
            if "overlap" in chosen.parts:
                await overlap(ours, beside["tuned"], sets(3), config)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["draws", "rs", "overlap"], default=["draws", "rs", "overlap"])
    parser.add_argument("--problems", type=int, default=96, help="in each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a model folder; the packaged model by default")
    parser.add_argument("--serve", nargs=2, metavar=("WAY", "MODEL"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve:
        serve(chosen.serve[0], Path(chosen.serve[1]))
        return
    asyncio.run(measure(chosen))


if __name__ == "__main__":
    main()
