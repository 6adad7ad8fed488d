"""What the flow asks the engine host for, as plain JSON across a socket.

Contract: a job names its inputs by store artifact and its outputs by artifact and step key, so that the host can do it
with the store alone and a resumed job finds the parts that are committed.
"""

from collections.abc import Sequence
from typing import Literal

from fem_core.config import Look, PromptsConfig, RunConfig, Section
from fem_core.hints import Others, others
from fem_core.model import BaseModelFolder
from fem_core.problems.problem import Problem
from fem_core.prompts import PromptKind
from fem_core.sample.engine_settings import EngineSettings
from fem_core.sample.schemes import Plan, Stage


class HostSettings(Section):
    """How to start the host: the engine's settings and the weights that it begins with."""

    model_dir: str
    """Folder of the first weights; its tokenizer and chat template serve the whole run."""
    engine: EngineSettings
    """How to start the engine."""
    stop_at_answer: bool
    """See ``SampleConfig.stop_at_answer``."""


class DrawJob(Section):
    """Draw for every problem of an artifact by a plan, and write the attempts as part files."""

    id: str
    """Unique within the host, such as ``sample-3``."""
    store: str
    """URL of the store."""
    problems: str
    """Artifact that holds the problems."""
    artifact: str
    """Artifact that the parts belong to."""
    key: str
    """Its step key, stamped on every part."""
    iteration: int
    """Enters the draws' seeds."""
    seed: int
    """The run's seed."""
    prompts: PromptsConfig
    """The prompts."""
    exemplars: int
    """How many exemplars the prompts show."""
    stages: tuple[tuple[PromptKind, int], ...]
    """The plan's stages: prompt kind and budget."""
    keep: Literal["first", "all"]
    """The plan's keep."""
    temperature: float
    """0 is greedy."""
    greedy_first: bool = False
    """The first attempt at a problem is greedy, whatever the temperature of the others."""
    top_p: float
    """1 is off."""
    max_tokens: int
    """Longest completion, tokens."""
    problems_per_part: int
    """Problems that share a part file."""
    looks: tuple[Look, ...] = ()
    """What is asked about accepted draws; the parts then have ``schemas.LOOKED``."""
    only: tuple[str, ...] | None = None
    """Ids of the problems to draw for; None draws for all of the artifact's."""
    plain_exemplars: int | None = None
    """Look at the right draws again, given the plain prompt with so many exemplars, and write ``schemas.PROBES``; None
    does not look."""
    known: Others | None = None
    """What hints show of other problems, where this job has only some of the training problems; None for a run's jobs."""

    @property
    def looks_again(self) -> bool:
        """Whether second looks are taken, which read and draw tokens of their own."""
        return bool(self.looks) or self.plain_exemplars is not None

    def plan(self) -> Plan:
        """The plan as the stepper takes it."""
        return Plan(tuple(Stage(kind, budget) for kind, budget in self.stages), self.keep)

    def others(self, problems: Sequence[Problem]) -> Others | None:
        """What hints need to know; ``problems`` are those of the job."""
        return self.known or others(self.prompts, problems, self.seed)


def host_settings(config: RunConfig, model: BaseModelFolder, longest_sequence: int) -> HostSettings:
    """How a run's engine is started.

    Args:
        longest_sequence: prompt and completion together, tokens, over all that the run draws.
    """
    engine = config.sample.engine
    return HostSettings(
        model_dir=str(model.path),
        engine=EngineSettings(
            dtype=engine.dtype,
            max_model_len=engine.max_model_len or longest_sequence,
            max_num_seqs=engine.max_num_seqs,
            kv_cache_gib=engine.kv_cache_gib,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            tensor_parallel_size=engine.tensor_parallel_size,
            seed=config.seed,
            trust_remote_code=config.model.trust_remote_code,
            # At temperature 1 the two are the same.
            tempered_logprobs=config.filter.weighting == "importance" and config.sample.temperature != 1,
        ),
        stop_at_answer=config.sample.stop_at_answer,
    )
