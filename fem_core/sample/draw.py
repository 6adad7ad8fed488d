"""The draw loop of one job: feeds an engine attempt by attempt and hands over the parts as their problems settle.

Contract: a problem's next draw is queued when its last one has failed, ahead of problems not yet begun, so that the
batch stays full, parts finish in order, and nothing is drawn that is not needed. At the very end, when only a few
problems are left and the engine would run nearly empty, their next draws are begun before the last ones have failed;
what turns out not to be needed is dropped, so that the attempts are those of a walk one by one. When a problem's last
draw has ended, second looks at its accepted ones are queued beside the others' draws; then it has settled. Knows neither
vLLM nor the store: the engine, the renderer, the judge, the looker and the writer are handed in.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args

import pyarrow as pa

from fem_core.digest import derive_seed
from fem_core.filter.verdict import ACCEPTED, Judgement
from fem_core.problems.problem import Problem
from fem_core.prompts import PromptKind
from fem_core.sample import look
from fem_core.sample.schemes import Plan, next_draws
from fem_core.sample.vllm_engine import Finished, Sampling
from fem_core.schemas import ATTEMPTS

_DRAWN = get_args(PromptKind)


class Engine(look.Engine, Protocol):
    """The part of an engine that the loop needs."""

    @property
    def unfinished(self) -> int:
        """Draws and looks queued or running."""

    def abort(self, request_ids: Sequence[str]) -> int:
        """Forget draws; the tokens that they had."""


@dataclass
class Counts:
    """What a job has drawn so far, in this try."""

    draws: int = 0
    accepted: int = 0
    settled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped_tokens: int = 0
    """Drawn ahead and not needed: they are in no row and in no other count."""
    look_tokens: int = 0
    """Read and drawn by second looks: they are in no other count."""


@dataclass
class _Open:
    """A problem that has been begun."""

    rows: list[dict[str, Any] | None] = field(default_factory=list)
    """By attempt index; None while the draw is queued or in flight."""
    flying: dict[int, str] = field(default_factory=dict)
    """Request ids of the draws that the engine has, by attempt index."""
    token_ids: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Of the accepted draws, by attempt index."""
    looking: set[str] = field(default_factory=set)
    """Request ids of the looks that the engine has."""

    @property
    def pending(self) -> bool:
        """Whether a draw is queued or in flight."""
        return None in self.rows


@dataclass(frozen=True)
class DrawSettings:
    """What every draw of a job shares."""

    run_seed: int
    iteration: int
    exemplars: int
    temperature: float
    top_p: float
    max_tokens: int
    greedy_first: bool = False


