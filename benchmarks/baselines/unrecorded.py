"""FEM's own steps without Prefect and without a store: ``python -m benchmarks.baselines.unrecorded CONFIG FOLDER``.

What a run would take if it were not orchestrated, recorded, verified and resumable: the same engine, draw loop, filter,
trainer and scores, with plain Parquet files in a folder and nothing that says what they are. The engine lives in this
process, so that there is no host to talk to. No digests, no manifests, no server, no report.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.baselines.loop import RECORD, Clock, iteration_dir, model_dir
from fem_core.config import RunConfig
from fem_core.config_files import load_config
from fem_core.device import find_device
from fem_core.digest import derive_seed
from fem_core.evaluate.score import score
from fem_core.filter.rationales import filter_attempts
from fem_core.filter.verdict import Judgement, judge
from fem_core.model import default_cache, resolve_model
from fem_core.preview import check_lengths
from fem_core.problems.answers import has_answer_line
from fem_core.problems.problem import Problem, to_table
from fem_core.problems.registry import ProblemSet, load
from fem_core.problems.verifier import Verifier
from fem_core.prompts import ChatTokens, PromptKind, messages
from fem_core.sample.draw import DrawLoop, DrawSettings
from fem_core.sample.engine_settings import environment, preload
from fem_core.sample.job import host_settings
from fem_core.sample.proof import read_probe
from fem_core.sample.schemes import EVALUATION, Plan, plan_of
from fem_core.sample.vllm_engine import VllmEngine
from fem_core.train import launch

TOLD = "FEM_UNRECORDED"
"""Environment variable that says that the engine's environment stands; it holds what stood there before, as JSON."""


class Loose:
    """A run's state, in this process and in a folder."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder, self.clock = config, folder, Clock()
        self.problems: ProblemSet = load(config.problems, config.seed)
        for split, side in (("train", self.problems.train), ("test", self.problems.test)):
            pq.write_table(to_table(side), folder / f"{split}.parquet")
        base = resolve_model(config.model, default_cache())
        self._tokens = ChatTokens(base.path)
        lengths = check_lengths(config, self.problems.train, self.problems.test, self._tokens, base.context_length)
        settings = host_settings(config, base, lengths.longest_sequence)
        stop = (lambda text: has_answer_line(text) is not None) if settings.stop_at_answer else None
        with self.clock.part("engine start"):
            self._engine = VllmEngine(settings.engine, base.path, stop)
        self._limit = 2 * (settings.engine.max_num_seqs or 256)
        self._verifier = Verifier()

    def close(self) -> None:
        """End the children."""
        self._engine.close()
        self._verifier.close()

    def job(
        self, name: str, k: int, problems: list[Problem], plan: Plan, exemplars: int, temperature: float
    ) -> DrawLoop:
        """A draw loop that writes plain Parquet parts into the iteration's folder."""
        config, sample = self.config, self.config.sample
        tokens = (config.evaluate.max_tokens if plan is EVALUATION else None) or sample.max_tokens
        parts = iteration_dir(self.folder, k) / name
        parts.mkdir(parents=True)

        def render(problem: Problem, kind: PromptKind) -> list[int]:
            return self._tokens.ids(messages(config.prompts, problem, kind, exemplars))

        def verdict(text: str, finish_reason: str, problem: Problem) -> Judgement:
            return judge(text, finish_reason, problem, self._verifier)

        def write(part: int, table: pa.Table) -> None:
            pq.write_table(table, parts / f"part-{part:05d}.parquet")

        return DrawLoop(
            f"{'evaluate' if plan is EVALUATION else 'sample'}-{k}",
            problems,
            plan,
            DrawSettings(config.seed, k, exemplars, temperature, sample.top_p, tokens),
            part_size=sample.problems_per_part,
            done_parts=(),
            render=render,
            judge=verdict,
            write_part=write,
        )

    async def draw(self, loops: list[DrawLoop], trainer: Path | None) -> launch.Standby | None:
        """Walk the loops together, as the host does; start the trainer for a checkpoint's folder when they drain."""
        engine, standby = self._engine, None
        alone = True
        todo = {loop.job_id: loop for loop in loops}
        while todo:
            for loop in todo.values():
                loop.fill(engine, engine.unfinished + 1 if alone else self._limit)
            alone = False
            for loop in todo.values():
                loop.fill_ahead(engine, engine.floor)
            for one in engine.step() if engine.unfinished else []:
                todo[one.request_id.split("/", 1)[0]].receive(one, engine)
            drained = all(loop.draining for loop in loops if not loop.job_id.startswith("evaluate"))
            if trainer is not None and standby is None and drained:
                standby = await launch.stand_by(trainer, self.config.train.num_processes)
            todo = {name: loop for name, loop in todo.items() if not loop.done}
        return standby

    async def train(self, k: int, standby: launch.Standby | None) -> None:
        """The M-step of iteration k."""
        config = self.config
        origin = model_dir(self.folder, config, 0 if config.train.init == "base" else k - 1)
        job = launch.TrainJob(
            model_dir=origin,
            rationales=[iteration_dir(self.folder, k) / "rationales.parquet"],
            output_dir=iteration_dir(self.folder, k) / "checkpoint",
            iteration=k,
            learning_rate=config.learning_rate(k),
            seed=derive_seed(config.seed, "train", k),
            config=config.train,
        )
        result = await launch.train(job, lambda progress: None, standby=standby)
        self.clock.parts["training"] = self.clock.parts.get("training", 0.0) + result.seconds
        self._engine.swap(job.output_dir, read_probe(job.output_dir))

    def table(self, name: str, k: int) -> pa.Table:
        """A job's parts as one table, and one file."""
        whole = pq.read_table(iteration_dir(self.folder, k) / name)
        pq.write_table(whole, iteration_dir(self.folder, k) / f"{name}.parquet")
        return whole


