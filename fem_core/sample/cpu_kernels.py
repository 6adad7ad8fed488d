"""vLLM's own fused kernels for what it computes operation by operation on x86.

The CPU build contains a C++ kernel for RMSNorm, which vLLM's dispatch keeps for other platforms. It is registered here
through vLLM's own extension point, as an IR implementation that the engine's arguments give priority. The rank of every
drawn token among the vocabulary, which comes with its log-probability and which nobody reads, is not counted. Where the
kernel is missing, vLLM's way stays, and so it does in float32, where the kernel rounds a little worse and people who
choose that want to compare.
"""

from typing import Any

PROVIDER = "fem_cpu"
"""The name of these kernels in ``ir_op_priority``."""

PRIORITY = {"rms_norm": [PROVIDER, "native"], "fused_add_rms_norm": [PROVIDER, "native"]}
"""For ``EngineArgs``. The kernels are asked for each input, and vLLM's way computes what they do not take."""


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
