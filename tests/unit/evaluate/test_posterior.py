"""Importance weights on a model small enough to enumerate: exact posterior, exact log p(y* | x), exact expectations."""

from itertools import product

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import chisquare

from fem_core.evaluate.posterior import effective_sample_size, log_weights, lower_bound, normalised, resample

Z, Y = 4, 3
STAR = 1
"""y*."""


class Toy:
    """A softmax policy over (z, y) for one x: ``pi`` from the plain prompt, ``q`` from the hinted one."""

    def __init__(self, seed: int, *, faithful: bool = False) -> None:
        """
        Args:
            faithful: the hinted prompt always answers y*.
        """
        random = np.random.default_rng(seed)
        self.log_pi = self._softmax(random.normal(scale=1.5, size=(Z, Y)))
        hinted = random.normal(size=(Z, Y)) + 2.0 * (np.arange(Y) == STAR)
        self.log_q = self._softmax(np.where((np.arange(Y) == STAR) | (not faithful), hinted, -np.inf))

    @staticmethod
    def _softmax(parameters: np.ndarray) -> np.ndarray:
        return parameters - logsumexp(parameters)

    @property
    def log_evidence(self) -> float:
        """log pi(y* | x)."""
        return float(logsumexp(self.log_pi[:, STAR]))

    @property
    def posterior(self) -> np.ndarray:
        """p(z | x, y*)."""
        return np.exp(self.log_pi[:, STAR] - self.log_evidence)

    def draw(self, problems: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """z, and log-weights, of shape (problems, draws); all problems are this same x."""
        cells = np.random.default_rng(seed).choice(Z * Y, p=np.exp(self.log_q).ravel(), size=(problems, draws))
        z, y = np.divmod(cells, Y)
        return z, log_weights(self.log_pi[z, y], self.log_q[z, y], y == STAR)

    def expected_bound(self, draws: int) -> float:
        """E[lower bound] over every possible outcome of ``draws`` draws of a faithful q."""
        outcomes = np.array(list(product(range(Z), repeat=draws)))
        log_p, log_q = self.log_pi[outcomes, STAR], self.log_q[outcomes, STAR]
        chances = np.exp(log_q.sum(axis=1))
        assert chances.sum() == pytest.approx(1.0)
        return float(chances @ lower_bound(log_weights(log_p, log_q, np.ones_like(outcomes, bool))))


@pytest.fixture(params=[0, 1, 2])
def toy(request: pytest.FixtureRequest) -> Toy:
    return Toy(request.param)


def test_normalised_weights_converge_to_the_posterior(toy: Toy) -> None:
    off = []
    for draws in (50, 200_000):
        z, log_w = toy.draw(1, draws, seed=7)
        estimate = np.bincount(z[0], normalised(log_w)[0], minlength=Z)
        off.append(np.abs(estimate - toy.posterior).sum())
    assert off[1] < 0.02 < np.abs(np.exp(toy.log_q[:, STAR]) / np.exp(toy.log_q[:, STAR]).sum() - toy.posterior).sum()
    assert off[1] < off[0]


def test_the_mean_weight_is_unbiased_though_wrong_draws_count(toy: Toy) -> None:
    _, log_w = toy.draw(100_000, 4, seed=3)
    assert np.isneginf(log_w).any(), "q draws wrong answers here"
    means = np.exp(lower_bound(log_w))
    error = means.std() / len(means) ** 0.5
    assert means.mean() == pytest.approx(np.exp(toy.log_evidence), abs=4 * error)
    kept_only = np.where(np.isneginf(log_w).all(1), 0.0, means * 4 / np.maximum(1, (~np.isneginf(log_w)).sum(1)))
    assert abs(kept_only.mean() - np.exp(toy.log_evidence)) > 4 * error, (
        "leaving wrong draws out of S is another quantity"
    )


def test_stopping_at_the_first_acceptance_is_biased(toy: Toy) -> None:
    """Why S must not depend on what was drawn: the same weights, with S counted up to the first right draw."""
    _, log_w = toy.draw(50_000, 64, seed=5)
    first = np.argmax(~np.isneginf(log_w), axis=1)
    stopped = np.exp(log_w[np.arange(len(log_w)), first]) / (first + 1)
    assert stopped.mean() - np.exp(toy.log_evidence) > 4 * stopped.std() / len(stopped) ** 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_bound_lies_below_in_expectation_and_rises_with_draws(seed: int) -> None:
    toy = Toy(seed, faithful=True)
    bounds = [toy.expected_bound(draws) for draws in (1, 2, 4, 6)]
    assert bounds == sorted(bounds) and bounds[-1] - bounds[0] > 1e-3
    assert bounds[-1] < toy.log_evidence
    kl = float(np.exp(toy.log_q[:, STAR]) @ (toy.log_q[:, STAR] - np.log(toy.posterior)))
    assert bounds[0] == pytest.approx(toy.log_evidence - kl), "one draw gives the evidence lower bound"


def test_the_bound_converges(toy: Toy) -> None:
    _, log_w = toy.draw(1, 200_000, seed=11)
    assert lower_bound(log_w)[0] == pytest.approx(toy.log_evidence, abs=0.02)


def test_a_proposal_that_is_the_posterior_is_exact_with_one_draw() -> None:
    toy = Toy(4)
    toy.log_q = np.full((Z, Y), -np.inf)
    toy.log_q[:, STAR] = np.log(toy.posterior)
    _, log_w = toy.draw(200, 3, seed=0)
    assert lower_bound(log_w) == pytest.approx(np.full(200, toy.log_evidence))
    assert effective_sample_size(log_w) == pytest.approx(np.full(200, 3.0))


def test_resampled_draws_follow_the_posterior(toy: Toy) -> None:
    z, log_w = toy.draw(4000, 400, seed=13)
    columns = resample(log_w, range(4000))
    assert columns.shape == (4000, 1)
    counts = np.bincount(z[np.arange(4000), columns[:, 0]], minlength=Z)
    assert chisquare(counts, 4000 * toy.posterior).pvalue > 1e-4
    raw = np.bincount(z[:, 0][~np.isneginf(log_w[:, 0])], minlength=Z)
    assert chisquare(raw, raw.sum() * toy.posterior).pvalue < 1e-4, "without weights they follow q"


def test_what_a_problem_gets_depends_on_its_own_seed_alone(toy: Toy) -> None:
    _, log_w = toy.draw(20, 8, seed=1)
    whole = resample(log_w, range(20), m=3)
    assert (resample(log_w[5:9], range(5, 9), m=3) == whole[5:9]).all()
    assert (resample(log_w, range(100, 120), m=3) != whole).any()


def test_a_column_without_weight_is_never_drawn() -> None:
    log_w = np.array([[-np.inf, 0.0, -np.inf, 1.0, -np.inf]])
    assert set(resample(log_w, [0], m=5000)[0].tolist()) == {1, 3}


def test_a_problem_without_a_right_draw_has_no_weights_and_spoils_no_other() -> None:
    log_w = log_weights([[-5.0, np.nan], [-2.0, -3.0]], [[-1.0, -1.0], [-1.0, -1.0]], [[False, False], [True, False]])
    assert normalised(log_w).tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert effective_sample_size(log_w).tolist() == [0.0, 1.0]
    assert lower_bound(log_w).tolist() == [-np.inf, pytest.approx(-1.0 - np.log(2))]
    assert resample(log_w, [1, 1], m=2).tolist() == [[-1, -1], [0, 0]]


def test_densities_of_long_completions_neither_underflow_nor_overflow() -> None:
    near = np.array([[-3000.0, -3000.0 + np.log(3.0)]])
    log_w = log_weights(near, np.zeros((1, 2)), np.ones((1, 2), bool))
    assert normalised(log_w)[0] == pytest.approx([0.25, 0.75])
    assert effective_sample_size(log_w)[0] == pytest.approx(1.6)
    assert lower_bound(log_w)[0] == pytest.approx(-3000.0 + np.log(2.0))
    assert lower_bound(-log_w)[0] == pytest.approx(3000.0 + np.log(2.0 / 3.0))


@pytest.mark.parametrize(
    ("log_pi", "log_q", "right", "sentence"),
    [
        ([[0.0]], [[0.0, 0.0]], [[True]], "not one shape"),
        ([0.0], [0.0], [True], "not one shape"),
        ([[np.nan]], [[0.0]], [[True]], "draw 0 of problem 0 has log pi nan"),
        ([[0.0, 0.0]], [[0.0, -np.inf]], [[True, True]], "draw 1 of problem 0"),
    ],
)
def test_densities_that_cannot_be_are_refused(log_pi: list, log_q: list, right: list, sentence: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=sentence):
        log_weights(log_pi, log_q, right)


def test_seeds_and_draws_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 seeds for 2 problems"):
        resample(np.zeros((2, 3)), [0])
    with pytest.raises(ValueError, match="no draws give no bound"):
        lower_bound(np.zeros((2, 0)))
