"""A short calibration of a run on this machine: the run's own host, jobs, filter and trainer on a few of its problems.

Contract: writes into a temporary store in the cache, which is gone when it returns, and nothing into the run's. What it
does is what the run does, in the same order: sample and evaluate side by side, filter, sleep, train, change the weights.
Nothing of the run's is reused later: a run draws anew.
"""

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from fem_core.config import RunConfig
from fem_core.device import find_device
from fem_core.digest import derive_seed
from fem_core.filter.rationales import Filtered, filter_attempts
from fem_core.hints import others
from fem_core.model import BaseModelFolder
from fem_core.problems.answers import answer_text
from fem_core.problems.problem import Problem, to_table
from fem_core.problems.registry import ProblemSet
from fem_core.prompts import ChatTokens, completion, messages
from fem_core.report.calibration import Accepted, Calibration, Moment, Training, drawn, kinds, rates, training
from fem_core.sample.client import EngineHost
from fem_core.sample.given import GIVEN, is_given
from fem_core.sample.job import DrawJob, host_settings
from fem_core.sample.schemes import plan_of
from fem_core.schemas import RATIONALES
from fem_core.store import layout
from fem_core.store.manifest import InputRef, Manifest
from fem_core.store.store import Store
from fem_core.train import launch
from tasks import bound, evaluate, prepare, sample, step

OPTIMIZER_STEPS = 3
"""The first pays for what is done once; two are measured."""

Say = Callable[[str], None]


@dataclass
class _Heard:
    """What the engine host said, by the clock of this process."""

    asked: float
    began: float | None = None
    moments: list[Moment] = field(default_factory=list)
    looked: dict[str, int] = field(default_factory=dict)
    """Tokens of second looks, by job."""

    def hear(self, event: dict[str, Any]) -> None:
        """A listener for all jobs."""
        if self.began is None:
            self.began = time.monotonic()
            self.moments.append(Moment(0.0, 0, 0, 1))
        if event["event"] == "progress":
            engine = event["engine"]
            self.looked[event["id"]] = event["look_tokens"]
            running = engine["unfinished"] - engine["waiting"]
            seconds = time.monotonic() - self.began
            looked = sum(self.looked.values())
            self.moments.append(Moment(seconds, engine["generated"], running, engine["waiting"], looked))

    @property
    def start(self) -> float:
        """Seconds from the request to the first job's beginning."""
        return (self.began or time.monotonic()) - self.asked


async def calibrate(
    config: RunConfig,
    model: BaseModelFolder,
    problems: ProblemSet,
    longest_sequence: int,
    prepared: tuple[float, int],
    count: int,
    cache: Path,
    say: Say,
) -> Calibration:
    """Measure what a run costs on this machine.

    Args:
        longest_sequence: see ``host_settings``.
        prepared: seconds and bytes of the prepare step.
        count: problems to draw on, of each side; fewer where there are fewer.
        say: hears a line when a part is done.

    Raises:
        FemError: what the run itself would refuse.
        EngineDied, TrainerDied: what would end the run.
    """
    staging = cache / "staging"
    staging.mkdir(parents=True, exist_ok=True)
    _clear_dead(staging)
    with tempfile.TemporaryDirectory(prefix=f".plan-{os.getpid()}-", dir=staging) as folder:
        store = await step.in_store_thread(Store.open, f"{folder}/store")
        place = config.model_copy(update={"name": "calibration", "store": f"{folder}/store"})
        run = step.Run("calibration", place, store, cache, model)
        return await _Measured(run, model, problems, prepared, count, Path(folder), say).all(longest_sequence)


def sample_job(run: step.Run, work: step.Work, some: Manifest, problems: Sequence[Problem]) -> DrawJob:
    """The run's E-step on some of its training problems, with the hints that the run gives them.

    Args:
        problems: all training problems.
    """
    job = sample.sample_job(run, "sample", work, 1, some)
    return job.model_copy(update={"known": others(run.config.prompts, problems, run.config.seed)})