class DrawLoop:
    """One job's problems, walked by its plan."""

    def __init__(
        self,
        job_id: str,
        problems: Sequence[Problem],
        plan: Plan,
        settings: DrawSettings,
        *,
        part_size: int,
        done_parts: Collection[int],
        render: Callable[[Problem, PromptKind], list[int]],
        judge: Callable[[str, str, Problem], Judgement],
        write_part: Callable[[int, pa.Table], None],
        looker: look.Looker | None = None,
    ) -> None:
        """
        Args:
            part_size: problems per part; part n holds problems n * part_size onwards.
            done_parts: numbers of the parts that are committed; their problems are not drawn.
            render: prompt ids of a problem for a prompt kind.
            judge: verdict on (text, finish_reason, problem).
            write_part: is called once per part, when its last problem has settled.
            looker: asks about accepted draws; with one the parts have its schema.
        """
        self.job_id = job_id
        self.counts = Counts()
        self._problems = problems
        self._plan = plan
        self._settings = settings
        self._part_size = part_size
        self._render = render
        self._judge = judge
        self._write_part = write_part
        self._looker = looker
        todo = [i for i in range(len(problems)) if i // part_size not in done_parts]
        self.total = len(todo)
        self._fresh = iter(todo)
        self._again: list[tuple[int, int, PromptKind]] = []
        self._open: dict[int, _Open] = {}
        self._left = dict.fromkeys(sorted({i // part_size for i in todo}), 0)
        for i in todo:
            self._left[i // part_size] += 1
        self._settled: dict[int, list[dict[str, Any]]] = {}

    @property
    def done(self) -> bool:
        """Whether every problem has settled and every part is written."""
        return self.counts.settled == self.total

    @property
    def draining(self) -> bool:
        """Whether every problem has been begun."""
        return self.counts.settled + len(self._open) == self.total

    def fill(self, engine: Engine, limit: int) -> None:
        """Queue draws until the engine holds ``limit`` or none is ready."""
        while engine.unfinished < limit:
            if not self._again:
                fresh = next(self._fresh, None)
                if fresh is None:
                    return
                self._open[fresh] = _Open()
                self._queue(fresh)
            self._add(engine, *heapq.heappop(self._again))

    def fill_ahead(self, engine: Engine, floor: int) -> None:
        """With nothing else to do, begin draws that are needed only if earlier ones fail, until the engine holds ``floor``.

        Only for ``keep: first``, whose attempts are what comes before the first acceptance whatever else was drawn.
        """
        if self._plan.keep != "first" or self._again:
            return
        while engine.unfinished < floor:
            open_ = [(len(state.rows), index) for index, state in self._open.items() if self._undecided(state)]
            if not open_:
                return
            attempt, index = min(open_)
            self._open[index].rows.append(None)
            self._add(engine, index, attempt, self._plan.kind_of(attempt))

    def _undecided(self, state: _Open) -> bool:
        """Whether another draw may still be of use: the budget is not spent, and none was accepted."""
        return len(state.rows) < self._plan.budget and not any(row and row["verdict"] == ACCEPTED for row in state.rows)

    def _add(self, engine: Engine, index: int, attempt: int, kind: PromptKind) -> None:
        request_id = f"{self.job_id}/{index}/{attempt}/{kind}"
        engine.add(request_id, self._render(self._problems[index], kind), self._sampling(index, attempt))
        self._open[index].flying[attempt] = request_id

    def receive(self, finished: Finished, engine: Engine) -> None:
        """Judge a finished draw; queue the problem's next one, look at what was accepted, or settle it."""
        _, index_text, attempt_text, kind = finished.request_id.rsplit("/", 3)
        index, attempt = int(index_text), int(attempt_text)
        state = self._open.get(index)
        if kind not in _DRAWN and state is not None:
            self._receive_look(index, attempt, kind, finished)
            return
        if state is None or state.flying.pop(attempt, None) is None:  # dropped within this very step
            self.counts.dropped_tokens += finished.completion_tokens
            return
        problem = self._problems[index]
        judgement = self._judge(finished.text, finished.finish_reason, problem)
        state.rows[attempt] = {
            "problem_id": problem.problem_id,
            "attempt": attempt,
            "prompt_kind": kind,
            "exemplars": self._settings.exemplars,
            "text": finished.text,
            "answer": judgement.answer,
            "verdict": judgement.verdict,
            "finish_reason": finished.finish_reason,
            "prompt_tokens": finished.prompt_tokens,
            "completion_tokens": finished.completion_tokens,
            "logprob": finished.logprob,
            "seed": self._sampling(index, attempt).seed or 0,
        }
        if judgement.verdict == ACCEPTED:
            state.token_ids[attempt] = finished.token_ids
            if self._plan.keep == "first":
                self._drop_after(state, attempt, engine)
        if not state.pending:
            self._queue(index)
            if not state.pending:
                self._look(index, engine)

    def _look(self, index: int, engine: Engine) -> None:
        """Queue the looks at a problem whose draws have ended; settle it where there are none."""
        state, problem = self._open[index], self._problems[index]
        if self._looker is not None:
            for attempt, row in enumerate(state.rows):
                if row is None:
                    continue
                for asked in self._looker.wanted(attempt, row["verdict"]):
                    request_id = f"{self.job_id}/{index}/{attempt}/{asked}"
                    at_once = self._looker.begin(
                        engine, request_id, asked, problem, row["text"], state.token_ids.get(attempt, ())
                    )
                    if at_once is None:
                        state.looking.add(request_id)
                    else:
                        row |= at_once
        if not state.looking:
            self._settle(index)

    def _receive_look(self, index: int, attempt: int, asked: str, finished: Finished) -> None:
        state = self._open[index]
        row = state.rows[attempt]
        if row is None or self._looker is None:
            raise ValueError(f"{finished.request_id} is a look at nothing")
        row |= self._looker.columns(asked, self._problems[index], finished)
        self.counts.look_tokens += finished.prompt_tokens + finished.completion_tokens
        state.looking.remove(finished.request_id)
        if not state.looking:
            self._settle(index)

    def _drop_after(self, state: _Open, accepted: int, engine: Engine) -> None:
        """Forget what was drawn ahead behind an accepted draw."""
        for row in state.rows[accepted + 1 :]:
            self.counts.dropped_tokens += row["completion_tokens"] if row else 0
        del state.rows[accepted + 1 :]
        late = [state.flying.pop(attempt) for attempt in sorted(state.flying) if attempt > accepted]
        if late:
            self.counts.dropped_tokens += engine.abort(late)

    def _sampling(self, index: int, attempt: int) -> Sampling:
        settings = self._settings
        if settings.temperature == 0 or (settings.greedy_first and attempt == 0):
            return Sampling(0.0, 1.0, settings.max_tokens, None)
        problem_id = self._problems[index].problem_id
        seed = derive_seed(settings.run_seed, settings.iteration, problem_id, attempt)
        return Sampling(settings.temperature, settings.top_p, settings.max_tokens, seed)

    def _queue(self, index: int) -> None:
        state = self._open[index]
        outcomes = [row is not None and row["verdict"] == ACCEPTED for row in state.rows]
        for kind in next_draws(self._plan, outcomes):
            heapq.heappush(self._again, (index, len(state.rows), kind))
            state.rows.append(None)

    def _settle(self, index: int) -> None:
        rows = [row for row in self._open.pop(index).rows if row is not None]
        self.counts.settled += 1
        self.counts.draws += len(rows)
        self.counts.prompt_tokens += sum(row["prompt_tokens"] for row in rows)
        self.counts.completion_tokens += sum(row["completion_tokens"] for row in rows)
        self.counts.accepted += any(row["verdict"] == ACCEPTED for row in rows)
        self._settled[index] = rows
        part = index // self._part_size
        self._left[part] -= 1
        if self._left[part] == 0:
            first = part * self._part_size
            members = range(first, min(first + self._part_size, len(self._problems)))
            schema = ATTEMPTS if self._looker is None else self._looker.schema
            table = pa.Table.from_pylist([row for i in members for row in self._settled.pop(i)], schema=schema)
            self._write_part(part, table)


def draw_stats(tables: Iterable[pa.Table]) -> dict[str, int]:
    """Totals over attempts or predictions: ``draws``, ``problems_accepted``, ``prompt_tokens``, ``completion_tokens``."""
    stats = {"draws": 0, "problems_accepted": 0, "prompt_tokens": 0, "completion_tokens": 0}
    for table in tables:
        stats["draws"] += table.num_rows
        accepted = {
            problem
            for problem, verdict in zip(
                table.column("problem_id").to_pylist(), table.column("verdict").to_pylist(), strict=True
            )
            if verdict == ACCEPTED
        }
        stats["problems_accepted"] += len(accepted)
        for name in ("prompt_tokens", "completion_tokens"):
            stats[name] += sum(table.column(name).to_pylist())
    return stats
