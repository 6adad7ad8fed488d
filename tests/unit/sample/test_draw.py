"""The draw loop against an engine that is a small table: exact distributions, and what is drawn when."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest
from scipy.stats import chisquare

from fem_core.config import Look, SchemeConfig
from fem_core.digest import derive_seed
from fem_core.filter import verdict as verdicts
from fem_core.filter.verdict import Judgement
from fem_core.problems.problem import Problem, make_problem
from fem_core.sample.draw import Counts, DrawLoop, DrawSettings, draw_stats
from fem_core.sample.look import Looker
from fem_core.sample.schemes import evaluation_of, plan_of
from fem_core.sample.vllm_engine import Finished, Sampling
from fem_core.schemas import ATTEMPTS, LOOKED

# pi(z, y | x) for one question with y* = "1": three rationales, two answers.
JOINT = {("a", "1"): 0.10, ("b", "1"): 0.25, ("c", "1"): 0.05, ("a", "0"): 0.30, ("b", "0"): 0.10, ("c", "0"): 0.20}
# The hinted prompt's own proposal q(z, y | x, y*): another distribution, not the posterior.
HINTED = {("a", "1"): 0.50, ("b", "1"): 0.10, ("c", "1"): 0.20, ("a", "0"): 0.05, ("b", "0"): 0.05, ("c", "0"): 0.10}


class TableEngine:
    """Draws (z, y) from a table by the request's own seed. Prompt ids are [0] for plain and [1] for hinted."""

    def __init__(self, order: Callable[[list[str]], list[str]] = list) -> None:
        self._waiting: dict[str, Finished] = {}
        self._order = order
        self.most = 0
        self.added: list[str] = []

    @property
    def unfinished(self) -> int:
        return len(self._waiting)

    def add(self, request_id: str, prompt_ids: list[int], sampling: Sampling) -> None:
        table = HINTED if prompt_ids == [1] else JOINT
        (z, y), *_ = random.Random(sampling.seed).choices(list(table), weights=list(table.values()))
        self._waiting[request_id] = Finished(request_id, f"{z}{y}", "stop", 1, 2, -1.0)
        self.added.append(request_id)
        self.most = max(self.most, len(self._waiting))

    def abort(self, request_ids: Sequence[str]) -> int:
        """As vLLM's: what finished in this very step is not there any more."""
        return sum(draw.completion_tokens for r in request_ids if (draw := self._waiting.pop(r, None)))

    def step(self) -> list[Finished]:
        return [self._waiting.pop(key) for key in self._order(list(self._waiting))[:7]]


def problem(n: int) -> Problem:
    return make_problem(question=f"question {n}", answer="1", answer_kind="text")


def judge(text: str, finish_reason: str, problem: Problem) -> Judgement:
    return Judgement("accepted" if text[1] == problem.answer else "wrong_answer", text[1])


def drawn(
    n: int,
    scheme: SchemeConfig,
    *,
    engine: TableEngine | None = None,
    part_size: int = 50,
    done: set[int] | None = None,
    limit: int = 64,
    seed: int = 0,
    floor: int = 0,
    counts: list[Counts] | None = None,
    looker: Looker | None = None,
    judging: Callable[[str, str, Problem], Judgement] | None = None,
) -> dict[int, pa.Table]:
    parts: dict[int, pa.Table] = {}
    loop = DrawLoop(
        "job",
        [problem(i) for i in range(n)],
        plan_of(scheme),
        DrawSettings(seed, 1, 0, 1.0, 1.0, 8),
        part_size=part_size,
        done_parts=done or set(),
        render=lambda _, kind: [int(kind == "hinted")],
        judge=judging or judge,
        write_part=parts.__setitem__,
        looker=looker,
    )
    engine = engine or TableEngine()
    while not loop.done:
        loop.fill(engine, limit)
        loop.fill_ahead(engine, floor)
        for finished in engine.step():
            loop.receive(finished, engine)
    if counts is not None:
        counts.append(loop.counts)
    assert not engine.unfinished, "draws were left in the engine"
    return parts


def rationale_counts(parts: dict[int, pa.Table]) -> Counter[str]:
    rows = [row for table in parts.values() for row in table.to_pylist()]
    return Counter(row["text"][0] for row in rows if row["verdict"] == "accepted")


def p_value(counts: Counter[str], table: dict[tuple[str, str], float]) -> float:
    right = {z: p for (z, y), p in table.items() if y == "1"}
    total = sum(counts.values())
    expected = [total * p / sum(right.values()) for p in right.values()]
    return float(chisquare([counts[z] for z in right], expected).pvalue)


