"""What vLLM is told, without starting it; and the proof's arithmetic."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_run import made_config

from fem_core.errors import Corrupt, FemError
from fem_core.model import BaseModelFolder
from fem_core.sample.checkpoint_loader import CheckpointLoader, with_tied_head
from fem_core.sample.engine_settings import EngineSettings, cpu_dtype, engine_arguments, environment, preload
from fem_core.sample.job import host_settings
from fem_core.sample.proof import PROBE_FILE, TOLERANCE, Probe, WeightsNotProved, check_weights, read_probe

SETTINGS = EngineSettings(
    dtype="float32",
    max_model_len=6000,
    max_num_seqs=None,
    kv_cache_gib=0.5,
    gpu_memory_utilization=0.7,
    tensor_parallel_size=1,
    seed=3,
)


@pytest.mark.slow
def test_vllm_knows_every_argument(tmp_path: Path) -> None:
    """In a process of its own: vLLM takes ten seconds to import and changes the process that does."""
    tempered = dataclasses.replace(SETTINGS, tempered_logprobs=True)
    cpu, cuda = engine_arguments(SETTINGS, tmp_path, "cpu"), engine_arguments(tempered, tmp_path, "cuda")
    code = f"from vllm import EngineArgs; EngineArgs(**{cpu!r}); EngineArgs(**{cuda!r})"
    env = os.environ | environment("cpu") | {"HF_HUB_OFFLINE": "1"}  # as on a machine without a hub
    child = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


MAKES = """
import sys
from pathlib import Path
from vllm.v1.engine.llm_engine import LLMEngine
from fem_core.sample.engine_settings import EngineSettings
from fem_core.sample.vllm_engine import VllmEngine

def made(arguments, usage_context=None):
    sys.exit(usage_context != "LLM_CLASS")

