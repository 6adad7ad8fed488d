"""Models for the integration tests: the packaged one, and two tiny ones with random weights."""

import os
from pathlib import Path

import pytest

from benchmarks.tiny_model import tiny_llama
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model

# As the engine host has it. Set before torch is imported: its compiler cannot build in a path with spaces.
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, converted once into the cache that runs use."""
    return packaged_model(default_cache())


@pytest.fixture(scope="session")
def tiny_model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random float32 Llama of 2 layers and width 64 with tied embeddings; SmolLM2's tokenizer and template."""
    return tiny_llama(smollm2, tmp_path_factory.mktemp("tiny") / "model", seed=0)


@pytest.fixture(scope="session")
def tiny_checkpoint(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The like of ``tiny_model`` with other weights."""
    return tiny_llama(smollm2, tmp_path_factory.mktemp("tiny") / "checkpoint", seed=1)
