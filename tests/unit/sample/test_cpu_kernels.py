"""Tokens drawn by looking up one random number are distributed as the softmax says."""

import os
import subprocess
import sys

import pytest
import torch
from scipy.stats import chisquare

from fem_core.sample.cpu_kernels import SEEDS, _find, draw_tokens
from fem_core.sample.engine_settings import environment


def seeds(count: int, seed: int = 0) -> torch.Tensor:
    """As vLLM draws them."""
    return torch.randint(0, SEEDS, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vocabulary", [7, 256, 1000])
def test_draws_follow_the_softmax(vocabulary: int) -> None:
    logits = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(1))
    logits[::5] = -torch.inf
    count = 200_000
    drawn = torch.cat([draw_tokens(logits.expand(10_000, -1), seeds(10_000, n)) for n in range(count // 10_000)])
    found = drawn.bincount(minlength=vocabulary)
    expected = logits.double().softmax(-1) * count
    assert found[::5].sum() == 0
    some = expected > 5
    test = chisquare(found[some], expected[some] * found[some].sum() / expected[some].sum())
    assert test.pvalue > 1e-4


def test_every_seed_draws_a_token_that_is_allowed() -> None:
    """The least and the greatest seed too, whatever rounding does, and where one token is left of all."""
    edges = torch.tensor([0, 1, SEEDS - 2, SEEDS - 1] * 50)
    logits = 30 * torch.randn(len(edges), 1000, generator=torch.Generator().manual_seed(2))
    logits[:, 990:] = -torch.inf
    logits[::3] = logits[::3].masked_fill(torch.arange(1000) != 511, -torch.inf)
    drawn = draw_tokens(logits, edges)
    assert logits.gather(1, drawn[:, None]).isfinite().all()
    assert (drawn[::3] == 511).all()


def test_a_share_of_one_still_falls_on_a_weight() -> None:
    """Rounding can make it one."""
    weights = torch.tensor([[0.1, 0.7, 0.0, 0.2, 0.0], [0.0, 0.3, 0.0, 0.0, 0.0]])
    assert _find(weights, torch.ones(2, dtype=torch.float64))[0].tolist() == [3, 1]
    assert _find(weights, torch.zeros(2, dtype=torch.float64))[0].tolist() == [0, 1]


def test_a_seed_draws_the_same_token_in_any_batch() -> None:
    logits = torch.randn(40, 3000, generator=torch.Generator().manual_seed(3))
    each = [draw_tokens(row[None], seed[None]) for row, seed in zip(logits, seeds(40), strict=True)]
    assert draw_tokens(logits, seeds(40)).tolist() == torch.cat(each).tolist()
    assert draw_tokens(logits, seeds(40)).dtype == torch.int64


@pytest.mark.slow
def test_the_engine_draws_with_it() -> None:
    """In a process of its own: vLLM changes the one that imports it. Without its kernel nothing is changed."""
    code = (
        "import torch\nfrom fem_core.sample import cpu_kernels\ncpu_kernels.register()\n"
        "from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler\n"
        "asked = []\n"
        "torch.ops._C.fused_gumbel_argmax = (lambda was: lambda *a: asked.append(was) or was(*a))"
        "(torch.ops._C.fused_gumbel_argmax)\n"
        "drawn = TopKTopPSampler().forward(torch.tensor([[0.0, 90.0, 0.0]]), {}, None, None)[0]\n"
        "assert drawn.tolist() == [1] and asked == [cpu_kernels.draw_tokens], (drawn, asked)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment("cpu"), capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr
