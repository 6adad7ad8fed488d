"""EM's bound on a model that can be enumerated: below log p(y* | x), closer with more draws, and a fall is noticed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import made_run
import numpy as np
import pyarrow as pa
import pytest
from made_run import made_config, make_run, problems_of
from scipy.special import logsumexp

from fem_core.audit.audit import audit
from fem_core.evaluate import bound as bounds
from fem_core.evaluate.bound import FEWEST, Weighed, bound, direct_text, fell, probe_ids, weighed
from fem_core.evaluate.paired import paired_bootstrap
from fem_core.problems.problem import Problem, make_problem
from fem_core.report.model_card import model_card
from fem_core.report.signatures import lines, signatures
from fem_core.report.summary import further, markdown, summarise
from fem_core.schemas import PROBES
from fem_core.store.store import Store
from tasks.bound import bound_work

RATIONALES, ANSWERS = ("", "a", "b", "c"), ("no", "yes")
"""The first rationale is none: the answer line alone."""

PROBLEMS = {one.problem_id: one for one in (make_problem(f"Is {n} even?", "yes", "label") for n in range(30))}


class Toy:
    """For every problem a softmax policy over (z, y): theta for the plain prompt, and a hint that favours y*."""

    def __init__(self, seed: int, hint: float = 2.0) -> None:
        self.theta = np.random.default_rng(seed).normal(scale=1.5, size=(len(PROBLEMS), len(RATIONALES), len(ANSWERS)))
        self.hint = hint

    @property
    def log_pi(self) -> np.ndarray:
        return self._softmax(self.theta)

    @property
    def log_q(self) -> np.ndarray:
        return self._softmax(0.5 * self.theta + self.hint * (np.arange(len(ANSWERS)) == 1))

    @staticmethod
    def _softmax(theta: np.ndarray) -> np.ndarray:
        return np.asarray(theta - logsumexp(theta, axis=(1, 2), keepdims=True))

    @property
    def log_likelihood(self) -> float:
        """The mean of log pi(y* | x)."""
        return float(logsumexp(self.log_pi[:, :, 1], axis=1).mean())

    def trained(self, on: int, steps: int = 20, rate: float = 0.5) -> "Toy":
        """Gradient steps on the likelihood of the answer ``on``: 1 makes y* likelier, 0 less likely."""
        better = Toy(0, self.hint)
        better.theta = self.theta.copy()
        for _ in range(steps):
            joint = np.exp(better.log_pi)
            wanted = np.where(np.arange(len(ANSWERS)) == on, joint, 0.0)
            better.theta += rate * (wanted / wanted.sum(axis=(1, 2), keepdims=True) - joint)
        return better

    def probes(self, draws: int, seed: int) -> list[pa.Table]:
        """What a host would write of it."""
        random, rows = np.random.default_rng(seed), []
        log_q, log_pi = self.log_q, self.log_pi
        for i, problem_id in enumerate(PROBLEMS):
            cells = random.choice(log_q[i].size, p=np.exp(log_q[i]).ravel(), size=draws)
            for n, (z, y) in enumerate(zip(*np.divmod(cells, len(ANSWERS)), strict=True)):
                rows.append(
                    {
                        "problem_id": problem_id,
                        "attempt": n,
                        "prompt_kind": "hinted",
                        "exemplars": 0,
                        "text": f"{RATIONALES[z]}\nAnswer: {ANSWERS[y]}".lstrip(),
                        "answer": ANSWERS[y],
                        "verdict": "accepted" if y else "wrong_answer",
                        "finish_reason": "stop",
                        "prompt_tokens": 1,
                        "completion_tokens": 1,
                        "logprob": log_q[i, z, y],
                        "seed": n,
                        "plain_logprob": log_pi[i, z, y] if y else None,
                        "direct_logprob": None if n else log_pi[i, 0, 1],
                    }
                )
        return [pa.Table.from_pylist(rows[i : i + 100], schema=PROBES) for i in range(0, len(rows), 100)]

    def weighed(self, draws: int, seed: int) -> Weighed:
        return weighed(self.probes(draws, seed), PROBLEMS)


@pytest.fixture(params=[1, 2, 3])
def toy(request: pytest.FixtureRequest) -> Toy:
    return Toy(request.param)


def means(toy: Toy, draws: int, repeats: int = 30) -> tuple[float, float]:
    """The mean of the bound over repeated probes, and its standard error."""
    found = [float(toy.weighed(draws, seed).bounds.mean()) for seed in range(repeats)]
    return float(np.mean(found)), float(np.std(found) / repeats**0.5)


def test_the_bound_lies_below_the_log_likelihood_and_comes_closer_with_more_draws(toy: Toy) -> None:
    low, middle, high = (means(toy, draws) for draws in (2, 8, 32))
    assert low[0] < middle[0] < high[0] < toy.log_likelihood + 3 * high[1]
    assert middle[0] - low[0] > 4 * (low[1] + middle[1])
    assert high[0] == pytest.approx(toy.log_likelihood, abs=0.1)


def test_the_direct_answer_is_counted_once(toy: Toy) -> None:
    """The bracket is unbiased: pi(d | x) is in it exactly, and draws that say d are not."""
    brackets = np.mean([np.exp(toy.weighed(4, seed).bounds) for seed in range(200)], axis=0)
    wanted = np.exp(logsumexp(toy.log_pi[:, :, 1], axis=1))
    assert brackets.mean() == pytest.approx(wanted.mean(), rel=0.03)
    twice = brackets.mean() + np.exp(toy.log_pi[:, 0, 1]).mean()
    assert twice > 1.1 * wanted.mean(), "counting them would show here"


def test_a_problem_without_a_right_draw_rests_on_the_direct_answer_and_is_counted() -> None:
    toy = Toy(1, hint=-30.0)  # a hint after which nothing is right
    now = toy.weighed(3, 0)
    found = bound(now)
    assert (found["without"], found["acceptance"], found["ess"]) == (30, 0.0, 0.0)
    assert (found["gap"], found["gap_problems"]) == (None, 0)
    direct = [toy.log_pi[list(PROBLEMS).index(problem_id), 0, 1] for problem_id in now.problem_ids]
    assert now.bounds == pytest.approx(np.array(direct))
    assert found["low"] < found["bound"] < found["high"] < toy.log_likelihood


def test_the_gap_is_that_between_right_draws_and_the_posterior(toy: Toy) -> None:
    found = bound(toy.weighed(300, 5))
    log_q, log_pi = toy.log_q[:, :, 1], toy.log_pi[:, :, 1]
    restricted, posterior = (one - logsumexp(one, axis=1, keepdims=True) for one in (log_q, log_pi))
    kl = (np.exp(restricted) * (restricted - posterior)).sum(axis=1).mean()
    assert found["gap"] == pytest.approx(kl, rel=0.1) and kl > 0.05
    assert 0 < found["ess"] < found["acceptance"] * 300


def test_a_better_model_raises_the_bound_and_a_worse_one_is_noticed(toy: Toy) -> None:
    before = toy.weighed(16, 0)
    for on, worse in ((1, False), (0, True)):
        after = toy.trained(on)
        found = bound(after.weighed(16, 1), before)
        rose = after.log_likelihood > toy.log_likelihood
        assert rose != worse
        assert bool(fell(found)) is worse
        assert (found["change"]["difference"] < 0) is worse
    assert not fell(bound(toy.weighed(16, 2), before)), "the same model drawn again is no fall"
    assert not fell(bound(before))


def test_problems_that_lose_their_right_draws_are_a_fall() -> None:
    before, after = Toy(1).weighed(4, 0), Toy(1, hint=-30.0).weighed(4, 1)
    change = bound(after, before)["change"]
    assert (change["problems"], change["difference"], change["high"]) == (0, None, None)
    assert change["lost"] > 25 and change["gained"] == 0 and change["p"] < 1e-6
    assert fell({"change": change}) and not fell({"change": bound(before, after)["change"]})


def test_a_handful_of_problems_cannot_say_that_the_bound_fell() -> None:
    rng = np.random.default_rng(0)

    def share(n: int, least: int) -> float:
        """How often the interval of noise alone lies below 0."""
        highs = [paired_bootstrap(rng.normal(size=n).tolist(), resamples=1000)[1] for _ in range(400)]
        rest = {"problems": n, "difference": -1.0, "low": -2.0, "lost": 0, "gained": 0, "p": 1.0}
        assert [bool(fell({"change": rest | {"high": high}})) for high in highs] == [
            n >= least and high < 0 for high in highs
        ]
        return sum(high < 0 for high in highs) / len(highs)

    assert share(3, FEWEST) > 0.1
    assert share(FEWEST - 1, FEWEST) < 0.07 and share(FEWEST, FEWEST) < 0.07


def doubled(one: Weighed) -> Weighed:
    """Every problem twice, in one group."""
    ids = tuple(f"{problem_id}-{order}" for problem_id in one.problem_ids for order in "ab")
    return Weighed(ids, one.log_w.repeat(2, axis=0), one.bounds.repeat(2), tuple(name[:-2] for name in ids))


def test_both_orders_of_a_pair_that_are_alike_are_one_sample(toy: Toy) -> None:
    before, after = toy.weighed(8, 0), toy.trained(0).weighed(8, 1)
    once, twice = bound(after, before), bound(doubled(after), doubled(before))
    assert (once["groups"], twice["groups"], twice["problems"]) == (30, 30, 60)
    for one, other in ((once, twice), (once["change"], twice["change"])):
        assert (one["low"], one["high"]) == pytest.approx((other["low"], other["high"]))
        naive = replace(doubled(after), groups=None), replace(doubled(before), groups=None)
        taken_apart = bound(*naive) if one is once else bound(*naive)["change"]
        assert "groups" not in taken_apart
        apart = taken_apart["high"] - taken_apart["low"]
        assert (other["high"] - other["low"]) / apart == pytest.approx(2**0.5, rel=0.05)
    assert twice["change"]["lost"] == 2 * once["change"]["lost"] and twice["change"]["p"] == once["change"]["p"]


def test_a_group_that_lost_and_gained_is_no_sign_of_either() -> None:
    draws = np.array([[0.0], [-np.inf]])
    before = Weighed(("a", "b"), draws, np.zeros(2), ("pair", "pair"))
    after = replace(before, log_w=draws[::-1])
    change = bound(after, before)["change"]
    assert (change["lost"], change["gained"], change["p"]) == (1, 1, 1.0)
    lost = replace(before, log_w=np.full((2, 1), -np.inf))
    assert bound(lost, replace(before, log_w=np.zeros((2, 1))))["change"]["p"] == 1.0, "one pair, not two problems"


def test_a_fall_needs_as_many_groups_as_it_would_problems() -> None:
    change = {"difference": -1.0, "low": -2.0, "high": -0.5, "lost": 0, "gained": 0, "p": 1.0}
    for groups, said in ((FEWEST - 1, False), (FEWEST, True)):
        assert bool(fell({"change": change | {"problems": 2 * groups, "groups": groups}})) is said


def test_a_bound_of_version_1_holds_as_that_version_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_pairs(numbers: range) -> list[Problem]:
        return [replace(one, group=f"pair {i // 2}") for i, one in enumerate(problems_of(numbers))]

    asked = made_config(evaluate={"bound": {"problems": 10, "draws": 2}})
    store = Store.open(str(tmp_path / "store"))
    with monkeypatch.context() as then:
        then.setattr(made_run, "weighed", lambda probes, problems: weighed(probes, problems, 1))
        then.setattr(bounds, "VERSION", 1)
        make_run(store, asked, make=in_pairs)
    manifests = [store.manifest(f"runs/made/iteration=002/{kind}") for kind in ("bound", "probes")]
    recorded, probes = (one for one in manifests if one is not None)
    assert recorded.step.version == 1 and "groups" not in recorded.stats
    result = audit(store, "made", deep=True, cache=tmp_path)
    assert result.broken == () and not [finding for finding in result.findings if finding.level == "unchecked"]
    before = store.manifest("runs/made/iteration=001/probes")
    problems = store.manifest("runs/made/problems/train")
    assert before is not None and problems is not None
    todo = bound_work("made", 2, problems, probes, before, recorded)
    assert store.find(todo.artifact, todo.key) == recorded
    assert bound_work("made", 2, problems, probes, before).version == bounds.VERSION


def test_iterations_of_other_problems_and_probes_without_draws_are_refused() -> None:
    whole = Toy(1).weighed(2, 0)
    with pytest.raises(ValueError, match="other problems"):
        bound(whole, Weighed(whole.problem_ids[1:], whole.log_w[1:], whole.bounds[1:]))
    tables = Toy(1).probes(2, 0)
    with pytest.raises(ValueError, match="must have as many"):
        weighed([tables[0].slice(1)], PROBLEMS)
    with pytest.raises(ValueError, match="must have as many"):
        weighed([], PROBLEMS)


def test_the_probe_set_is_a_fixed_choice_of_the_run() -> None:
    ids = list(PROBLEMS)
    chosen = probe_ids(ids, 20, 7)
    assert len(set(chosen)) == 20 and set(chosen) <= set(ids)
    assert probe_ids(reversed(ids), 20, 7) == chosen != probe_ids(ids, 20, 8)
    assert set(probe_ids(ids, 10, 7)) < set(chosen), "a larger probe set holds the smaller one"
    assert probe_ids(ids, 1000, 7) == tuple(sorted(ids))


def test_the_direct_answer_is_the_answer_line_with_the_answer_as_people_read_it() -> None:
    one: Problem = make_problem("Which?", "A", "choice", choices=("x", "y"))
    assert direct_text(one) == "Answer: A"
    anything: Any = PROBLEMS
    assert direct_text(next(iter(anything.values()))) == "Answer: yes"


def test_a_bound_that_falls_is_shown_and_explained_wherever_a_run_is_looked_at(tmp_path: Path) -> None:
    asked = made_config(evaluate={"bound": {"problems": 30, "draws": 2}})
    assert asked.digest() != made_config().digest() and "bound" not in made_config().identity()["evaluate"]
    store = Store.open(str(tmp_path / "store"))
    make_run(store, asked, make=lambda asked: problems_of(range(asked.start, asked.start + 30)), wrong=7)
    summary = summarise(store, "made")
    (table,) = further(summary)
    assert [row[0] for row in table] == ["iteration", "0 base", "1", "2"]
    assert [row[table[0].index("change")] for row in table[1:]] == ["-", "-1.000", "-1.000"]
    found = signatures(summary)
    assert [(one.name, one.iterations) for one in found] == [("the bound falls", (1, 2))]
    assert "fell by 1.000 nats per problem" in found[0].meaning
    for text in (markdown(summary, lines(found)), model_card(store, "made", 2)):
        assert "the bound falls (iterations 1, 2)" in text and "| 2 | " in text and "95 % of change" in text
    assert "(iteration 1)" in model_card(store, "made", 1)
