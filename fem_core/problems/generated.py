"""Problems made by reasoning-gym's generators.

Contract: train and test are cut from one stream of distinct questions, test first, so no question is on both sides and
the test problems stay the same when N grows. A generated entry becomes a problem only if its own answer, written on an
answer line and scored after the trip through JSON, reaches the threshold, and nonsense does not: what nobody could get
right, or wrong, is left out. Generators whose scorers would evaluate the answer as code are refused or fenced
(``EVALUATING``).
"""

import contextlib
import dataclasses
import difflib
import importlib
import importlib.metadata
import io
from collections import Counter
from typing import Any

from fem_core.config_problems import ReasoningGymProblems
from fem_core.digest import derive_seed, digest
from fem_core.errors import FemError
from fem_core.problems import lossless
from fem_core.problems.answers import parse_answer
from fem_core.problems.problem import Problem, make_problem, question_identity
from fem_core.problems.registry import ProblemSet
from fem_core.problems.verifier import EVALUATING, REFUSED

_BARREN = 1000
"""Draws in a row without a new question after which the generator counts as exhausted."""

_NONSENSE = "zzz"
"""An answer that no scorer may accept; game_of_life_halting's takes every text (reasoning-gym 0.1.25)."""

_TRIAL = 30
"""Unfit entries from which a generator is given up when they are the majority: the rest would be a biased choice."""


def load(config: ReasoningGymProblems, seed: int) -> ProblemSet:
    """The first ``test + train`` distinct problems of the generator's stream.

    Raises:
        FemError: the generator or a parameter is unknown or refused, or it cannot make that many distinct problems.
    """
    wanted = config.test + config.train
    params = dict(config.params)
    stream_seed = derive_seed(seed, "problems", config.dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = _create(config.dataset, params, stream_seed, size=max(10_000, 4 * wanted))
        found, left_out, draws = _collect(dataset, config, wanted)
    reasons = [f"{count} because {reason}" for reason, count in sorted(left_out.items())]
    if len(found) < wanted:
        if _hopeless(left_out, draws):
            raise FemError(
                f"Most entries of {config.dataset} with these parameters cannot serve: of {draws} drawn, "
                f"{', '.join(reasons)}. Choose another generator or other problems.params."
            )
        raise FemError(
            f"{config.dataset} with these parameters gave {len(found)} distinct problems in {draws} draws, but "
            f"problems.train + problems.test ask for {wanted}. Ask for fewer, or set problems.params so that it varies "
            "more."
        )
    identity = {
        "dataset": config.dataset,
        "params": params,
        "seed": stream_seed,
        "threshold": config.threshold,
        "counts": [config.train, config.test],
        "reasoning_gym": importlib.metadata.version("reasoning_gym"),
    }
    notes = [f"{config.dataset}: of {draws} drawn problems, left out {', '.join(reasons)}."] if reasons else []
    return ProblemSet(found[config.test :], found[: config.test], {"generator": digest(identity)}, notes)


def _create(name: str, params: dict[str, Any], seed: int, size: int) -> Any:
    factory = importlib.import_module("reasoning_gym.factory")
    importlib.import_module("reasoning_gym")
    if name not in factory.DATASETS:
        near = difflib.get_close_matches(name, factory.DATASETS, n=3, cutoff=0.5)
        way = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(sorted(factory.DATASETS))}."
        raise FemError(f"reasoning_gym has no generator {name!r}. {way}")
    if name in REFUSED:
        raise FemError(f"The generator {name} is refused: {REFUSED[name]}. Choose another generator.")
    known = {field.name for field in dataclasses.fields(factory.DATASETS[name][1])} - {"seed", "size"}
    unknown = sorted(params.keys() - known)
    if unknown:
        reserved = " seed and size follow from the run." if {"seed", "size"} & set(unknown) else ""
        raise FemError(
            f"The generator {name} has no parameter {', '.join(unknown)}.{reserved} "
            f"Its parameters are: {', '.join(sorted(known)) or 'none'}."
        )
    try:
        return factory.create_dataset(name, seed=seed, size=size, **params)
    except Exception as error:
        raise FemError(
            f"The generator {name} refuses problems.params {params}: {str(error) or type(error).__name__}. "
            "Change that parameter."
        ) from error


def _collect(dataset: Any, config: ReasoningGymProblems, wanted: int) -> tuple[list[Problem], Counter[str], int]:
    """Up to ``wanted`` distinct problems, why others were left out, and how many entries were drawn."""
    found: dict[str, Problem] = {}
    left_out: Counter[str] = Counter()
    draws = barren = 0
    while draws < dataset.size and len(found) < wanted and barren < _BARREN and not _hopeless(left_out, draws):
        try:
            entry = dataset[draws]
        except Exception as error:
            raise FemError(
                f"The generator {config.dataset} failed at draw {draws}: {str(error) or type(error).__name__}. "
                "Change problems.params or choose another generator."
            ) from error
        draws += 1
        barren += 1
        problem = _problem(config, entry)
        why = _unfit(problem, dataset, config, entry)
        if why is not None:
            left_out[why] += 1
        elif question_identity(problem) not in found:
            found[question_identity(problem)] = problem
            barren = 0
    return list(found.values()), left_out, draws


def _hopeless(left_out: Counter[str], draws: int) -> bool:
    unfit = left_out.total()
    return unfit >= _TRIAL and 2 * unfit > draws


def _problem(config: ReasoningGymProblems, entry: dict[str, Any]) -> Problem:
    answer = entry["answer"]
    record = {
        "source": "reasoning_gym",
        "dataset": config.dataset,
        "params": dict(config.params),
        "threshold": config.threshold,
        "time_limit": config.time_limit,
        "entry": {key: entry[key] for key in ("question", "answer", "metadata")},
    }
    try:
        verifier = lossless.dumps(record)
    except TypeError as error:
        raise FemError(
            f"An entry of the generator {config.dataset} cannot be stored: {error}. Choose another generator."
        ) from error
    text = "" if answer is None else str(answer).strip()
    return make_problem(str(entry["question"]), text, "reasoning_gym", verifier=verifier)


def _unfit(problem: Problem, dataset: Any, config: ReasoningGymProblems, entry: dict[str, Any]) -> str | None:
    """Why an entry cannot serve, or None. The scorer runs here in-process: the answer is the generator's own."""
    if not problem.question.strip():
        return "the question is empty"
    if not problem.answer:
        return "the generator gives no answer of its own, which a hint needs"
    parsed = parse_answer(f"Answer: {problem.answer}", problem)
    if parsed is None or parsed.answer != problem.answer:
        return "the answer does not fit on one answer line"
    if config.dataset in EVALUATING and not EVALUATING[config.dataset](problem.answer):
        return "the answer holds characters that are refused before this scorer"
    assert problem.verifier is not None
    stored = lossless.loads(problem.verifier)["entry"]
    try:
        score = float(dataset.score_answer(problem.answer, stored))
    except Exception as error:  # noqa: BLE001 - a scorer of the library may raise anything
        return f"the scorer raises {type(error).__name__} on the generator's own answer"
    if score < config.threshold - 1e-9:
        return "the scorer rates the generator's own answer below problems.threshold"
    with contextlib.suppress(Exception):
        if float(dataset.score_answer(_NONSENSE, stored)) >= config.threshold - 1e-9:
            return f"the scorer accepts {_NONSENSE!r}, so it would accept anything"
    return None