async def run(loose: Loose) -> None:
    """The EM loop: evaluation of theta^(k-1) and sampling of iteration k together, then training."""
    config, problems = loose.config, loose.problems
    shown, prompts = config.prompts.sample_exemplars, config.prompts
    for k in range(1, config.iterations + 2):
        loops = [loose.job("predictions", k - 1, problems.test, EVALUATION, prompts.train_exemplars, 0.0)]
        last = k > config.iterations
        if not last:
            loops.insert(
                0, loose.job("attempts", k, problems.train, plan_of(config.scheme), shown, config.sample.temperature)
            )
        standby = await loose.draw(loops, None if last else iteration_dir(loose.folder, k) / "checkpoint")
        scores = score([loose.table("predictions", k - 1)], problems.train, problems.test)
        (iteration_dir(loose.folder, k - 1) / "scores.json").write_text(json.dumps(scores, indent=1))
        if not last:
            filtered = filter_attempts(problems.train, [loose.table("attempts", k)], config.filter, prompts)
            pq.write_table(filtered.verdicts, iteration_dir(loose.folder, k) / "verdicts.parquet")
            pq.write_table(filtered.rationales, iteration_dir(loose.folder, k) / "rationales.parquet")
            await loose.train(k, standby)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    _with_engines_environment()
    began = time.perf_counter()
    folder = chosen.folder.resolve()
    folder.mkdir(parents=True)
    loose = Loose(load_config(chosen.config), folder)
    _with_own_environment()
    asyncio.run(run(loose))
    loose.close()
    engine: dict[str, float] = {}
    for line in Path(os.environ["FEM_CLOCK"]).read_text().splitlines():
        for name, value in json.loads(line).items():
            engine[name] = engine.get(name, 0.0) + value
    parts = loose.clock.parts | {name: engine[name] for name in ("drawing", "evaluating")}
    parts["new weights"] = engine.get("swap", 0.0)
    seconds = time.perf_counter() - began
    record = {"seconds": seconds, "stages": [{"stage": "draw", "iteration": 1, "seconds": seconds, "parts": parts}]}
    (folder / RECORD).write_text(json.dumps(record, indent=1))


def _with_engines_environment() -> None:
    """Start again with the environment that an engine's process needs from its first instruction on."""
    if TOLD in os.environ:
        return
    device = find_device()
    wanted = environment(device)
    libraries = [lib for lib in (preload() if device == "cpu" else None, os.environ.get("LD_PRELOAD")) if lib]
    if libraries:
        wanted["LD_PRELOAD"] = ":".join(libraries)
    before = {name: os.environ.get(name) for name in wanted}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted | {TOLD: json.dumps(before)})


def _with_own_environment() -> None:
    """What children get: nothing of the engine's."""
    before: dict[str, Any] = json.loads(os.environ.pop(TOLD))
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


if __name__ == "__main__":
    main()