LLMEngine.from_engine_args = made
VllmEngine(EngineSettings(**{settings!r}), Path({folder!r}), None)
"""


@pytest.mark.slow
def test_vllm_chooses_sizes_as_it_does_for_its_own_class(tmp_path: Path) -> None:
    """Where ours are left open, on a GPU: of an engine made in another way it takes no device into account."""
    code = MAKES.format(settings=dataclasses.asdict(SETTINGS), folder=str(tmp_path))
    env = os.environ | environment("cpu") | {"HF_HUB_OFFLINE": "1"}
    child = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


def test_the_worker_finds_the_loader_by_its_name() -> None:
    module, _, name = engine_arguments(SETTINGS, Path("model"), "cpu")["worker_extension_cls"].rpartition(".")
    assert getattr(sys.modules[module], name) is CheckpointLoader


def test_on_cpu_a_prompt_of_any_allowed_length_fits_one_step() -> None:
    arguments = engine_arguments(SETTINGS, Path("model"), "cpu")
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["max_num_batched_tokens"] >= 6000
    many = dataclasses.replace(SETTINGS, max_model_len=64, max_num_seqs=9000)
    assert engine_arguments(many, Path("model"), "cpu")["max_num_batched_tokens"] >= 9000


def test_cpu_sizes() -> None:
    arguments = engine_arguments(SETTINGS, Path("model"), "cpu")
    assert arguments["max_num_seqs"] == 128
    assert arguments["kv_cache_memory_bytes"] == 512 * 1024 * 1024
    assert "gpu_memory_utilization" not in arguments
    with pytest.raises(FemError, match="tensor_parallel_size 2"):
        engine_arguments(dataclasses.replace(SETTINGS, tensor_parallel_size=2), Path("model"), "cpu")


def test_cuda_sizes() -> None:
    arguments = engine_arguments(dataclasses.replace(SETTINGS, tensor_parallel_size=2), Path("model"), "cuda")
    assert arguments["tensor_parallel_size"] == 2
    assert arguments["gpu_memory_utilization"] == 0.7
    assert "max_num_seqs" not in arguments
    assert "kv_cache_memory_bytes" not in arguments


def test_log_probabilities_are_those_of_the_proposal_where_tempered_draws_are_weighed() -> None:
    base = BaseModelFolder(Path("model"), "m", (), 100)

    def asked(weighting: str, temperature: float) -> str | None:
        scheme = {"name": "pps", "budget": 4, "keep": "all"}
        config = made_config(scheme=scheme, filter={"weighting": weighting}, sample={"temperature": temperature})
        settings = host_settings(config, base, 100).engine
        modes = {engine_arguments(settings, Path("model"), device).get("logprobs_mode") for device in ("cpu", "cuda")}
        return modes.pop() if len(modes) == 1 else "not the same everywhere"

    assert asked("importance", 0.7) == "processed_logprobs"
    assert asked("importance", 1.0) is None and asked("none", 0.7) is None


@pytest.mark.parametrize(
    ("flags", "dtype"), [("avx512f avx512_bf16", "bfloat16"), ("amx_bf16 amx_tile", "bfloat16"), ("avx2", "float32")]
)
def test_auto_is_what_the_processor_computes_in(tmp_path: Path, flags: str, dtype: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert cpu_dtype(cpuinfo) == dtype
    assert cpu_dtype(tmp_path / "none") == "float32"


def test_auto_is_left_to_vllm_on_cuda() -> None:
    auto = dataclasses.replace(SETTINGS, dtype="auto")
    assert engine_arguments(auto, Path("model"), "cuda")["dtype"] == "auto"
    assert engine_arguments(auto, Path("model"), "cpu")["dtype"] in {"bfloat16", "float32"}


def test_the_cpu_engine_runs_in_its_host_process_on_the_cores_it_may_use() -> None:
    variables = environment("cpu")
    assert variables["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert variables["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment("cuda")
    assert variables["VLLM_NO_USAGE_STATS"] == environment("cuda")["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize(("folder", "named"), [("env", True), ("an env", False), ("env:2", False)])
def test_a_path_that_the_loader_would_split_is_not_preloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, named: bool
) -> None:
    library = tmp_path / folder / "lib" / "libiomp5.so"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / folder))
    assert preload() == (str(library) if named else None)


def test_what_is_preloaded_exists() -> None:
    library = preload()
    assert library is None or Path(library).is_file()


def test_importing_settings_and_engine_loads_neither_torch_nor_vllm() -> None:
    code = "import sys, fem_core.sample.vllm_engine; sys.exit(any(m in sys.modules for m in ('torch', 'vllm')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_head_is_added_only_where_the_file_has_none() -> None:
    embedding, layer, head = ("model.embed_tokens.weight", 1), ("model.layers.0.weight", 2), ("lm_head.weight", 3)
    assert list(with_tied_head([embedding, layer])) == [embedding, layer, ("lm_head.weight", 1)]
    assert list(with_tied_head([head, embedding, layer])) == [head, embedding, layer]
    assert list(with_tied_head([embedding, layer, head])) == [embedding, layer, head]
    assert list(with_tied_head([layer])) == [layer]


def test_a_probe_is_read_as_the_trainer_writes_it(tmp_path: Path) -> None:
    assert read_probe(tmp_path) is None
    (tmp_path / PROBE_FILE).write_text(json.dumps({"token_ids": [5, 6, 7], "logprobs": [-1.5, -2], "dtype": "float32"}))
    assert read_probe(tmp_path) == Probe([5, 6, 7], [-1.5, -2.0])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"token_ids": [1, 2], "logprobs": [-1, -1]}', '{"token_ids": [1], "logprobs": []}']
)
def test_a_file_that_is_no_probe_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / PROBE_FILE).write_text(text)
    with pytest.raises(Corrupt, match=PROBE_FILE):
        read_probe(tmp_path)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_proof_holds_up_to_the_tolerance_of_the_dtype(dtype: str) -> None:
    reference = [-1.0, -2.0, -3.0, -4.0]
    off = TOLERANCE[dtype]
    inside = [-1.0 + 3 * off, -2.0, -3.0, -4.0 - 0.9 * off]
    assert check_weights(inside, reference, dtype) == pytest.approx(0.975 * off)
    with pytest.raises(WeightsNotProved, match=dtype):
        check_weights([r - 1.01 * off for r in reference], reference, dtype)


def test_not_a_number_proves_nothing() -> None:
    with pytest.raises(WeightsNotProved):
        check_weights([float("nan"), -1.0], [-1.0, -1.0], "bfloat16")
