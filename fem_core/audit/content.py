"""What the tables of a run must say together, whoever wrote them: what is trained on, and what is kept from it.

Contract: training rows are the accepted verdicts; each training prompt is the plain one, rendered again here, so no hint
is in it; no test problem is among them, in any iteration that led to a checkpoint. These hold whatever the digests say.
One table is in memory at a time, and the (problem, attempt) pairs of one iteration.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from fem_core.audit.findings import Finding
from fem_core.audit.ledger import Ledger
from fem_core.config import PromptsConfig
from fem_core.filter.verdict import ACCEPTED
from fem_core.problems.problem import Problem, make_problem, question_identity
from fem_core.problems.profile import profile
from fem_core.prompts import messages
from fem_core.store.manifest import Manifest
from fem_core.store.reading import holder

_SHOWN = 160


def check(ledger: Ledger, manifest: Manifest, test: Mapping[str, Problem]) -> Iterator[Finding]:
    """What in an artifact's content does not hold.

    Args:
        test: the problems that the run is tested on, by id.

    Raises:
        FemError: a file that this needs does not hold; the audit has named it where it lies.
    """
    if manifest.kind == "problems":
        yield from _problems(ledger, manifest)
    elif manifest.kind == "rationales":
        yield from _accepted(ledger, manifest)
        yield from _training_rows(ledger, manifest, test)
    elif manifest.kind in ("scores", "bound"):
        yield from _figures(ledger, manifest)


def check_split(ledger: Ledger, train: Manifest, test: Mapping[str, Problem]) -> Iterator[Finding]:
    """Test problems among the training problems, by id and by what they ask."""
    asked = {question_identity(problem): problem.problem_id for problem in test.values()}
    for problem in ledger.problems(train).values():
        yield from _seen(train.artifact, None, problem.problem_id, problem, test, asked)


def _problems(ledger: Ledger, manifest: Manifest) -> Iterator[Finding]:
    found = ledger.problems(manifest)
    for problem in found.values():
        made = make_problem(
            problem.question, problem.answer, problem.answer_kind, choices=problem.choices, verifier=problem.verifier
        )
        if made.problem_id != problem.problem_id:
            yield _broken(manifest, None, "problem id of its own content", problem.problem_id, made.problem_id)
    rows = sum(record.rows or 0 for record in manifest.files)
    if len(found) != rows:
        yield _broken(manifest, None, "problems", f"{rows} rows", f"{len(found)} different ids")
        return
    for name, value in profile(list(found.values())).items():
        if name in manifest.stats and manifest.stats[name] != value:
            yield _broken(manifest, None, f"stats.{name}, counted again", manifest.stats[name], value)


def _accepted(ledger: Ledger, manifest: Manifest) -> Iterator[Finding]:
    """Training rows against the accepted verdicts beside them."""
    beside = [f"{artifact.rpartition('/')[0]}/verdicts" for artifact in (manifest.artifact, holder(manifest))]
    verdicts = next((one for one in map(ledger.manifest, beside) if one is not None), None)
    if verdicts is None:
        yield _broken(manifest, None, "verdicts beside the rationales", beside[0], ledger.trouble[beside[0]])
        return
    accepted: Counter[tuple[str, int]] = Counter()
    for table in ledger.store.iter_tables(verdicts, ["problem_id", "attempt", "verdict"]):
        accepted.update((row["problem_id"], row["attempt"]) for row in table.to_pylist() if row["verdict"] == ACCEPTED)
    trained: Counter[tuple[str, int]] = Counter()
    for table in ledger.store.iter_tables(manifest, ["problem_id", "attempt"]):
        trained.update((row["problem_id"], row["attempt"]) for row in table.to_pylist())
    for (problem_id, attempt), count in sorted((trained - accepted).items()):
        what = f"rationale of attempt {attempt} of problem {problem_id}"
        yield _broken(manifest, None, what, f"{accepted[problem_id, attempt]} accepted verdicts", f"{count} more rows")
    for problem_id, attempt in sorted(accepted - trained):
        what = f"accepted attempt {attempt} of problem {problem_id}"
        yield _broken(manifest, None, what, "a rationale", "none")


def _training_rows(ledger: Ledger, manifest: Manifest, test: Mapping[str, Problem]) -> Iterator[Finding]:
    try:
        config = PromptsConfig.model_validate(manifest.step.config.get("prompts"))
    except ValidationError:
        yield _broken(manifest, None, "prompts in the step's configuration", "a section prompts", "none that is valid")
        return
    source = ledger.producer(manifest, "problems")
    problems = {} if source is None else ledger.problems(source)
    asked = {question_identity(problem): problem.problem_id for problem in test.values()}
    names = sorted(record.path for record in manifest.files if record.path.endswith(".parquet"))
    columns = ["problem_id", "attempt", "prompt", "completion"]
    for name, table in zip(names, ledger.store.iter_tables(manifest, columns), strict=True):
        for row in table.to_pylist():
            problem = problems.get(row["problem_id"])
            yield from _seen(manifest.artifact, name, row["problem_id"], problem, test, asked)
            what = f"attempt {row['attempt']} of problem {row['problem_id']}"
            if problem is None:
                yield _broken(manifest, name, what, "a training problem", "no such problem among the inputs")
                continue
            plain = messages(config, problem, "plain", config.train_exemplars)
            if row["prompt"] != plain:
                hinted = _is_hinted(row["prompt"], config, problem)
                wanted, found = contrast(plain, row["prompt"])
                found = f"{'the hinted prompt' if hinted else 'another prompt'} {found}"
                yield _broken(manifest, name, f"training prompt of {what}", f"the plain prompt {wanted}", found)
            if [message["role"] for message in row["completion"] or ()] != ["assistant"]:
                yield _broken(
                    manifest, name, f"completion of {what}", "one assistant message", _shown(row["completion"])
                )


def _is_hinted(prompt: Any, config: PromptsConfig, problem: Problem) -> bool:
    """Whether this is the hinted prompt, where that can be made here: candidates follow from the run's seed."""
    if config.hint == "candidates" or (config.hint == "solution" and not problem.rationale):
        return False
    return bool(prompt == messages(config, problem, "hinted", config.train_exemplars))


