"""FEM as a script around vLLM and TRL: ``python -m benchmarks.baselines.script CONFIG FOLDER [--set a.b=c]``.

Per iteration a new ``vllm.LLM`` that draws, a ``SFTTrainer`` with defaults, a new ``LLM`` that evaluates; see loop.py.
vLLM runs as it comes, with its engine in a process of its own, prefix caching and chunked prefill, and these settings:
``enforce_eager``, since compiling takes minutes at each start here; of the environment what its page on CPUs names; and
one seed for the engine in place of one for each draw, which is faster and, unlike seeded draws, works with chunked
prefill on CPU.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.baselines.loop import Decoding, Draw, Generate, main
from fem_core.config import RunConfig
from fem_core.sample.engine_settings import preload


def environment() -> Mapping[str, str]:
    """Two GiB of key-value cache, threads where the system puts them, Intel's OpenMP where it is there."""
    libraries = filter(None, [preload(), os.environ.get("LD_PRELOAD")])
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "LD_PRELOAD": ":".join(libraries),
    }


def start(model_dir: Path, config: RunConfig, seed: int) -> Generate:
    """A new engine."""
    from vllm import LLM, SamplingParams

    engine = config.sample.engine
    llm = LLM(
        model=str(model_dir),
        dtype=engine.dtype,
        seed=seed,
        enforce_eager=True,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        tensor_parallel_size=engine.tensor_parallel_size,
    )

    def generate(prompts: list[list[int]], how: Decoding) -> list[list[Draw]]:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            SamplingParams(n=how.n, temperature=how.temperature, top_p=how.top_p, max_tokens=how.max_tokens),
            use_tqdm=False,
        )
        return [[Draw(one.text, one.finish_reason, len(one.token_ids)) for one in out.outputs] for out in outputs]

    return generate


if __name__ == "__main__":
    main("benchmarks.baselines.script", __doc__, start, environment())
