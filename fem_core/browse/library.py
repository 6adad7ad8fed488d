"""The library: everything that the browser shows of a store, read from manifests, verified files and their indexes.

Contract: reads and writes nothing but annotations (``annotate``) and its own cache. What it opens is named by manifests,
so no name or address that somebody gives can lead out of the store. Safe from several threads. What the user can mend,
a name that is not there above all, is a FemError.
"""

import logging
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from fem_core import annotations
from fem_core.annotations import Annotation
from fem_core.audit.changed import mark, recall
from fem_core.audit.lineage import parse
from fem_core.browse import one_problem, tables
from fem_core.browse.filters import Filter, order, where
from fem_core.browse.index import Cursor, Fill, Indexes
from fem_core.browse.iteration import Iteration, shown
from fem_core.browse.remembered import Once, RememberingStore, Shared
from fem_core.browse.rows import ArtifactPage, Attempt, Interval, Page, RunPage, RunRow
from fem_core.config import PromptsConfig
from fem_core.digest import digest
from fem_core.errors import FemError, StoreAway
from fem_core.filter.leak import Leaks
from fem_core.model import default_cache
from fem_core.report import listing
from fem_core.report.diagnosis import answers
from fem_core.report.signatures import signatures
from fem_core.report.summary import summarise
from fem_core.store import layout, reading
from fem_core.store.manifest import InputRef, Manifest, RunRecord
from fem_core.store.probe import probe
from fem_core.store.store import Store

_log = logging.getLogger(__name__)

_PATIENCE = 5.0
"""Seconds to wait for a store that does not answer: somebody waits for the page."""

_READERS = 16
"""Manifests read side by side for the list of runs."""

_ITERATIONS = 4
"""Read side by side for one problem."""

MOST_ROWS = 200
"""On a page."""

CACHE_GIB = 8.0
"""Of indexes on the disk."""

_COUNTED = ("verdict", "prompt_kind", "label")
_MOST_VALUES = 50

_KINDS = ("attempts", "predictions", "predictions-exemplars")


