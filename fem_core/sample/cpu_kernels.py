"""Faster ways through what vLLM computes in every step on x86.

The CPU build contains a C++ kernel for RMSNorm, which vLLM's dispatch keeps for other platforms. It is registered here
through vLLM's own extension point, as an IR implementation that the engine's arguments give priority. Where the kernel is
missing, vLLM's way stays, and so it does in float32, where the kernel rounds a little worse and people who choose that
want to compare.

Tokens are drawn with one random number for each instead of one for each entry of the vocabulary; see ``draw_tokens``. The
rank of every drawn token among the vocabulary, which comes with its log-probability and which nobody reads, is not
counted.
"""

from typing import Any

PROVIDER = "fem_cpu"
"""The name of these kernels in ``ir_op_priority``."""

PRIORITY = {"rms_norm": [PROVIDER, "native"], "fused_add_rms_norm": [PROVIDER, "native"]}
"""For ``EngineArgs``. The kernels are asked for each input, and vLLM's way computes what they do not take."""

SEEDS = 2**31
"""vLLM's seeds of single tokens are below it."""

_BLOCK = 256
"""Entries of the vocabulary that are summed up before one of them is chosen."""


def register() -> bool:
    """Make the kernels known to vLLM in this process, before an engine is made. May be called twice.

    Returns:
        Whether RMSNorm's kernels are in this build, so that ``PRIORITY`` may be set.
    """
    import torch
    from vllm import ir
    from vllm.platforms import current_platform
    from vllm.v1.sample import sampler

    current_platform.import_kernels()
    kernels = torch.ops._C
    sampler.batched_count_greater_than = _unranked
    if hasattr(kernels, "fused_gumbel_argmax"):
        kernels.fused_gumbel_argmax = draw_tokens
    there = hasattr(kernels, "rms_norm") and hasattr(kernels, "fused_add_rms_norm")
    if there and PROVIDER not in ir.ops.rms_norm.impls:
        _register_norms(ir.ops, kernels)
    return there


def _register_norms(ops: Any, kernels: Any) -> None:
    import torch

    def takes(x: Any, weight: Any, epsilon: float, variance_size: int | None = None) -> bool:
        plain = weight is not None and variance_size is None and weight.dtype == x.dtype
        return plain and x.dtype != torch.float32 and bool(x.is_contiguous())

    def takes_sum(x: Any, x_residual: Any, weight: Any, epsilon: float, variance_size: int | None = None) -> bool:
        return takes(x, weight, epsilon, variance_size) and bool(x_residual.is_contiguous())

    def rms_norm(
        x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> torch.Tensor:
        out = torch.empty_like(x)
        kernels.rms_norm(out, x, weight, epsilon)
        return out

    def fused_add_rms_norm(
        x: torch.Tensor,
        x_residual: torch.Tensor,
        weight: torch.Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kernels.fused_add_rms_norm(x, x_residual, weight, epsilon)
        return x, x_residual

    ops.rms_norm.register_impl(PROVIDER, supports_args=takes)(rms_norm)
    ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=takes_sum, inplace=True)(fused_add_rms_norm)


def _unranked(logprobs: Any, drawn: Any) -> Any:
    """In place of the drawn tokens' ranks: zeros of shape (draws,)."""
    return drawn.new_zeros(logprobs.shape[0]).long()


def draw_tokens(logits: Any, seeds: Any) -> Any:
    """In place of vLLM's kernel, which adds Gumbel noise to every logit: draws from the same distribution.

    The seed's place between 0 and ``SEEDS`` is looked up in the cumulative distribution, first among blocks of the
    vocabulary, then within the block. An entry of probability zero is never drawn.

    Args:
        logits: shape (draws, vocabulary), float32; minus infinity where a token is ruled out.
        seeds: shape (draws,), whole numbers that are random between 0 and ``SEEDS``.

    Returns:
        Token ids, shape (draws,), int64.
    """
    import torch

    draws, vocabulary = logits.shape
    logits = torch.nn.functional.pad(logits, (0, -vocabulary % _BLOCK), value=-torch.inf)
    by_block = logits.softmax(dim=-1).view(draws, -1, _BLOCK)
    blocks, share = _find(by_block.sum(dim=-1), (seeds.double() + 0.5) / SEEDS)
    within, _ = _find(by_block[torch.arange(draws), blocks], share)
    return blocks * _BLOCK + within


def _find(weights: Any, shares: Any) -> tuple[Any, Any]:
    """Where each row's share of the sum of its weights lies.

    Args:
        weights: shape (rows, n), at least one of each row above zero.
        shares: shape (rows,), float64, from 0 to 1.

    Returns:
        The entry that it falls into, int64, never one of weight zero; and which share of that entry lies before it.
    """
    import torch

    ends = weights.double().cumsum(dim=-1)
    total = ends[:, -1]
    # Rounding must not carry the place to the end, where nothing is.
    places = torch.minimum(shares * total, total.nextafter(torch.zeros_like(total))).unsqueeze(-1)
    found = torch.searchsorted(ends, places, right=True)
    before = torch.nn.functional.pad(ends, (1, 0)).gather(-1, found)
    end = ends.gather(-1, found)
    return found.squeeze(-1), ((places - before) / (end - before)).squeeze(-1)