def _seen(
    artifact: str,
    file: str | None,
    problem_id: str,
    problem: Problem | None,
    test: Mapping[str, Problem],
    asked: Mapping[str, str],
) -> Iterator[Finding]:
    same = problem_id if problem_id in test else asked.get(question_identity(problem)) if problem is not None else None
    if same is not None:
        what = f"problem {problem_id} is among the training data"
        yield Finding("broken", artifact, file, what, "no test problem", f"asks what test problem {same} asks")


def _figures(ledger: Ledger, manifest: Manifest) -> Iterator[Finding]:
    """What scores.json or bound.json says against the figures that the manifest repeats for reports."""
    for record in manifest.files:
        try:
            scores = json.loads(ledger.store.read_bytes(manifest, record.path))
        except ValueError:
            yield _broken(manifest, record.path, "scores", "a JSON object", "something else")
            continue
        if scores != manifest.stats:
            yield _broken(manifest, record.path, "scores", f"stats {_shown(manifest.stats)}", _shown(scores))


def _broken(manifest: Manifest, file: str | None, what: str, recorded: object, found: object) -> Finding:
    return Finding("broken", manifest.artifact, file, what, str(recorded), str(found))


def contrast(wanted: Any, found: Any) -> tuple[str, str]:
    """Both as text, from a little before the place where they part."""
    texts = [json.dumps(value, ensure_ascii=False) for value in (wanted, found)]
    parted = next((i for i, pair in enumerate(zip(*texts, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, parted - 20)
    first, second = ((f"…{text[start:]}" if start else text) for text in texts)
    return _cut(first), _cut(second)


def _shown(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