class Library:
    """One store."""

    def __init__(self, root: str, cache: Path | None = None, cache_gib: float = CACHE_GIB) -> None:
        """
        Args:
            root: the store's folder or URL.
            cache: where indexes lie, in a folder ``browse``; ``FEM_CACHE`` or ~/.cache/fem by default.

        Raises:
            FemError: the store cannot be used.
        """
        self.store: Store = RememberingStore.open(root, check=False, patience=_PATIENCE)
        self._ended = threading.Event()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="indexes")
        self._lock = threading.Lock()
        self._waiting = threading.Condition()
        self._waited = 0
        self._preparing: set[str] = set()
        self._values: dict[str, dict[str, dict[Any, int]]] = {}  # by index, which never changes
        self._writable = False
        self._shared = Shared()
        self._said: dict[str, tuple[Manifest, list[Annotation]]] = {}
        self._indexes = Indexes((cache or default_cache()) / "browse", int(cache_gib * 2**30))

    def close(self) -> None:
        """Give everything back. What is being prepared is finished first."""
        self._ended.set()
        with self._waiting:
            self._waiting.notify_all()
        self._ahead.shutdown(cancel_futures=True)
        self._indexes.close()

    # -- runs ---------------------------------------------------------------------------------------------------------

    def runs(self) -> list[RunRow]:
        """All runs of the store, by name. One that cannot be read is there and says why."""
        rows = self._shared.get(None, self._rows)
        return list(rows)

    def _rows(self) -> list[RunRow]:
        lines = listing.runs(self.store)
        places = [
            layout.iteration(line.name, k, kind)
            for line in lines
            if line.iterations is not None
            for k in range((line.scored or 0) + 2)
            for kind in ("scores", "rationales")[: 1 + (k > 0)]
        ]
        with ThreadPoolExecutor(_READERS) as readers:  # the rows find them remembered
            list(readers.map(self._glance, places))
        return [self._row(line) for line in lines]

    def _glance(self, artifact: str) -> None:
        with suppress(FemError):  # its row says why
            self.store.manifest(artifact)

    def run(self, name: str) -> RunPage:
        """One run.

        Raises:
            FemError: there is no such run.
        """
        self.store.existing_run(name)  # so that only names of runs are kept
        page: RunPage = self._shared.get(name, lambda: self._page(name))
        return page

    def _page(self, name: str) -> RunPage:
        record = self._looked_at(name)
        summary = summarise(self.store, name)
        return RunPage(
            record=record,
            summary=summary,
            warnings=tuple(signatures(summary, answers(self.store, name))),
            artifacts=tuple(
                one for one in listing.artifacts(self.store, name) if one.manifest.kind != annotations.KIND
            ),
            deleted=self.store.root.size(layout.deleted_json(name)) is not None,
        )

    def _row(self, line: listing.RunLine) -> RunRow:
        try:
            record = self.store.run(line.name)
            if record is None or line.iterations is None:
                return RunRow(line)
            config, last = record.config, line.scored if line.scored is not None else -1
            scores = [self._stat(line.name, k, "scores", "accuracy") for k in range(last + 1)]
            used = [self._stat(line.name, k, "rationales", "utilization") for k in range(1, max(last, 0) + 2)]
            used = used if used and used[-1] is not None else used[:-1]
            found = line.scores
            return RunRow(
                line=line,
                scheme=config["scheme"]["name"],
                model=str(record.places.get("model.source", "")),
                problems=_source(config["problems"]),
                seed=config["seed"],
                accuracy=None if found is None else Interval(found["accuracy"], found["low"], found["high"]),
                utilization=next((value for value in reversed(used) if value is not None), None),
                accuracies=tuple(scores),
                utilizations=tuple(used),
            )
        except (FemError, KeyError, TypeError, ValueError) as error:
            return RunRow(replace(line, trouble=str(error)))

    def _stat(self, run: str, k: int, kind: str, name: str) -> float | None:
        manifest = self.store.manifest(layout.iteration(run, k, kind))
        return None if manifest is None else float(manifest.stats[name])

    # -- attempts -----------------------------------------------------------------------------------------------------

    def attempts(
        self,
        run: str,
        iteration: int,
        chosen: Filter | None = None,
        sort: str = "position",
        page: int = 1,
        size: int = 20,
        kind: str = "attempts",
    ) -> Page:
        """A page of the attempts of an iteration that a filter lets through.

        Args:
            sort: one of ``filters.SORTS``.
            size: rows on a page, at most ``MOST_ROWS``.
            kind: attempts, predictions, or predictions-exemplars (of the base model, with exemplars).

        Raises:
            FemError: there is no such run, iteration, order, page or annotation; a file does not hold.
        """
        if page < 1 or not 1 <= size <= MOST_ROWS:
            raise FemError(
                f"Page {page} of {size} rows cannot be shown. Pages begin with 1 and have 1 to {MOST_ROWS} rows."
            )
        chosen, by = chosen or Filter(), order(sort)
        with self._opened(run, iteration, kind, chosen.by_leak) as opened:
            condition, values = self._where(run, iteration, chosen, opened)
            total = opened.total(condition, values)
            rows = opened.at(opened.positions(condition, values, by, size, (page - 1) * size))
        return Page(tuple(rows), total, page, max(1, -(-total // size)))

    def attempt(self, run: str, iteration: int, problem_id: str, attempt: int, kind: str = "attempts") -> Attempt:
        """One attempt at a problem.

        Raises:
            FemError: there is none.
        """
        with self._opened(run, iteration, kind) as opened:
            rows = opened.rows("problem_id = ? AND attempt = ?", [problem_id, attempt])
        if not rows:
            raise FemError(
                f"There is no attempt {attempt} at {problem_id!r} among the {kind} of {run}@{iteration}. Take one from the list."
            )
        return rows[0]

    def values(self, run: str, iteration: int, kind: str = "attempts") -> dict[str, dict[str, int]]:
        """What there is to choose from: how many attempts have each verdict, prompt kind and label (the 50 most common).

        Raises:
            FemError: there is no such run or iteration.
        """
        with self._opened(run, iteration, kind) as opened:
            if opened.index not in self._values:
                self._values[opened.index] = {name: opened.counts(name, _MOST_VALUES) for name in _COUNTED}
            return {name: dict(counts) for name, counts in self._values[opened.index].items()}

    def export(
        self, run: str, iteration: int, chosen: Filter | None = None, kind: str = "attempts"
    ) -> Iterator[pa.RecordBatch]:
        """All attempts that a filter lets through, in the order of the store, a few thousand rows at a time.

        Raises:
            FemError: as ``attempts``, when the first batch is asked for.
        """
        chosen = chosen or Filter()
        with self._opened(run, iteration, kind, chosen.by_leak) as opened:
            yield from opened.batches(*self._where(run, iteration, chosen, opened))

    def _where(self, run: str, iteration: int, chosen: Filter, opened: Iteration) -> tuple[str, list[Any]]:
        pieces = opened.index if chosen.text and opened.has_pieces else None
        if chosen.annotation is None:
            return where(chosen, (), opened.leaks, pieces)
        last = {
            f"{one.problem_id}.{one.attempt}": one.value for one in self.annotations(run) if one.iteration == iteration
        }
        wanted = (chosen.annotation,) if chosen.annotation in annotations.REAL else annotations.REAL
        return where(chosen, [attempt for attempt, value in last.items() if value in wanted], opened.leaks, pieces)

    # -- one problem --------------------------------------------------------------------------------------------------

    def problem(self, run: str, problem_id: str) -> list[Attempt]:
        """All attempts at a problem and predictions of it, by iteration, attempts first.

        Raises:
            FemError: there is no such run, or it has no such problem.
        """
        record, once = self._looked_at(run), Once()
        places = [(k, kind) for k in range(int(record.config["iterations"]) + 1) for kind in _KINDS]

        def read(place: tuple[int, str]) -> list[Attempt] | None:
            sources = self._sources(record, *place)
            return None if sources is None else self._of_problem(sources, *place, problem_id, once)

        with ThreadPoolExecutor(_ITERATIONS) as readers:
            there = [rows for rows in readers.map(read, places) if rows is not None]
        found = [row for rows in there for row in rows]
        if not found:
            why = "has no such problem" if there else "has drawn nothing yet"
            raise FemError(f"The run {run!r} {why} ({problem_id!r}). Look for it among its attempts.")
        return found

    def _of_problem(self, sources: "_Sources", k: int, kind: str, problem_id: str, once: "Once") -> list[Attempt]:
        rows = self._without_index(sources, k, kind, problem_id, once)
        if rows is None:
            with self._use(sources, k, kind) as opened:
                of = ("known", sources.problems and sources.problems.digest)
                rows = opened.rows("problem_id = ?", [problem_id], once.get(of, lambda: opened.known([problem_id])))
        return sorted(rows, key=lambda row: (row.attempt, row.position))

    def _without_index(
        self, sources: "_Sources", k: int, kind: str, problem_id: str, once: "Once"
    ) -> list[Attempt] | None:
        """The same from one part file; None where there is an index, or it must be made to be sure."""
        problems = sources.problems
        if problems is None or self._indexes.has(tables.VERSION, "attempts", sources.key):
            return None
        place = once.get(("place", problems.digest), lambda: one_problem.find(self.store, problems, problem_id))
        if place is None:
            return []
        rows = one_problem.rows(self.store, sources.manifest, sources.verdicts, *place)
        finder = _finder(sources.record)
        return None if rows is None else [shown(row, place[1], finder, k, kind) for row in rows]

    # -- annotations --------------------------------------------------------------------------------------------------

    def annotations(self, run: str) -> list[Annotation]:
        """All that was said of a run's attempts, in order; what was said last of an attempt counts.

        Raises:
            FemError: there is no such run, or a version does not hold.
        """
        self.store.existing_run(run)
        last = annotations.latest(self.store, run)
        if last is None:
            return []
        said = annotations.read(self.store, last, self._said.get(run))
        self._said[run] = last, said
        return list(said)

    def annotated(self, run: str) -> str | None:
        """What ``filter.annotations`` is to be in a run that takes all that was said so far; None where nothing was."""
        last = annotations.latest(self.store, run)
        return None if last is None else f"{run}@{annotations.version_of(last)}"

    def annotate(self, run: str, attempt: str, value: str, comment: str, author: str) -> Annotation:
        """Say something of an attempt, or take it back (``annotations.VALUES``).

        Args:
            attempt: its ``id``.

        Raises:
            FemError: there is no such attempt, or ``annotations.annotation`` refuses what is said.
        """
        found = re.fullmatch(r"([0-9]{1,6})\.([0-9a-f]{16})\.([0-9]{1,9})", attempt)
        if found is None:
            raise FemError(f"{attempt!r} is no attempt's id. Take one from the list, iteration.problem.attempt.")
        k, problem_id, number = int(found[1]), found[2], int(found[3])
        text = self.attempt(run, k, problem_id, number).text
        said = annotations.annotation(k, problem_id, number, text, value, comment, author)
        if not self._writable:
            probe(self.store.root)
            self._writable = True
        annotations.append(self.store, run, [said])
        return said

    # -- artifacts ----------------------------------------------------------------------------------------------------

    def artifact(self, ref: str) -> ArtifactPage:
        """An artifact with what it was made from and what was made from it.

        Args:
            ref: its path, ``demo@3/attempts``, or at least 12 hex digits of its digest.

        Raises:
            FemError: there is none, or the digest's beginning is that of several.
        """
        everything, unread = self._everything()
        manifest = self._named(ref, everything)
        inputs = tuple((one, self._there(one)) for one in manifest.inputs)
        consumers = tuple(
            other
            for other in everything
            if other.source == manifest.artifact
            or any((one.artifact, one.digest) == (manifest.artifact, manifest.digest) for one in other.inputs)
        )
        path = f"{reading.holder(manifest)}/{layout.COLLECTED}"
        collected = manifest.location is None and self.store.root.size(path) is not None
        run = layout.run_of(manifest.artifact)
        held = recall(self.store, run)
        changed = held is not None and held.mark != mark(self.store, run)
        return ArtifactPage(manifest, inputs, consumers, tuple(unread), collected, held, changed)

    def _everything(self) -> tuple[list[Manifest], list[str]]:
        """The artifacts of all runs, and the runs that have one which cannot be read."""
        found: list[Manifest] = []
        unread = []
        for name in self.store.root.children(layout.RUNS):
            try:
                if layout.is_run_name(name) and self.store.run(name) is not None:
                    found += self.store.artifacts(name)
            except FemError:  # the run's own page says why
                unread.append(name)
        return found, unread

    def _named(self, ref: str, everything: list[Manifest]) -> Manifest:
        if len(ref) >= 12 and not set(ref) - set("0123456789abcdef"):
            found = [one for one in everything if one.digest.startswith(ref)]
            own = [one for one in found if one.source is None] or found
            if len({one.digest for one in own}) > 1:
                raise FemError(f"Several artifacts have a digest that begins with {ref}. Give more of it.")
            if own:
                return own[0]
            raise FemError(f"No artifact in {self.store.url} has the digest {ref}. Look for it in its run's list.")
        path = parse(ref)
        manifest = self.store.manifest(path)
        if manifest is None:
            raise FemError(f"There is no artifact {path} in {self.store.url}. Look for it in its run's list.")
        return manifest

    def _there(self, ref: InputRef) -> Manifest | None:
        """What lies where an input lay."""
        try:
            return self.store.manifest(parse(ref.artifact))
        except FemError:  # a source outside of the store, or a manifest that cannot be read
            return None

    def _input(self, ref: InputRef) -> Manifest | None:
        """The input itself; None where it is not there any more."""
        found = self._there(ref)
        return found if found is not None and found.digest == ref.digest else None

    # -- indexes ------------------------------------------------------------------------------------------------------

    def prepare(self, run: str) -> None:
        """Make the indexes of a run that are not there yet, the last iteration's first.

        Raises:
            FemError: there is no such run, or a file does not hold.
        """
        record = self.store.existing_run(run)
        for with_leaks in (False, True):
            for k in reversed(range(int(record.config["iterations"]) + 1)):
                for kind in _KINDS:
                    sources = self._sources(record, k, kind)
                    with self._waiting:
                        self._waiting.wait_for(lambda: not self._waited or self._ended.is_set())
                    if sources is not None and not self._ended.is_set():
                        with self._use(sources, k, kind, with_leaks and kind == "attempts"):
                            pass

    @contextmanager
    def _somebody_waits(self) -> Iterator[None]:
        """What is prepared ahead stands back for an index that somebody waits for."""
        with self._waiting:
            self._waited += 1
        try:
            yield
        finally:
            with self._waiting:
                self._waited -= 1
                self._waiting.notify_all()

    def _looked_at(self, run: str) -> RunRecord:
        """A run's record. Who looks at a run will look at its iterations: they are prepared meanwhile."""
        record = self.store.existing_run(run)
        with self._lock:
            if run not in self._preparing:
                self._preparing.add(run)
                self._ahead.submit(self._prepare_ahead, run)
        return record

    def _prepare_ahead(self, run: str) -> None:
        try:
            self.prepare(run)
        except (FemError, StoreAway, OSError) as error:
            _log.info("the run %s is not prepared: %s", run, error)  # the page that needs it says so to its reader

    @contextmanager
    def _opened(self, run: str, iteration: int, kind: str, with_leaks: bool = False) -> Iterator[Iteration]:
        if kind not in _KINDS:
            raise FemError(f"There are no {kind!r} to show. Choose one of {', '.join(_KINDS)}.")
        with ExitStack() as stack:
            with self._somebody_waits():
                sources = self._sources(self._looked_at(run), iteration, kind)
                if sources is None:
                    raise FemError(_nothing(run, iteration, kind))
                opened = stack.enter_context(self._use(sources, iteration, kind, with_leaks))
            yield opened

    def _sources(self, record: RunRecord, k: int, kind: str) -> "_Sources | None":
        if k < 0:
            return None
        manifest = self.store.manifest(layout.iteration(record.name, k, kind))
        if manifest is None:
            return None
        verdicts = self.store.manifest(layout.iteration(record.name, k, "verdicts")) if kind == "attempts" else None
        problems = next((self._input(ref) for ref in manifest.inputs if ref.role == "problems"), None)
        return _Sources(record, manifest, verdicts, problems)

    @contextmanager
    def _use(self, sources: "_Sources", k: int, kind: str, with_leaks: bool = False) -> Iterator[Iteration]:
        """An iteration with its indexes, made where they are not there.

        Args:
            with_leaks: that of the leak scores, too.
        """
        finder = _finder(sources.record)
        with ExitStack() as stack:

            def use(fill: Fill, *made_from: object) -> tuple[Cursor, str]:
                return stack.enter_context(self._indexes.opened(fill, tables.VERSION, *made_from))

            problems = None
            if sources.problems is not None:
                fill = partial(tables.problems, self.store, sources.problems)
                problems = use(fill, "problems", sources.problems.digest)[1]
            fill = partial(tables.attempts, self.store, sources.manifest, sources.verdicts, sources.problems)
            cursor, index = use(fill, "attempts", sources.key)
            leaks = None
            if with_leaks:
                known = Iteration(k, kind, finder, cursor, index, problems, None).known
                leaks = use(partial(tables.leaks, index, known, finder), "leaks", sources.key, sources.prompts)[1]
            yield Iteration(k, kind, finder, cursor, index, problems, leaks)


class _Sources:
    """What the indexes of an artifact are made of."""

    def __init__(
        self, record: RunRecord, manifest: Manifest, verdicts: Manifest | None, problems: Manifest | None
    ) -> None:
        self.record, self.manifest, self.verdicts, self.problems = record, manifest, verdicts, problems

    @property
    def key(self) -> str:
        """Digest of all that decides what the index holds."""
        return digest([one and one.digest for one in (self.manifest, self.verdicts, self.problems)])

    @property
    def prompts(self) -> str:
        """Digest of the prompts, from which a leak may come."""
        return digest(self.record.config["prompts"])


def _finder(record: RunRecord) -> Leaks:
    return Leaks(PromptsConfig.model_validate(record.config["prompts"]))


def _nothing(run: str, iteration: int, kind: str) -> str:
    if iteration == 0 and kind == "attempts":
        return f"Iteration 0 of {run!r} is the base model, which draws no attempts. Look at its predictions."
    return f"The run {run!r} has no {kind} of iteration {iteration} (yet). Look at what it has."


def _source(problems: dict[str, Any]) -> str:
    """A problem set as people know it."""
    if problems["source"] in ("reasoning_gym", "table"):
        return str(problems.get("dataset") or problems.get("hub") or problems["source"])
    return str(problems["source"])