@pytest.mark.parametrize("budget", [1, 4])
def test_rejection_sampling_accepts_exact_posterior_draws(budget: int) -> None:
    """p(z | x, y*) is proportional to pi(z, y* | x); the budget changes how many problems are covered, not which z."""
    counts = rationale_counts(drawn(4000, SchemeConfig(name="rs", budget=budget)))
    covered = 1 - 0.6**budget
    assert sum(counts.values()) / 4000 == pytest.approx(covered, abs=0.03)
    assert p_value(counts, JOINT) > 0.001
    assert p_value(counts, HINTED) < 1e-6, "the test could not tell the two distributions apart"


def test_pps_accepts_its_own_proposal_restricted_to_right_answers() -> None:
    counts = rationale_counts(drawn(4000, SchemeConfig(name="pps")))
    assert p_value(counts, HINTED) > 0.001
    assert p_value(counts, JOINT) < 1e-6


def test_star_mixes_the_posterior_with_hinted_draws_of_what_failed() -> None:
    parts = drawn(2000, SchemeConfig(name="star"))
    rows = [row for table in parts.values() for row in table.to_pylist()]
    plain = {row["problem_id"]: row["verdict"] for row in rows if row["prompt_kind"] == "plain"}
    hinted = {row["problem_id"] for row in rows if row["prompt_kind"] == "hinted"}
    assert len(plain) == 2000
    assert hinted == {problem_id for problem_id, verdict in plain.items() if verdict != "accepted"}


def test_the_order_in_which_draws_finish_changes_nothing() -> None:
    scheme = SchemeConfig(name="star", budget=3, hinted_budget=2)
    usual = drawn(120, scheme, part_size=16)
    reversed_ = drawn(120, scheme, part_size=16, engine=TableEngine(lambda ids: ids[::-1]), limit=40)
    assert usual.keys() == reversed_.keys()
    assert all(usual[n].equals(reversed_[n]) for n in usual)


