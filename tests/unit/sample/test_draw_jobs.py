"""Draw jobs: what a calibration's prompts show is what the run's show."""

import json
from pathlib import Path

from made_run import made_config, make_run, problems_of

from fem_core.hints import others
from fem_core.problems.problem import Problem
from fem_core.prompts import messages
from fem_core.sample.job import DrawJob
from fem_core.sample.schemes import plan_of
from fem_core.store.store import Store
from flows.calibrate import sample_job
from tasks import bound, sample, step


def test_a_calibration_on_few_problems_shows_the_candidates_of_the_run(tmp_path: Path) -> None:
    prompts = {"hint": "candidates", "plain": "{question}", "hinted": "{question} {candidates}"}
    config = made_config(store=str(tmp_path), prompts=prompts)
    run = step.Run("made", config, Store.open(str(tmp_path)), tmp_path)
    made = {manifest.kind: manifest for manifest in reversed(make_run(run.store, config))}
    train, some = problems_of(range(40)), problems_of(range(2))
    work = sample.work(run.name, config, 1, made["problems"], made["model"])

    def heard(job: DrawJob) -> DrawJob:
        """As the host gets it."""
        return DrawJob.model_validate(json.loads(json.dumps(job.model_dump(mode="json"))))

    def shown(job: DrawJob, problems: list[Problem]) -> list[str]:
        known = heard(job).others(problems)
        return [messages(job.prompts, problem, "hinted", 0, known)[0]["content"] for problem in some]

    ordinary = sample.draw_job(run, "sample", work, 1, made["problems"], plan_of(config.scheme))
    assert ordinary.known is None and heard(ordinary).others(train) == others(config.prompts, train, config.seed)
    assert shown(sample_job(run, work, made["problems"], train), some) == shown(ordinary, train)


def test_probes_take_second_looks_whose_tokens_are_counted_and_ordinary_draws_take_none(tmp_path: Path) -> None:
    config = made_config(store=str(tmp_path), evaluate={"bound": {"problems": 6, "draws": 2}})
    run = step.Run("made", config, Store.open(str(tmp_path)), tmp_path)
    made = {manifest.kind: manifest for manifest in reversed(make_run(run.store, config))}
    work = bound.probes_work(run.name, config, 1, made["problems"], made["model"])
    assert bound.probes_job(run, work, 1, made["problems"], ()).looks_again
    assert not sample.sample_job(run, "sample", work, 1, made["problems"]).looks_again
