"""Models for the integration tests: the packaged one, and two tiny ones with random weights."""

from pathlib import Path

import pytest

from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, converted once into the cache that runs use."""
    return packaged_model(default_cache())


@pytest.fixture(scope="session")
def tiny_model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random float32 Llama of 2 layers and width 64 with tied embeddings; SmolLM2's tokenizer and template."""
    return _tiny(smollm2, tmp_path_factory.mktemp("tiny") / "model", seed=0)


@pytest.fixture(scope="session")
def tiny_checkpoint(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The like of ``tiny_model`` with other weights."""
    return _tiny(smollm2, tmp_path_factory.mktemp("tiny") / "checkpoint", seed=1)


def _tiny(tokenizer_dir: Path, folder: Path, seed: int) -> Path:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # vLLM's CPU attention takes 32, 64, 80, ...
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # large enough that predictions are far from uniform and depend on every layer
    )
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    torch.set_rng_state(generator_state)
    with torch.no_grad():
        # A longer vector makes a token's logit large at some positions: texts of this model have line breaks.
        model.model.embed_tokens.weight[tokenizer.encode("\n")[0]] *= 8
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