def test_committed_parts_are_not_drawn_again_and_the_others_come_out_the_same() -> None:
    scheme = SchemeConfig(name="rs", budget=4)
    whole = drawn(100, scheme, part_size=10)
    engine = TableEngine()
    rest = drawn(100, scheme, part_size=10, done={0, 3, 9}, engine=engine)
    assert sorted(rest) == [1, 2, 4, 5, 6, 7, 8]
    assert all(rest[n].equals(whole[n]) for n in rest)
    assert not {int(r.split("/")[1]) // 10 for r in engine.added} & {0, 3, 9}


def test_the_engine_is_kept_full_and_never_overfilled() -> None:
    engine = TableEngine()
    drawn(200, SchemeConfig(name="rs", budget=4), engine=engine, limit=32)
    assert engine.most == 32


def test_a_failed_problem_comes_before_one_not_begun() -> None:
    engine = TableEngine()
    drawn(64, SchemeConfig(name="rs", budget=4), engine=engine, limit=8, part_size=64)
    seen: set[int] = set()
    order = [tuple(map(int, r.split("/")[1:3])) for r in engine.added]
    first_of_last = next(i for i, (index, _) in enumerate(order) if index == 63)
    retries_after = [index for index, attempt in order[first_of_last:] if attempt > 0 and index < 40]
    seen.update(retries_after)
    assert not seen, "early problems were left waiting behind fresh ones"


@pytest.mark.parametrize("order", [list, lambda ids: ids[::-1], lambda ids: sorted(ids, key=hash)])
@pytest.mark.parametrize(
    "scheme",
    [SchemeConfig(name="rs", budget=8), SchemeConfig(name="star", budget=3, hinted_budget=3), SchemeConfig(name="pps")],
)
def test_drawing_ahead_leaves_the_attempts_of_a_walk_one_by_one(
    order: Callable[[list[str]], list[str]], scheme: SchemeConfig
) -> None:
    engine, counts = TableEngine(order), []
    ahead = drawn(60, scheme, part_size=16, floor=40, engine=engine, counts=counts)
    usual = drawn(60, scheme, part_size=16)
    assert ahead.keys() == usual.keys()
    assert all(ahead[n].equals(usual[n]) for n in usual)
    rows = sum(table.num_rows for table in usual.values())
    assert counts[0].draws == rows
    assert counts[0].dropped_tokens == 2 * (len(engine.added) - rows)
    assert (len(engine.added) > rows) == (scheme.name != "pps"), "what is drawn ahead should show, and PPS(1) has none"


def test_with_a_floor_the_engine_is_not_left_empty_and_takes_fewer_steps() -> None:
    class Counting(TableEngine):
        steps = 0

        def step(self) -> list[Finished]:
            self.steps += 1
            return super().step()

    one_by_one, ahead = Counting(), Counting()
    drawn(10, SchemeConfig(name="rs", budget=8), engine=one_by_one)
    drawn(10, SchemeConfig(name="rs", budget=8), engine=ahead, floor=7)
    assert ahead.steps < one_by_one.steps
    assert ahead.most == one_by_one.most == 10, "ahead is drawn only where the engine has nothing else to do"


def test_keep_all_draws_nothing_ahead() -> None:
    engine = TableEngine()
    drawn(5, SchemeConfig(name="star", budget=2, hinted_budget=4, keep="all"), engine=engine, floor=64)
    usual = TableEngine()
    drawn(5, SchemeConfig(name="star", budget=2, hinted_budget=4, keep="all"), engine=usual)
    assert sorted(engine.added) == sorted(usual.added)


def test_every_draw_of_a_run_has_its_own_seed() -> None:
    rows = [
        r for seed in (0, 1) for t in drawn(100, SchemeConfig(name="rs"), seed=seed).values() for r in t.to_pylist()
    ]
    assert len({row["seed"] for row in rows}) == len(rows)


def test_the_last_part_may_be_short_and_no_part_is_written_twice() -> None:
    parts = drawn(23, SchemeConfig(name="pps"), part_size=10)
    assert [parts[n].num_rows for n in sorted(parts)] == [10, 10, 3]


def test_keep_all_numbers_its_attempts_in_plan_order() -> None:
    parts = drawn(10, SchemeConfig(name="rs", budget=3, keep="all"), engine=TableEngine(lambda ids: ids[::-1]))
    rows = [row for table in parts.values() for row in table.to_pylist()]
    for _, group in itertools.groupby(rows, key=lambda row: row["problem_id"]):
        assert [row["attempt"] for row in group] == [0, 1, 2]


def test_the_totals_count_draws_problems_and_tokens() -> None:
    parts = drawn(50, SchemeConfig(name="rs", budget=2, keep="all"))
    stats = draw_stats(parts.values())
    rows = [row for table in parts.values() for row in table.to_pylist()]
    solved = {row["problem_id"] for row in rows if row["verdict"] == "accepted"}
    assert stats == {"draws": 100, "problems_accepted": len(solved), "prompt_tokens": 100, "completion_tokens": 200}


class LookedAt(TableEngine):
    """Draws completions with an answer line, as their token ids say, and takes looks at them."""

    def __init__(self, order: Callable[[list[str]], list[str]] = list) -> None:
        super().__init__(order)
        self.scored: list[tuple[list[int], list[int]]] = []
        self.shown: list[tuple[str, Sampling]] = []

    def add(self, request_id: str, prompt_ids: list[int], sampling: Sampling) -> None:
        if request_id.endswith("/blind_answer"):
            assert prompt_ids[0] == 0, "the prompt is the plain one"
            text = "".join(map(chr, prompt_ids[1:]))
            self.shown.append((text, sampling))
            answer = Finished(request_id, " 0" if text[0] == "a" else " 1.", "stop", 9, 3, -1.0)
            self._waiting[request_id] = Finished(request_id, "", "length", 9, 3, -1.0) if text[0] == "c" else answer
            return
        super().add(request_id, prompt_ids, sampling)
        one = self._waiting[request_id]
        text = f"{one.text[0]} so\nAnswer: {one.text[1]}"
        self._waiting[request_id] = Finished(request_id, text, "stop", 1, 2, -1.0, (ord(text[0]), sampling.seed or 0))

    def add_score(self, request_id: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> None:
        self.scored.append((list(prompt_ids), list(completion_ids)))
        self._waiting[request_id] = Finished(request_id, "", "scored", 1, 2, -completion_ids[1] / 2**31)


def looked(
    n: int, scheme: SchemeConfig, *asked: Look, engine: LookedAt | None = None, room: int = 99, **more: Any
) -> dict[int, pa.Table]:
    def judging(text: str, finish_reason: str, one: Problem) -> Judgement:
        return verdicts.judge(text, finish_reason, one, None)  # type: ignore[arg-type]  # no scorer is asked here

    looker = Looker(
        asked,
        render=lambda _, kind: [int(kind == "hinted")],
        text_ids=lambda t: list(map(ord, t)),
        judge=judging,
        room=room,
    )
    return drawn(n, scheme, engine=engine or LookedAt(), looker=looker if asked else None, judging=judging, **more)


KEPT = SchemeConfig(name="pps", budget=3, keep="all")


def test_accepted_draws_alone_are_looked_at_with_the_plain_prompt_and_the_tokens_that_were_drawn() -> None:
    engine, counted = LookedAt(), list[Counts]()
    parts = looked(30, KEPT, "plain_logprob", "blind_answer", engine=engine, part_size=8, counts=counted)
    rows = [row for table in parts.values() for row in table.to_pylist()]
    assert len(rows) == 90 and all(table.schema.equals(LOOKED) for table in parts.values())
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    assert 40 < len(accepted) < 90
    for row in rows:
        right = row["verdict"] == "accepted"
        assert row["plain_logprob"] == (-row["seed"] / 2**31 if right else None)
        again = {"a": ("0", "wrong_answer"), "b": ("1", "accepted"), "c": (None, "truncated")}[row["text"][0]]
        assert (row["blind_answer"], row["blind_verdict"]) == (again if right else (None, None))
    assert sorted(engine.scored) == sorted(([0], [ord(row["text"][0]), row["seed"]]) for row in accepted)
    texts, samplings = zip(*engine.shown, strict=True)
    assert set(texts) == {"a so\nAnswer:", "b so\nAnswer:", "c so\nAnswer:"}
    assert set(samplings) == {Sampling(0.0, 1.0, 33, None, stop="\n")}
    assert counted[0].draws == 90
    assert (counted[0].completion_tokens, counted[0].look_tokens) == (180, len(accepted) * (3 + 12))


def test_looks_change_neither_draws_nor_parts_whatever_the_order_and_whatever_was_committed() -> None:
    usual = looked(40, KEPT, "plain_logprob", "blind_answer", part_size=8)
    turned = looked(
        40, KEPT, "blind_answer", "plain_logprob", part_size=8, engine=LookedAt(lambda ids: ids[::-1]), limit=5
    )
    assert usual.keys() == turned.keys() and all(usual[n].equals(turned[n]) for n in usual)
    rest = looked(40, KEPT, "plain_logprob", "blind_answer", part_size=8, done={0, 3})
    assert sorted(rest) == [1, 2, 4] and all(rest[n].equals(usual[n]) for n in rest)
    bare = looked(40, KEPT, part_size=8)
    assert all(bare[n].equals(usual[n].select(ATTEMPTS.names)) for n in usual)


def test_drawing_ahead_looks_at_nothing_that_is_dropped() -> None:
    scheme = SchemeConfig(name="rs", budget=8)
    engine = LookedAt(lambda ids: ids[::-1])
    ahead = looked(60, scheme, "plain_logprob", floor=40, engine=engine)
    usual = looked(60, scheme, "plain_logprob")
    assert all(ahead[n].equals(usual[n]) for n in usual)
    accepted = sum(t.column("verdict").to_pylist().count("accepted") for t in usual.values())
    assert len(engine.scored) == accepted < 60 * 8


def test_a_rationale_that_leaves_no_room_is_not_asked() -> None:
    engine = LookedAt()
    (table,) = looked(20, KEPT, "blind_answer", engine=engine, room=13).values()
    assert not engine.shown
    found = {(row["verdict"], row["blind_verdict"]) for row in table.to_pylist()}
    assert found == {("accepted", "truncated"), ("wrong_answer", None)}


def test_a_greedy_first_attempt_stands_before_sampled_ones_of_their_own_seeds() -> None:
    asked: dict[str, Sampling] = {}

    class Listening(TableEngine):
        def add(self, request_id: str, prompt_ids: list[int], sampling: Sampling) -> None:
            asked[request_id] = sampling
            super().add(request_id, prompt_ids, sampling)

    parts: list[pa.Table] = []
    loop = DrawLoop(
        "job",
        [problem(0), problem(1)],
        evaluation_of(2),
        DrawSettings(0, 1, 0, 0.7, 0.9, 8, greedy_first=True),
        part_size=2,
        done_parts=set(),
        render=lambda problem, kind: [0],
        judge=judge,
        write_part=lambda n, table: parts.append(table),
    )
    engine = Listening()
    while not loop.done:
        loop.fill(engine, 8)
        for finished in engine.step():
            loop.receive(finished, engine)
    rows = parts[0].to_pylist()
    assert [row["attempt"] for row in rows] == [0, 1, 2] * 2
    assert asked["job/1/0/plain"] == Sampling(0.0, 1.0, 8, None)
    seeds = [derive_seed(0, 1, row["problem_id"], row["attempt"]) if row["attempt"] else 0 for row in rows]
    assert [row["seed"] for row in rows] == seeds
    assert asked["job/1/2/plain"] == Sampling(0.7, 0.9, 8, seeds[5])
