"""What a benchmark takes the machine's peak to be."""

import pytest
import torch

from benchmarks import flops


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_peak_is_of_the_type_that_these_cores_compute_in(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    """Emulated, a large product in bfloat16 takes minutes."""
    seen = set()

    def multiply(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        seen.update({left.dtype, right.dtype})
        return left @ right

    monkeypatch.setattr(torch, "mm", multiply)
    monkeypatch.setattr(flops, "cpu_dtype", lambda: dtype)
    assert flops.peak(size=8) > 0
    assert seen == {getattr(torch, dtype)}