def bound_job(
    run: step.Run, work: step.Work, some: Manifest, problems: Sequence[Problem], ids: tuple[str, ...]
) -> DrawJob:
    """The run's draws for its bound on some of its training problems, with the hints that the run gives them.

    Args:
        problems: all training problems.
        ids: of those to draw for.
    """
    job = bound.probes_job(run, work, 0, some, ids)
    return job.model_copy(update={"known": others(run.config.prompts, problems, run.config.seed)})


def look_job(run: step.Run, work: step.Work, some: Manifest, problems: Sequence[Problem]) -> DrawJob:
    """Next to nothing but second looks: a draw of one token for each problem, and a look at its direct answer.

    Args:
        work: of the run's sample step; what is drawn here lies beside its artifact.
        problems: all training problems.
    """
    config = run.config
    kind = (*plan_of(config.scheme).kinds, "hinted")[0]  # where completions are given, that of the bound
    asked = {"id": "looks", "artifact": layout.iteration(run.name, 1, "looks"), "stages": ((kind, 1),), "looks": ()}
    prompts = config.prompts
    exemplars = prompts.sample_exemplars if config.filter.looks else prompts.train_exemplars
    shown = {"max_tokens": 1, "plain_exemplars": exemplars}
    return sample_job(run, work, some, problems).model_copy(update=asked | shown)


def filtered(problems: Sequence[Problem], attempts: Iterable[pa.Table], config: RunConfig) -> Filtered:
    """The run's filter on some of its problems, without ``filter.max_rationales``, which is for all of them together."""
    without = config.filter.model_copy(update={"max_rationales": None})
    return filter_attempts(problems, attempts, without, config.prompts)


def _clear_dead(staging: Path) -> None:
    """Remove what calibrations left that were killed; no run's name begins with a dot."""
    for folder in staging.glob(".plan-*-*"):
        if not psutil.pid_exists(int(folder.name.split("-")[1])):
            shutil.rmtree(folder, ignore_errors=True)


