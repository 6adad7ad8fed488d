"""Draw jobs: what a calibration's prompts show is what the run's show."""

import json
from pathlib import Path

from made_run import made_config, make_run, problems_of

from fem_core.evaluate.bound import draw_seed as bound_seed
from fem_core.hints import others
from fem_core.problems.problem import Problem
from fem_core.prompts import messages
from fem_core.sample.job import DrawJob
from fem_core.sample.schemes import plan_of
from fem_core.store import layout
from fem_core.store.store import Store
from flows.calibrate import bound_job, filtered, look_job, sample_job
from tasks import bound, sample, step


def test_a_calibration_on_few_problems_shows_the_candidates_of_the_run(tmp_path: Path) -> None:
    prompts = {"hint": "candidates", "plain": "{question}", "hinted": "{question} {candidates}"}
    config = made_config(store=str(tmp_path), prompts=prompts, evaluate={"bound": {"problems": 6, "draws": 2}})
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
    probes = bound.probes_work(run.name, config, 0, made["problems"], made["model"])
    ids = tuple(problem.problem_id for problem in some)
    asked = bound_job(run, probes, made["problems"], train, ids)
    assert heard(asked).only == ids and asked.seed == bound_seed(config.seed)
    assert shown(asked, some) == shown(look_job(run, work, made["problems"], train), some) == shown(ordinary, train)
    assert ordinary.known is None and heard(ordinary).others(train) == others(config.prompts, train, config.seed)
    assert shown(sample_job(run, work, made["problems"], train), some) == shown(ordinary, train)


def test_probes_take_second_looks_whose_tokens_are_counted_and_ordinary_draws_take_none(tmp_path: Path) -> None:
    config = made_config(store=str(tmp_path), evaluate={"bound": {"problems": 6, "draws": 2}})
    run = step.Run("made", config, Store.open(str(tmp_path)), tmp_path)
    made = {manifest.kind: manifest for manifest in reversed(make_run(run.store, config))}
    work = bound.probes_work(run.name, config, 1, made["problems"], made["model"])
    assert bound.probes_job(run, work, 1, made["problems"], ()).looks_again
    assert not sample.sample_job(run, "sample", work, 1, made["problems"]).looks_again


def test_a_calibration_looks_at_its_draws_with_the_engine_and_measures_looks_by_themselves(tmp_path: Path) -> None:
    config = made_config(
        store=str(tmp_path),
        scheme={"name": "pps", "budget": 4, "keep": "all"},
        filter={"weighting": "importance", "blind": True},
        prompts={"exemplars": [{"question": "q", "rationale": "r", "answer": "a"}], "sample_exemplars": 1},
    )
    run = step.Run("made", config, Store.open(str(tmp_path)), tmp_path)
    made = {manifest.kind: manifest for manifest in reversed(make_run(run.store, config))}
    work, train = sample.work(run.name, config, 1, made["problems"], made["model"]), problems_of(range(10))
    drawn = sample_job(run, work, made["problems"], train)
    assert drawn.looks == ("plain_logprob", "blind_answer")
    looks = look_job(run, work, made["problems"], train)
    assert looks.looks == () and looks.looks_again and looks.plain_exemplars == 1
    assert (looks.stages, looks.max_tokens) == ((("hinted", 1),), 1), "prompts that the engine has read already"
    assert looks.artifact != drawn.artifact and looks.id != drawn.id


def test_a_calibrations_filter_leaves_what_the_whole_iteration_may_keep_to_the_estimate(tmp_path: Path) -> None:
    config = made_config(store=str(tmp_path), filter={"max_rationales": 2, "min_rationale_words": 1})
    store = Store.open(str(tmp_path))
    made = {manifest.artifact: manifest for manifest in make_run(store, config)}
    attempts = list(store.iter_tables(made[layout.iteration("made", 1, "attempts")]))
    in_run = made[layout.iteration("made", 1, "rationales")].stats
    found = filtered(problems_of(range(10)), attempts, config)
    assert in_run["accepted"] == 2
    assert found.stats["accepted"] == 2 + in_run["verdicts"]["over_size"]
