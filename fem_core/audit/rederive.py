"""The deterministic steps done again from what they read: prompts, given completions, verdicts, rationales, scores; and
each draw's seed.

Contract: only steps whose code has the recorded version are done again. What is compared is the bytes of the files; where
they differ and another pyarrow wrote them, the tables; of figures, the values, floats up to rounding. A verifier that does
not decide in time decides nothing here either, so such an attempt is counted in a note. Draws and training are recorded,
not repeated: they are not bit-stable.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from fem_core import annotations, preview
from fem_core.audit import looks, tokenizer
from fem_core.audit.content import contrast
from fem_core.audit.findings import Finding
from fem_core.audit.ledger import Ledger
from fem_core.config import FilterConfig, PromptsConfig, SchemeConfig
from fem_core.config_files import parse_config
from fem_core.digest import derive_seed, digest
from fem_core.errors import FemError
from fem_core.evaluate import bound as bounds
from fem_core.evaluate import score as scoring
from fem_core.filter import rationales as filtering
from fem_core.filter.verdict import VERIFIER_TIMEOUT, judge
from fem_core.problems.problem import Problem
from fem_core.problems.verifier import Verifier
from fem_core.sample.draw import draw_stats
from fem_core.sample.given import given_by, given_rows, given_stats
from fem_core.schemas import ATTEMPTS
from fem_core.store import tables
from fem_core.store.manifest import Manifest

KINDS = ("prompts", "attempts", "predictions", "verdicts", "rationales", "scores", "probes", "bound")
"""What can be derived again."""

NOT_AGAIN = "not derived again"
"""How a finding begins that says of an artifact that it was not derived again."""

_ANY_LENGTH = 1 << 62
"""A context that every prompt fits: whether they fit was asked before the run began."""

_UNREAD = {"source": "table", "path": "unread", "answer_kind": "number", "test": 1}
"""Where problems come from, for a configuration whose problems are read from the store."""

_ROUNDING = 1e-9
"""Of figures derived again, both relative and absolute."""

_JUDGED = ["problem_id", "attempt", "text", "finish_reason", "answer", "verdict", "seed"]


class Rederiver:
    """Does steps again for one audit; ``verifier`` judges the answers of generated problems, and the packaged model may
    be in ``cache``."""

    def __init__(self, ledger: Ledger, verifier: Verifier, cache: Path) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._verifier = verifier
        self._cache = cache
        self._last: tuple[str, filtering.Filtered] | None = None

    def check(self, manifest: Manifest) -> Iterator[Finding]:
        """Where an artifact is not what its step gives from its inputs.

        Raises:
            FemError: a file that this needs does not hold, or the verifier cannot run.
        """
        if manifest.kind == "prompts":
            yield from self._prompts(manifest)
        elif manifest.kind in ("attempts", "predictions", "probes"):
            yield from self._attempts(manifest)
        elif manifest.kind in ("verdicts", "rationales"):
            yield from self._filtered(manifest)
        elif manifest.kind == "scores":
            yield from self._scores(manifest)
        elif manifest.kind == "bound":
            yield from self._bound(manifest)

    # -- rendered prompts ---------------------------------------------------------------------------------------------

    def _prompts(self, manifest: Manifest) -> Iterator[Finding]:
        if manifest.step.version != preview.VERSION:
            yield _other_step(manifest, preview.VERSION)
            return
        model = self._ledger.producer(manifest, "model")
        if model is None:
            raise FemError(f"The input 'model' of {manifest.artifact} is not in the store. Restore it from a backup.")
        try:
            tokens = tokenizer.load(self._ledger, model, self._cache)
        except tokenizer.NoTokenizer as error:
            what = f"{NOT_AGAIN}: no tokenizer of the base model is here"
            yield Finding("note", manifest.artifact, None, what, found=str(error))
            return
        config = parse_config({**manifest.step.config, "problems": _UNREAD})
        train, test = (list(self._problems(manifest, side).values()) for side in ("train", "test"))
        again = preview.examples_json(preview.examples(config, train, tokens))
        versions = _other_versions(manifest, "transformers")
        for file in manifest.files:
            there: Any = json.loads(self._store.read_bytes(manifest, file.path))
            if not isinstance(there, list) or not all(isinstance(example, dict) for example in there):
                yield _broken(manifest, file.path, "examples", "a list of objects", "something else")
                continue
            none: dict[str, Any] = {}
            for i, (mine, theirs) in enumerate(zip_longest(there, again, fillvalue=none)):
                for name in sorted(mine.keys() | theirs.keys()):
                    if mine.get(name) != theirs.get(name):
                        what = f"{name} of example {i}, rendered again{versions}"
                        yield _broken(manifest, file.path, what, *contrast(mine.get(name), theirs.get(name)))
        lengths = preview.check_lengths(config, train, test, tokens, _ANY_LENGTH)
        yield from _stats(manifest, vars(lengths))

    # -- verdicts of draws --------------------------------------------------------------------------------------------

    def _attempts(self, manifest: Manifest) -> Iterator[Finding]:
        problems = self._problems(manifest, "problems")
        names = sorted(record.path for record in manifest.files if record.path.endswith(".parquet"))
        columns = [*_JUDGED, *(looks.COLUMNS if manifest.step.config.get("looks") else ())]
        for name, table in zip(names, self._store.iter_tables(manifest, columns), strict=True):
            yield from self._part(manifest, name, table, problems)
        scheme = given_by(manifest.step.config)
        counted = self._store.iter_tables(manifest, ["problem_id", "verdict", "prompt_tokens", "completion_tokens"])
        if scheme is not None:
            yield from self._given(manifest, scheme, list(problems.values()))
            yield from _stats(manifest, given_stats(scheme, problems.values(), counted))
        else:
            yield from _stats(manifest, draw_stats(counted))

    def _given(self, manifest: Manifest, scheme: SchemeConfig, problems: list[Problem]) -> Iterator[Finding]:
        """Rows that are not those given again; their verdicts are judged row by row."""
        again = pa.Table.from_pylist(given_rows(scheme, problems), schema=ATTEMPTS).drop_columns(["answer", "verdict"])
        there = self._store.read_table(manifest).select(again.column_names)
        first = _first_difference(there, again)
        if first is not None:
            yield _broken(manifest, None, f"completions, given again, {first[0]}", first[1], first[2])

    def _part(
        self, manifest: Manifest, name: str, table: pa.Table, problems: Mapping[str, Problem]
    ) -> Iterator[Finding]:
        config, undecided = manifest.step.config, 0
        for row in table.to_pylist():
            problem = problems.get(row["problem_id"])
            what = f"attempt {row['attempt']} of problem {row['problem_id']}"
            if problem is None:
                yield _broken(manifest, name, what, "a problem of the step's input", "no such problem")
                continue
            if _seeded(manifest, row["attempt"]):
                start = bounds.draw_seed(config["seed"]) if manifest.kind == "probes" else config["seed"]
                seed = derive_seed(start, config["iteration"], row["problem_id"], row["attempt"])
                if row["seed"] != seed:
                    yield _broken(manifest, name, f"seed of {what}", row["seed"], seed)
            if asked := config.get("looks"):
                for column, there, wanted in looks.differences(row, asked, problem, self._verifier):
                    yield _broken(manifest, name, f"{column} of {what}", there, wanted)
            if row["verdict"] == VERIFIER_TIMEOUT:
                undecided += 1
                continue
            again = judge(row["text"], row["finish_reason"], problem, self._verifier)
            if again.verdict == VERIFIER_TIMEOUT:
                undecided += 1
            elif (again.verdict, again.answer) != (row["verdict"], row["answer"]):
                scorer = "math-verify" if problem.answer_kind == "math" else "reasoning-gym"
                yield _broken(
                    manifest,
                    name,
                    f"verdict of {what}, judged again{_other_versions(manifest, scorer)}",
                    f"{row['verdict']} ({row['answer']!r})",
                    f"{again.verdict} ({again.answer!r})",
                )
        if undecided:
            what = f"{undecided} attempts on which the verifier did not decide in time are not judged again"
            yield Finding("note", manifest.artifact, name, what)

    # -- filter -------------------------------------------------------------------------------------------------------

    def _filtered(self, manifest: Manifest) -> Iterator[Finding]:
        if manifest.step.version != filtering.VERSION:
            yield _other_step(manifest, filtering.VERSION)
            return
        try:
            result = self._filter(manifest)
        except (KeyError, ValueError, ValidationError) as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            yield _broken(manifest, None, "filter done again", "a result", why)
            return
        table = result.verdicts if manifest.kind == "verdicts" else result.rationales
        yield from self._same_table(manifest, table)
        yield from _stats(manifest, result.stats)

    def _filter(self, manifest: Manifest) -> filtering.Filtered:
        """Verdicts and rationales come from the same call, so the second of them finds it done."""
        config = manifest.step.config
        prompts, attempts = config["prompts"], self._ledger.producer(manifest, "attempts")
        same = digest([config["filter"], prompts, [[ref.role, ref.artifact, ref.digest] for ref in manifest.inputs]])
        if self._last is None or self._last[0] != same:
            if attempts is None:
                raise ValueError("its attempts are not in the store")
            result = filtering.filter_attempts(
                self._problems(manifest, "problems").values(),
                self._store.iter_tables(attempts),
                FilterConfig.model_validate(config["filter"]),
                PromptsConfig.model_validate(prompts),
                self._said(manifest),
            )
            self._last = same, result
        return self._last[1]

    def _said(self, manifest: Manifest) -> list[annotations.Annotation]:
        """The annotations that the filter read."""
        version = self._ledger.producer(manifest, "annotations")
        if version is None and manifest.step.config["filter"].get("annotations") is not None:
            raise ValueError("its annotations are not in the store")
        return [] if version is None else annotations.read(self._store, version)

    def _same_table(self, manifest: Manifest, table: pa.Table) -> Iterator[Finding]:
        if len(manifest.files) != 1:
            yield _broken(manifest, None, "files of a filter step", len(manifest.files), 1)
            return
        record = manifest.files[0]
        sha256 = hashlib.sha256(tables.encode(table, manifest.step.key)).hexdigest()
        if sha256 == record.sha256:
            return
        there = self._store.read_table(manifest)
        first = _first_difference(there, table)
        if first is not None:
            yield _broken(manifest, record.path, f"table, derived again, {first[0]}", first[1], first[2])
        elif self._described_otherwise(manifest, table, there):
            what = "derived again, the same table with other words in its columns' descriptions"
            yield Finding("note", manifest.artifact, record.path, what)
        elif other := _other_versions(manifest, "pyarrow"):
            what = f"derived again, the same table in other bytes{other}"
            yield Finding("note", manifest.artifact, record.path, what)
        else:
            yield _broken(manifest, record.path, "sha256, derived again (the same table)", record.sha256, sha256)

    def _described_otherwise(self, manifest: Manifest, table: pa.Table, there: pa.Table) -> bool:
        """Whether the columns' descriptions are all that differs: a later version may word them better."""
        fields = [mine.with_metadata(theirs.metadata) for mine, theirs in zip(table.schema, there.schema, strict=True)]
        same = table.cast(pa.schema(fields, table.schema.metadata))
        return hashlib.sha256(tables.encode(same, manifest.step.key)).hexdigest() == manifest.files[0].sha256

    # -- scores -------------------------------------------------------------------------------------------------------

    def _scores(self, manifest: Manifest) -> Iterator[Finding]:
        if not 1 <= manifest.step.version <= scoring.VERSION:
            yield _other_step(manifest, scoring.VERSION)
            return
        predictions = self._ledger.producer(manifest, "predictions")
        if predictions is None:
            yield _broken(manifest, None, "predictions", "an input", "none in the store")
            return
        train = list(self._problems(manifest, "train_problems").values())
        test = list(self._problems(manifest, "problems").values())
        try:
            again = scoring.score(self._store.iter_tables(predictions), train, test, manifest.step.version)
        except ValueError as error:
            yield _broken(manifest, None, "scores, derived again", "a result", error)
            return
        yield from self._same_figures(manifest, again)

    # -- bound --------------------------------------------------------------------------------------------------------

    def _bound(self, manifest: Manifest) -> Iterator[Finding]:
        version = manifest.step.version
        if not 1 <= version <= bounds.VERSION:
            yield _other_step(manifest, bounds.VERSION)
            return
        problems = self._problems(manifest, "problems")
        probes, before = (self._ledger.producer(manifest, role) for role in ("probes", "before"))
        if probes is None:
            yield _broken(manifest, None, "probes", "an input", "none in the store")
            return
        asked = probes.step.config
        try:
            now = bounds.weighed(self._store.iter_tables(probes), problems, version)
            earlier = None if before is None else bounds.weighed(self._store.iter_tables(before), problems, version)
            again = bounds.bound(now, earlier)
            wanted = bounds.probe_ids(problems, asked["bound"]["problems"], asked["seed"])
        except (KeyError, ValueError) as error:
            yield _broken(manifest, None, "bound, derived again", "a result", error)
            return
        if now.problem_ids != wanted:
            yield _broken(manifest, None, "probe set, chosen again", len(now.problem_ids), f"{len(wanted)}, or others")
        yield from self._same_figures(manifest, again)

    def _same_figures(self, manifest: Manifest, again: Mapping[str, Any]) -> Iterator[Finding]:
        for record in manifest.files:
            there = json.loads(self._store.read_bytes(manifest, record.path))
            for name in sorted(there.keys() | again.keys()):
                if not _alike(there.get(name), again.get(name)):
                    yield _broken(manifest, record.path, f"{name}, derived again", there.get(name), again.get(name))

    def _problems(self, manifest: Manifest, role: str) -> dict[str, Problem]:
        source = self._ledger.producer(manifest, role)
        if source is None:
            raise FemError(f"The input {role!r} of {manifest.artifact} is not in the store. Restore it from a backup.")
        return self._ledger.problems(source)


