"""The vLLM engine: draws, log-probabilities of given tokens, and new weights that are proved before they are used.

Contract: vllm is imported when an engine starts, and not before. A process that will hold an engine is started with
``engine_settings.environment`` and ``preload``; it must be allowed to have children (vLLM's workers, on GPU). One thread.
New weights go into the running engine where that works, else into a fresh one; either way the prefix cache is empty and
the weights are proved, or an exception is raised.

What has run: everything on CPU with vLLM 0.32. Several workers and sleep are written from vLLM's source and have not run
on a GPU.
"""

import gc
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fem_core.device import Device, find_device
from fem_core.errors import FemError
from fem_core.sample import cpu_kernels
from fem_core.sample.engine_settings import EngineSettings, engine_arguments, environment
from fem_core.sample.proof import Probe, WeightsNotProved, check_weights

logger = logging.getLogger(__name__)

_FLOOR: dict[Device, int] = {"cpu": 8, "cuda": 32}
"""Draws in flight below which a step hardly gets shorter."""


@dataclass(frozen=True)
class Sampling:
    """How to draw."""

    temperature: float
    """0 is greedy."""
    top_p: float
    """1 is off."""
    max_tokens: int
    """Longest completion, tokens."""
    seed: int | None
    """Seed of this draw; not read when greedy."""
    stop: str | None = None
    """Text that ends the draw and is left out of it."""


@dataclass(frozen=True)
class Finished:
    """A draw that ended, or a look at given tokens."""

    request_id: str
    """As given to ``add`` or ``add_score``."""
    text: str
    """The completion without special tokens; empty for a look. After an ``answer`` stop it may go on behind the line."""
    finish_reason: str
    """``stop`` (the model ended it), ``length``, ``answer`` (``should_stop`` said so), or ``scored`` (a look)."""
    prompt_tokens: int
    """Length of the prompt."""
    completion_tokens: int
    """Length of the completion, the end token included."""
    logprob: float
    """Sum of the completion tokens' log-probabilities, nats: under the model itself (temperature 1, no nucleus), unless
    ``EngineSettings.tempered_logprobs`` asks otherwise."""
    token_ids: tuple[int, ...] = ()
    """The completion's tokens: those that ``logprob`` is of."""


@dataclass
class _Draw:
    """A running draw. vLLM is asked for what each step adds, which spares it rebuilding the whole text every step."""

    prompt_tokens: int
    pieces: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)


def warm_up() -> None:
    """Import what an engine needs, before it is known which one. Takes most of an engine's start on CPU."""
    import transformers
    from vllm import EngineArgs  # noqa: F401
    from vllm.v1.engine.llm_engine import LLMEngine  # noqa: F401

    if find_device() == "cpu":
        import vllm.v1.worker.cpu_worker  # noqa: F401
    transformers.AutoTokenizer  # noqa: B018 (loaded when it is named)


