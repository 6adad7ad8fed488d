"""Runs that ask the base model the same share its evaluation, whatever they draw with; older ones keep what they have."""

import asyncio
from pathlib import Path

import pytest
from made_run import made_config, make_run
from prefect.logging import disable_run_logger

from fem_core.audit.audit import audit
from fem_core.compare.cells import Cell, beside, cells
from fem_core.compare.comparison import Comparison
from fem_core.config import RunConfig
from fem_core.evaluate.score import VERSION
from fem_core.problems.problem import Problem, make_problem
from fem_core.schemas import ATTEMPTS
from fem_core.store import fork, layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from flows.compare import begin_beside
from flows.plan import plan
from tasks import evaluate, prepare, sample, step

EXEMPLARS = [{"question": f"What is {n} + 1?", "rationale": f"One after {n}.", "answer": str(n + 1)} for n in range(2)]
HINTS = ["answer", "answer_with_reason_request", "candidates"]


def manifest(store: Store, artifact: str) -> Manifest:
    found = store.manifest(artifact)
    assert found is not None
    return found


def asked(store: Store, config: RunConfig, exemplars: int = 0, version: int = evaluate.VERSION) -> str:
    """The key of the base model's predictions."""
    test, model = manifest(store, layout.problems("made", "test")), manifest(store, layout.model("made"))
    return evaluate.predictions_work("made", config, 0, test, model, exemplars, version).key


def drawn(store: Store, config: RunConfig) -> str:
    """The key of the first draws."""
    train, model = manifest(store, layout.problems("made", "train")), manifest(store, layout.model("made"))
    return sample.work("made", config, 1, train, model).key


@pytest.fixture
def made(made_folder: Path) -> Store:
    return Store.open(str(made_folder), check=False)


def test_hints_decide_what_is_drawn_and_not_what_the_base_model_answers(made: Store) -> None:
    configs = [made_config(prompts={"hint": hint}) for hint in HINTS]
    assert len({asked(made, config) for config in configs}) == 1
    assert len({drawn(made, config) for config in configs}) == len(HINTS)


def test_what_the_plain_prompt_shows_decides_what_the_base_model_answers(made: Store) -> None:
    base = {"exemplars": EXEMPLARS, "sample_exemplars": 2, "train_exemplars": 1}
    here = made_config(prompts=base)
    for change, count, same in (
        ({"sample_exemplars": 1}, 1, True),
        ({"exemplars": [EXEMPLARS[0], EXEMPLARS[0]]}, 1, True),
        ({"exemplars": EXEMPLARS[::-1]}, 1, False),
        ({"plain": "{question} Answer: <answer>"}, 1, False),
        ({"system": "You add."}, 1, False),
        ({}, 2, False),
    ):
        there = made_config(prompts=base | change)
        assert (asked(made, there, count) == asked(made, here, 1)) == same, change


def compared(store: Store, tmp_path: Path) -> tuple[Cell, ...]:
    """Two arms that differ in the hint, and one that asks otherwise."""
    base = made_config().model_dump(mode="json", exclude_defaults=True) | {"store": store.url}
    arms = [
        {"name": "other", "set": {"prompts.plain": "{question} Answer: <answer>"}},
        *({"name": hint, "set": {"prompts.hint": hint}} for hint in HINTS[:2]),
    ]
    return tuple(cells(Comparison.model_validate({"name": "c", "base": base, "arms": arms})))