class _Measured:
    """One calibration."""

    def __init__(
        self,
        run: step.Run,
        model: BaseModelFolder,
        problems: ProblemSet,
        prepared: tuple[float, int],
        count: int,
        folder: Path,
        say: Say,
    ) -> None:
        self._run, self._config, self._model, self._problems = run, run.config, model, problems
        self._prepared, self._folder, self._say = prepared, folder, say
        self._random = random.Random(derive_seed(run.config.seed, "calibration"))
        shown = self._config.prompts
        self._baseline = self._config.evaluate.exemplar_baseline and shown.sample_exemplars != shown.train_exemplars
        self._train = self._some(problems.train, count)
        # Two evaluations share what one would have, so that as many draws are in flight with the baseline as without.
        self._test = self._some(problems.test, max(1, count // 2) if self._baseline else count)
        asked = self._config.evaluate.bound
        # As many draws as the sample step's first ones, on two problems at least, as a range needs them.
        self._probes = [] if asked is None else self._some(self._train, max(2, count // asked.draws))

    async def all(self, longest_sequence: int) -> Calibration:
        """See ``calibrate``."""
        run, config = self._run, self._config
        todo = prepare.model_work(run.name, config)
        base = todo.manifest(prepare.model_files(self._model), step.now(), stats={}, location=self._model.name)
        train, test = await self._commit("train", self._train), await self._commit("test", self._test)
        shown = [config.prompts.train_exemplars] + ([config.prompts.sample_exemplars] if self._baseline else [])
        given = is_given(config.scheme)
        works = [sample.work(run.name, config, 1, train, base)]
        works += [evaluate.predictions_work(run.name, config, 0, test, base, exemplars) for exemplars in shown]
        probes = bound.probes_work(run.name, config, 0, train, base) if self._probes else None
        jobs = [] if given else [sample_job(run, works[0], train, self._problems.train)]
        jobs += [
            evaluate.predictions_job(run, work, 0, test, exemplars)
            for work, exemplars in zip(works[1:], shown, strict=True)
        ]
        if probes is not None:
            ids = tuple(problem.problem_id for problem in self._probes)
            jobs.append(bound_job(run, probes, train, self._problems.train, ids))
            works.append(probes)
        settings = host_settings(config, self._model, longest_sequence)
        async with EngineHost(settings, run.cache / "logs" / "plan-engine.log") as host:
            heard = await _draw(host, jobs, (base.digest, self._model.path))
            if given:
                await step.in_store_thread(sample.give, run, works[0], self._train)
            tables = [await step.in_store_thread(self._parts, work) for work in works]
            sides = [(self._train, len(self._problems.train))] + [(self._test, len(self._problems.test))] * len(shown)
            if config.evaluate.bound is not None:
                sides.append((self._probes, min(config.evaluate.bound.problems, len(self._problems.train))))
            looked = ([0] if given else []) + [heard.looked.get(job.id, 0) for job in jobs]
            draws = [
                drawn(found, [problem.problem_id for problem in some], of, size, tokens)
                for (found, size), (some, of), tokens in zip(tables, sides, looked, strict=True)
            ]
            looking = await self._looking(host, works[0], train, base) if any(looked) else None
            measured = rates(heard.moments, sum(sum(one.first_prompt_tokens) for one in draws), looking)
            memory = _resident(host.pid) if find_device() == "cpu" else None
            self._say(
                f"engine started in {heard.start:.1f} s, then {sum(sum(one.draws) for one in draws)} draws in "
                f"{heard.moments[-1].seconds:.1f} s"
            )
            filtered, accepted = await self._filter(works[0], tables[0][0])
            self._say(f"{accepted.problems} of {len(self._train)} problems accepted")
            await host.sleep()
            trained, checkpoint = await self._trained(filtered.rationales)
            self._say(f"trained {OPTIMIZER_STEPS} steps, {trained.tokens_per_second:.0f} tokens/s")
            swap = await self._swapped(host, test, checkpoint)
        return Calibration(
            sample=draws[0],
            kinds=() if given else kinds(tables[0][0]),
            evaluate=draws[1],
            baseline=draws[2] if self._baseline else None,
            bound=draws[-1] if self._probes else None,
            rates=measured,
            accepted=accepted,
            training=trained,
            prepare_seconds=self._prepared[0],
            prepare_bytes=self._prepared[1],
            engine_start=heard.start,
            swap=swap,
            engine_gib=memory,
        )

    def _some(self, problems: Sequence[Problem], count: int) -> list[Problem]:
        chosen = sorted(self._random.sample(range(len(problems)), min(count, len(problems))))
        return [problems[i] for i in chosen]

    async def _commit(self, split: str, problems: list[Problem]) -> Manifest:
        source = (InputRef(role="run", artifact="calibration", digest=self._config.digest()),)
        todo = prepare.problems_work(self._run.name, self._config, split, source)
        name, store = layout.part_name(0), self._run.store
        record = await step.in_store_thread(store.write_table, todo.artifact, name, to_table(problems), todo.key)
        return await step.in_store_thread(store.commit, todo.manifest([record], step.now(), stats={}))

    def _parts(self, work: step.Work) -> tuple[list[pa.Table], int]:
        """The tables of a job and the bytes of their files."""
        store = self._run.store
        files = list(store.parts(work.artifact, work.key).values())
        made = work.manifest(files, step.now(), stats={})
        return list(store.iter_tables(made)), sum(one.bytes for one in files)

    async def _filter(self, work: step.Work, attempts: list[pa.Table]) -> tuple[Filtered, Accepted]:
        config, begun = self._config, time.monotonic()
        found = filtered(self._train, attempts, config)
        store, artifact = self._run.store, layout.iteration(self._run.name, 1, "rationales")
        sizes = [
            (await step.in_store_thread(store.write_table, artifact, name, table, work.key)).bytes
            for name, table in (("verdicts.parquet", found.verdicts), ("rationales.parquet", found.rationales))
        ]
        seconds = time.monotonic() - begun
        tokens = ChatTokens(self._model.path, config.model.trust_remote_code)
        return found, Accepted(
            found.stats["problems_accepted"],
            found.rationales.num_rows,
            training_tokens(found.rationales, tokens),
            seconds,
            sum(sizes),
            sizes[1],
            config.filter.max_rationales,
        )

    async def _looking(self, host: EngineHost, work: step.Work, some: Manifest, base: Manifest) -> float:
        """Tokens per second of second looks, where the engine does little else."""
        heard = await _draw(
            host, [look_job(self._run, work, some, self._problems.train)], (base.digest, self._model.path)
        )
        return sum(heard.looked.values()) / heard.moments[-1].seconds

    async def _trained(self, rationales: pa.Table) -> tuple[Training, Path]:
        """The real trainer on a few batches of the accepted rationales, one micro batch to an optimizer step."""
        config, run = self._config.train, self._run
        batch = min(config.micro_batch_size, config.batch_size) * config.num_processes
        made_up = not rationales.num_rows
        rows = self._from_exemplars() if made_up else rationales
        wanted = OPTIMIZER_STEPS * batch
        order = [
            i
            for _ in range(-(-wanted // rows.num_rows))
            for i in self._random.sample(range(rows.num_rows), rows.num_rows)
        ]
        file = self._folder / "rows.parquet"
        pq.write_table(rows.take(order[:wanted]), file)
        job = launch.TrainJob(
            model_dir=self._model.path,
            rationales=[file],
            output_dir=self._folder / "checkpoint",
            iteration=1,
            learning_rate=self._config.learning_rate(1),
            seed=derive_seed(self._config.seed, "train", 1),
            config=config.model_copy(update={"epochs": 1.0, "batch_size": batch, "save_minutes": None}),
            trust_remote_code=self._config.model.trust_remote_code,
        )
        progress: list[launch.TrainProgress] = []
        begun = time.monotonic()
        result = await launch.train(job, progress.append)
        artifact = layout.iteration(run.name, 1, "checkpoint")
        files = await step.in_store_thread(run.store.put_directory, artifact, job.output_dir)
        wall = time.monotonic() - begun
        size = sum(one.bytes for one in files)
        return training(progress, wall, wanted, size, result.peak_memory_gib, made_up), job.output_dir

    def _from_exemplars(self) -> pa.Table:
        """Rows of the right form where no attempt was accepted: a gold rationale, or an exemplar's, before y*."""
        shown, rows = self._config.prompts, []
        for i, problem in enumerate(self._train):
            exemplar = shown.exemplars[i % len(shown.exemplars)].rationale if shown.exemplars else ""
            text = f"{problem.rationale or exemplar}\nAnswer: {answer_text(problem)}"
            rows.append(
                {
                    "prompt": messages(shown, problem, "plain", shown.train_exemplars),
                    "completion": completion(text.strip()),
                    "problem_id": problem.problem_id,
                    "attempt": 0,
                    "prompt_kind": "plain",
                    "completion_tokens": 0,
                }
            )
        return pa.Table.from_pylist(rows, schema=RATIONALES)

    async def _swapped(self, host: EngineHost, test: Manifest, checkpoint: Path) -> float:
        """Seconds from asking for a draw with the new weights to its beginning."""
        run, config = self._run, self._config
        todo = evaluate.predictions_work(run.name, config, 1, test, test, config.prompts.train_exemplars)
        job = evaluate.predictions_job(run, todo, 1, test, config.prompts.train_exemplars)
        heard = await _draw(host, [job.model_copy(update={"max_tokens": 1})], ("trained", checkpoint))
        return heard.start


def training_tokens(rationales: pa.Table, tokens: ChatTokens) -> int:
    """Tokens of training rows (``schemas.RATIONALES``), prompts included; a given completion is measured here."""
    rows = rationales.select(["prompt", "completion", "prompt_kind", "completion_tokens"]).to_pylist()
    return sum(
        len(tokens.ids(row["prompt"] + row["completion"]))
        if row["prompt_kind"] == GIVEN
        else len(tokens.ids(row["prompt"])) + row["completion_tokens"]
        for row in rows
    )


async def _draw(host: EngineHost, jobs: list[DrawJob], weights: tuple[str, Path]) -> _Heard:
    heard = _Heard(time.monotonic())
    await asyncio.gather(*(host.draw(job, weights, heard.hear) for job in jobs))
    return heard


def _resident(pid: int | None) -> float:
    """Memory of a process and its children, GiB."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return float(sum(one.memory_info().rss for one in family) / 2**30)