class VllmEngine:
    """One engine, fed by its owner: ``add`` and ``add_score``, then ``step`` until nothing is unfinished."""

    def __init__(self, settings: EngineSettings, model_dir: Path, should_stop: Callable[[str], bool] | None) -> None:
        """
        Args:
            model_dir: safetensors, configuration and tokenizer.
            should_stop: is asked with a draw's text whenever it has gained a line break; True ends the draw.
        """
        self._settings = settings
        self._should_stop = should_stop
        self._draws: dict[str, _Draw] = {}
        self._scores: dict[str, tuple[int, int]] = {}
        """Completion tokens of each look in flight, and the last of them."""
        self.generated = 0
        """Tokens drawn so far, over all draws."""
        self._engine: Any = None
        self._start(model_dir)

    def _start(self, model_dir: Path) -> None:
        self._device: Device = find_device()
        os.environ.update(environment(self._device))
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would overrule kv_cache_gib, in whole GiB
        from vllm import EngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        arguments = engine_arguments(self._settings, model_dir, self._device)
        if self._device == "cpu" and cpu_kernels.register():
            arguments["ir_op_priority"] = cpu_kernels.PRIORITY
        # As for vllm.LLM: otherwise vLLM takes a GPU for an unknown place, with a quarter of the sequences or fewer.
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
        self.dtype: str = str(self._engine.model_config.dtype).removeprefix("torch.")
        """What the engine computes in."""

    @property
    def max_num_seqs(self) -> int:
        """Draws that are decoded at the same time, at most."""
        return int(self._engine.vllm_config.scheduler_config.max_num_seqs)

    @property
    def floor(self) -> int:
        """Draws in flight below which a step hardly gets shorter: fewer are a waste."""
        return _FLOOR[self._device]

    @property
    def unfinished(self) -> int:
        """Draws and looks that were added and have not finished."""
        return len(self._draws) + len(self._scores)

    @property
    def waiting(self) -> int:
        """Draws among them whose prompt has not been read."""
        return sum(not draw.token_ids for draw in self._draws.values())

    def add(self, request_id: str, prompt_ids: list[int], sampling: Sampling) -> None:
        """Queue a draw.

        Raises:
            FemError: the prompt leaves no room for a completion.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if len(prompt_ids) >= self._settings.max_model_len:
            raise FemError(
                f"The prompt of draw {request_id} has {len(prompt_ids)} tokens, and the engine takes "
                f"{self._settings.max_model_len} with the completion. Raise sample.engine.max_model_len."
            )
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed if sampling.temperature else None,
            stop=sampling.stop,
            logprobs=0,  # of the drawn token alone
            output_kind=RequestOutputKind.DELTA,
        )
        self._engine.add_request(request_id, {"prompt_token_ids": prompt_ids}, params)
        self._draws[request_id] = _Draw(len(prompt_ids))

    def add_score(self, request_id: str, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> None:
        """Queue a look at given tokens: log pi(completion | prompt) under the model itself, by one prefill.

        The last token is not read but drawn, as the only one allowed: so whatever was drawn within ``max_model_len`` can
        be looked at. vLLM does not read its prefix cache where it is asked for log-probabilities of a prompt, so none is
        missing; those of a drawn token are taken before anything but that token is ruled out. With ``tempered_logprobs``
        they are taken after it, so that any token may be drawn there and that of the last one is asked for by its id.

        Raises:
            ValueError: the prompt or the completion is empty.
            FemError: they are longer than what the engine takes.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if not prompt_ids or not completion_ids:
            raise ValueError(
                f"look {request_id} has {len(prompt_ids)} prompt and {len(completion_ids)} completion tokens"
            )
        *read, last = *prompt_ids, *completion_ids
        if len(read) >= self._settings.max_model_len:
            raise FemError(
                f"The prompt and completion of look {request_id} have {len(read) + 1} tokens, and the engine takes "
                f"{self._settings.max_model_len}. Raise sample.engine.max_model_len."
            )
        asked: dict[str, Any] = {"logprobs": 0, "allowed_token_ids": [last]}
        if self._settings.tempered_logprobs:
            asked = {"logprob_token_ids": [last]}
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            **asked,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._engine.add_request(request_id, {"prompt_token_ids": read}, params)
        self._scores[request_id] = len(completion_ids), last

    def abort(self, request_ids: Sequence[str]) -> int:
        """Forget draws; they are not returned by ``step``.

        Returns:
            The tokens that they had.
        """
        running = {r: draw for r in request_ids if (draw := self._draws.pop(r, None))}
        self._engine.abort_request(list(running))
        return sum(len(draw.token_ids) for draw in running.values())

    def step(self) -> list[Finished]:
        """One token for every draw in flight; the draws and looks that ended with it."""
        return [done for output in self._engine.step() if (done := self._receive(output))]

    def _receive(self, output: Any) -> Finished | None:
        if output.request_id in self._scores:
            return self._scored(output, *self._scores.pop(output.request_id))
        draw = self._draws[output.request_id]
        new = output.outputs[0]
        draw.pieces.append(new.text)
        draw.token_ids.extend(new.token_ids)
        self.generated += len(new.token_ids)
        reason = new.finish_reason
        if reason is None:
            if self._should_stop is None or "\n" not in new.text or not self._should_stop("".join(draw.pieces)):
                return None
            reason = "answer"
            self._engine.abort_request([output.request_id])
        del self._draws[output.request_id]
        return Finished(
            request_id=output.request_id,
            text="".join(draw.pieces),
            finish_reason=reason,
            prompt_tokens=draw.prompt_tokens,
            completion_tokens=len(draw.token_ids),
            logprob=new.cumulative_logprob,
            token_ids=tuple(draw.token_ids),
        )

    def _scored(self, output: Any, completion_tokens: int, last: int) -> Finished:
        read, found = output.prompt_token_ids, output.prompt_logprobs
        first = len(read) + 1 - completion_tokens
        before = sum(found[i][read[i]].logprob for i in range(first, len(read)))
        return Finished(
            request_id=output.request_id,
            text="",
            finish_reason="scored",
            prompt_tokens=first,
            completion_tokens=completion_tokens,
            logprob=before + output.outputs[0].logprobs[0][last].logprob,
            token_ids=(*read[first:], last),
        )

    def logprobs(self, token_ids: list[int]) -> list[float]:
        """Log-probability of each token given those before it, nats, from position 1.

        vLLM does not read its prefix cache for such a request, so every position is computed.

        Raises:
            FemError: draws are unfinished.
        """
        from vllm import SamplingParams

        self._refuse_while_drawing("log-probabilities")
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        self._engine.add_request("logprobs", {"prompt_token_ids": token_ids}, params)
        outputs: list[Any] = []
        while not (outputs and outputs[-1].finished):
            outputs = self._engine.step()
        found = outputs[-1].prompt_logprobs[1:]
        return [position[token].logprob for token, position in zip(token_ids[1:], found, strict=True)]

    def load(self, checkpoint_dir: Path) -> None:
        """Put a checkpoint's weights into the running engine and forget what the old ones computed.

        Raises:
            FemError: draws are unfinished.
            WeightsNotProved: the LM head or the prefix cache is still the old one.
        """
        self._refuse_while_drawing("new weights")
        heads = self._engine.collective_rpc("load_checkpoint", args=(str(checkpoint_dir),))
        if not self._engine.reset_prefix_cache():
            raise WeightsNotProved("The engine kept its prefix cache when told to drop it. Start the engine afresh.")
        if not all(heads):
            raise WeightsNotProved(
                f"The engine's LM head is not that of {checkpoint_dir} after loading it. Start the engine afresh."
            )

    def restart(self, checkpoint_dir: Path) -> None:
        """A fresh engine on a checkpoint, in this process.

        Raises:
            FemError: draws are unfinished.
        """
        self._refuse_while_drawing("a restart")
        self.close()
        self._start(checkpoint_dir)

    def prove(self, probe: Probe) -> float:
        """Compare the engine with a probe, whose text is cut to what the engine takes.

        Returns:
            The mean absolute difference, nats per token.

        Raises:
            WeightsNotProved: it is more than rounding explains.
        """
        ids = self._probe_ids(probe)
        return check_weights(self.logprobs(ids), probe.logprobs[: len(ids) - 1], self.dtype)

    def swap(self, checkpoint_dir: Path, probe: Probe | None) -> Literal["reloaded", "restarted"]:
        """Change to a checkpoint's weights and prove it; with a fresh engine where the running one cannot be proved.

        Args:
            probe: the checkpoint's. None (a model from elsewhere) leaves nothing to prove a reload by: the engine is
                started afresh.

        Raises:
            FemError: draws are unfinished.
            WeightsNotProved: the fresh engine does not match the probe either.
        """
        self._refuse_while_drawing("new weights")
        if probe is None or self._engine is None:  # None after a restart that failed
            self.restart(checkpoint_dir)
            if probe is not None:
                self.prove(probe)
            return "restarted"
        try:
            ids = self._probe_ids(probe)
            before = self.logprobs(ids)
            self.load(checkpoint_dir)
            # bfloat16 noise hides a short training (see proof.TOLERANCE), but not that nothing at all has changed.
            if self.logprobs(ids) == before:
                raise WeightsNotProved("The engine's log-probabilities have not moved. Start the engine afresh.")
            self.prove(probe)
            return "reloaded"
        except Exception as error:  # noqa: BLE001 - whatever a reload dies of, a fresh engine answers it, or raises itself
            logger.warning("Loading %s into the running engine failed; starting it afresh. %s", checkpoint_dir, error)
        self.restart(checkpoint_dir)
        self.prove(probe)
        return "restarted"

    def _probe_ids(self, probe: Probe) -> list[int]:
        return probe.token_ids[: self._settings.max_model_len - 1]

    def _refuse_while_drawing(self, what: str) -> None:
        if self.unfinished:
            raise FemError(
                f"The engine was asked for {what} while {self.unfinished} draws are unfinished. "
                "Finish or abort them first."
            )

    def sleep(self) -> None:
        """Give the GPU's memory back until ``wake``; the weights wait in the host's memory. Nothing on CPU."""
        if self._device == "cuda" and self._engine is not None:
            self._refuse_while_drawing("sleep")
            self._engine.sleep(level=1)

    def wake(self) -> None:
        """Take the memory again. Nothing on CPU, or when awake."""
        if self._device == "cuda" and self._engine is not None and self._engine.is_sleeping():
            self._engine.wake_up()

    def close(self) -> None:
        """End the engine and give its memory back. May be called twice."""
        if self._engine is None:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self._engine.engine_core.shutdown()
        self._engine = None
        self._draws.clear()
        self._scores.clear()
        gc.collect()
        cleanup_dist_env_and_memory()