def test_an_arm_with_another_hint_refers_to_the_evaluation_that_is_there(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    found = compared(store, tmp_path)
    _, first, second = found
    assert beside(found)[second.name] == first, "not the one that asks otherwise"
    make_run(store, first.config)
    begin_beside(store, second, first, check=False)
    record = store.run(second.name)
    inputs = [manifest(store, layout.problems(first.name, "test")), manifest(store, layout.model(first.name))]
    todo = evaluate.predictions_there(store, record, second.name, second.config, 0, *inputs, 0)
    shared = fork.find(store, record, todo.artifact, todo.key)
    assert shared is not None and shared.source == f"runs/{first.name}/iteration=000/predictions"
    assert audit(store, second.name, deep=True, cache=tmp_path).broken == ()
    draws = sample.work(second.name, second.config, 1, manifest(store, layout.problems(first.name, "train")), inputs[1])
    assert fork.find(store, record, draws.artifact, draws.key) is None


def test_the_plan_of_both_has_the_same_base_evaluation(tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text(
        "".join(f'{{"question": "What is {n} + 1?", "answer": "{n + 1}"}}\n' for n in range(20))
    )
    places = {"source": "table", "path": str(tmp_path / "sums.jsonl"), "answer_kind": "number", "test": 4}
    configs = [made_config(problems=places, prompts={"hint": hint}) for hint in HINTS[:2]]
    first, second = (
        {(one.step, one.artifact): one.key for one in plan(config, Store.open(str(tmp_path / "store")))}
        for config in configs
    )
    predictions, attempts = (layout.iteration("made", k, kind) for k, kind in ((0, "predictions"), (1, "attempts")))
    assert first["evaluate · 0", predictions] == second["evaluate · 0", predictions] is not None
    assert first["sample · 1", attempts] != second["sample · 1", attempts]


# -- what an older version made ----------------------------------------------------------------------------------------


def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions as version 1 knew them."""
    now = evaluate.predictions_work
    monkeypatch.setattr(evaluate, "predictions_work", lambda *given: now(*given[:6], 1))


def there(store: Store, name: str, config: RunConfig, k: int = 0) -> int:
    """The version as which a run of that name knows its predictions."""
    test = manifest(store, layout.problems("made", "test"))
    checkpoint = manifest(store, layout.iteration("made", k, "checkpoint") if k else layout.model("made"))
    todo = evaluate.predictions_there(store, store.run(name), name, config, k, test, checkpoint, 0)
    fork.find(store, store.run(name), todo.artifact, todo.key)  # raises where another key is there
    return todo.version


def test_predictions_of_an_older_version_stay_those_of_their_run_and_of_its_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = Store.open(str(tmp_path / "store")), made_config()
    with monkeypatch.context() as then:
        older(then)
        make_run(store)
    assert there(store, "made", config) == 1 and there(store, "made", config, 1) == 1
    other = made_config(prompts={"hint": "candidates"})
    for name, forked, version in (("same", config, 1), ("other", other, 2)):
        store.create_run(prepare.run_record(name, forked, fork.begin(store, "made", None)))
        assert there(store, name, forked) == version
    assert there(store, "unheard-of", config) == evaluate.VERSION


def test_predictions_that_an_older_version_had_begun_go_on(tmp_path: Path) -> None:
    store, config = Store.open(str(tmp_path / "store")), made_config()
    make_run(store, iterations=1)
    checkpoint = manifest(store, layout.iteration("made", 1, "checkpoint"))
    test = manifest(store, layout.problems("made", "test"))
    for k, version in ((2, 1), (3, 2)):
        todo = evaluate.predictions_work("made", config, k, test, checkpoint, 0, version)
        store.write_table(todo.artifact, layout.part_name(0), ATTEMPTS.empty_table(), todo.key)
        found = evaluate.predictions_there(store, store.run("made"), "made", config, k, test, checkpoint, 0)
        assert (found.version, list(store.parts(found.artifact, found.key))) == (version, [layout.part_name(0)])
    torn = layout.iteration("made", 4, "predictions")
    store.root.create(f"{torn}/{layout.part_name(0)}", b"PAR1 torn")
    found = evaluate.predictions_there(store, store.run("made"), "made", config, 4, test, checkpoint, 0)
    assert found.version == evaluate.VERSION


# -- the task, where predictions are there and scores are not ----------------------------------------------------------


async def told_to_nobody(*_: object) -> None:
    """No Prefect server is needed to score."""


@pytest.mark.parametrize(("kind", "version"), [("number", 1), ("label", VERSION)])
def test_the_task_scores_what_is_there_as_the_version_that_it_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, version: int
) -> None:
    store, places = Store.open(str(tmp_path / "store")), {"source": "table", "path": "s.jsonl", "test": 4}
    config = made_config(problems=places | {"answer_kind": kind})

    def pairs(numbers: range) -> list[Problem]:
        return [make_problem(f"What is {n} + 1?", str(n + 1), kind, group=f"pair {n // 2}") for n in numbers]

    with monkeypatch.context() as then:
        older(then)
        make_run(store, config, make=pairs)
    store.root.remove(f"{layout.iteration('made', 2, 'scores')}/{layout.MANIFEST}")
    monkeypatch.setattr(evaluate.metrics, "scored", told_to_nobody)
    run = step.Run("made", config, store, tmp_path, record=store.run("made"))
    places_of_inputs = [layout.problems("made", side) for side in ("train", "test")]
    inputs = [manifest(store, place) for place in (*places_of_inputs, layout.iteration("made", 2, "checkpoint"))]
    with disable_run_logger():
        scores = asyncio.run(evaluate.evaluate.fn(run, 2, *inputs, 0))
    assert scores.step.version == version and ("interval" in scores.stats) == (version == VERSION)
    assert audit(store, "made", deep=True, cache=tmp_path).broken == ()