def _alike(there: Any, again: Any) -> bool:
    """Whether two JSON values are equal, floats up to the last bits: numpy rounds otherwise on another kind of processor."""
    if isinstance(there, float) and isinstance(again, float):
        return math.isclose(there, again, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    if isinstance(there, dict) and isinstance(again, dict):
        return there.keys() == again.keys() and all(_alike(there[name], again[name]) for name in again)
    if isinstance(there, list) and isinstance(again, list):
        return len(there) == len(again) and all(map(_alike, there, again))
    return bool(there == again)


def _seeded(manifest: Manifest, attempt: int) -> bool:
    """Whether a draw has a seed of its own."""
    config = manifest.step.config
    if manifest.kind == "predictions":
        return "sampled" in config and attempt > 0
    return given_by(config) is None


def _stats(manifest: Manifest, again: Mapping[str, Any]) -> Iterator[Finding]:
    for name, value in again.items():
        if name in manifest.stats and not _alike(manifest.stats[name], value):
            yield _broken(manifest, None, f"stats.{name}, counted again", manifest.stats[name], value)


def _first_difference(there: pa.Table, again: pa.Table) -> tuple[str, str, str] | None:
    """Place and both values of the first cell that differs; None where the tables hold the same."""
    for i, (mine, theirs) in enumerate(zip(there.to_pylist(), again.to_pylist(), strict=False)):
        for column in {**mine, **theirs}:
            if mine.get(column) != theirs.get(column):
                what = f"row {i} (attempt {mine.get('attempt')} of problem {mine.get('problem_id')}), {column}"
                return what, _shown(mine.get(column)), _shown(theirs.get(column))
    if there.num_rows != again.num_rows:
        return "rows", str(there.num_rows), str(again.num_rows)
    return None


def _other_versions(manifest: Manifest, package: str) -> str:
    """ " (pyarrow 26.0.1 then, 26.0.2 now)" where the package is another now; else nothing."""
    then = manifest.packages.get(package)
    try:
        now = metadata.version(package)
    except metadata.PackageNotFoundError:
        now = "none"
    return "" if then == now else f" ({package} {then} then, {now} now)"


def _other_step(manifest: Manifest, version: int) -> Finding:
    what = f"{NOT_AGAIN}: the step has version {manifest.step.version}, and this program's is {version}"
    return Finding("unchecked", manifest.artifact, None, what)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else f"{text[:160]}…"


def _broken(manifest: Manifest, file: str | None, what: str, recorded: object, found: object) -> Finding:
    return Finding("broken", manifest.artifact, file, what, str(recorded), str(found))
