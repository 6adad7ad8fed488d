"""How an engine is set up on a device: its settings, vLLM's arguments, and the environment of its process.

Contract: imports neither vllm nor torch, so that the flow and ``fem doctor`` can read the settings. What is right for one
device stands here and nowhere else. The CUDA settings are written from vLLM's source and have not run on a GPU.
"""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fem_core.device import Device
from fem_core.errors import FemError
from fem_core.sample.checkpoint_loader import CheckpointLoader

_CPU_SEQS = 128
_CPU_BLOCK = 32
"""Tokens per block of the key-value cache, of which whole ones are shared between prompts. vLLM's 128 is longer than
most prompts here; its CPU kernels want a multiple of 32."""
_CPU_BATCHED_TOKENS = 4096
"""Prompt tokens per prefill step on CPU; the logits and activations of a step stay small beside the weights."""


@dataclass(frozen=True)
class EngineSettings:
    """How to start an engine; see ``EngineConfig`` for the fields of the same name."""

    dtype: str
    """``auto``, ``bfloat16``, ``float16`` or ``float32``."""
    max_model_len: int
    """Prompt and completion together, tokens."""
    max_num_seqs: int | None
    """Draws in flight; None is 128 on CPU, vLLM's own choice on GPU."""
    kv_cache_gib: float
    """Key-value cache on CPU, GiB."""
    gpu_memory_utilization: float
    """Share of a GPU's memory."""
    tensor_parallel_size: int
    """GPUs that share one copy of the model."""
    seed: int
    """For draws without a seed of their own."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    tempered_logprobs: bool = False
    """A draw's log-probability is that of what it was drawn from, temperature and ``top_p`` included, instead of the model's
    own. Looks at given tokens are under the model itself either way."""


def environment(device: Device) -> dict[str, str]:
    """Environment variables that must stand before the engine's process starts, over whatever is set."""
    # ERROR: at WARNING vLLM writes a line for every float32 weight that it reads into a bfloat16 engine.
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cuda":
        return variables | {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    return variables | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        # Even an eager engine compiles one small kernel for log-probabilities: that needs a C++ compiler, and its
        # command line breaks where the environment lies in a path with spaces.
        "TORCH_COMPILE_DISABLE": "1",
        # glibc else gives the tensors of a step back to the system when it ends, and clears their pages in the next.
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
    }


def preload() -> str | None:
    """What to put into ``LD_PRELOAD`` of an engine's process on CPU: Intel's OpenMP, where the environment holds it.

    None where its path has a space or a colon: the loader takes these for separators and knows no way to quote them.
    """
    library = Path(sys.prefix) / "lib" / "libiomp5.so"
    return str(library) if library.is_file() and not re.search(r"[\s:]", str(library)) else None


def engine_arguments(settings: EngineSettings, model_dir: Path, device: Device) -> dict[str, Any]:
    """Keywords of vLLM's ``EngineArgs``.

    Raises:
        FemError: several devices are asked for on CPU.
    """
    arguments: dict[str, Any] = {
        "model": str(model_dir),
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "seed": settings.seed,
        "trust_remote_code": settings.trust_remote_code,
        "load_format": "safetensors",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "worker_extension_cls": f"{CheckpointLoader.__module__}.{CheckpointLoader.__qualname__}",
    }
    if settings.tempered_logprobs:
        arguments["logprobs_mode"] = "processed_logprobs"
    if settings.max_num_seqs is not None:
        arguments["max_num_seqs"] = settings.max_num_seqs
    if device == "cuda":
        return arguments | {
            "gpu_memory_utilization": settings.gpu_memory_utilization,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "enable_sleep_mode": True,
        }
    if settings.tensor_parallel_size > 1:
        raise FemError(
            f"tensor_parallel_size {settings.tensor_parallel_size} needs as many GPUs, and there is none. "
            "Set sample.engine.tensor_parallel_size to 1."
        )
    sequences = arguments.setdefault("max_num_seqs", _CPU_SEQS)
    return arguments | {
        "dtype": cpu_dtype() if settings.dtype == "auto" else settings.dtype,
        "distributed_executor_backend": "uni",
        "enforce_eager": True,
        "block_size": _CPU_BLOCK,
        # A seeded draw whose prompt is prefilled in pieces crashes the CPU engine. Without pieces a prompt fits a step.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(settings.max_model_len, sequences, _CPU_BATCHED_TOKENS),
        "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30),
    }


def cpu_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """``bfloat16`` where the processor computes in it, else ``float32``: emulated, bfloat16 is many times slower."""
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
