"""The engine's weights, caches and sums, with real vLLM and tiny models whose embeddings are tied."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fem_core.errors import FemError
from fem_core.filter.verdict import Judgement
from fem_core.problems.problem import Problem, make_problem
from fem_core.prompts import ChatTokens
from fem_core.sample import checkpoint_loader
from fem_core.sample.draw import DrawLoop, DrawSettings
from fem_core.sample.engine_settings import EngineSettings
from fem_core.sample.probe import ProbeLooker
from fem_core.sample.proof import Probe, WeightsNotProved
from fem_core.sample.schemes import Plan, Stage
from fem_core.sample.vllm_engine import Finished, Sampling, VllmEngine
from fem_core.schemas import PROBES

PROMPT = list(range(1000, 1300))
"""Longer than nine blocks of the prefix cache."""
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=24, seed=None)


class Stop:
    """What the engine under test asks at every line break; off unless a test sets it."""

    after_lines: int | None = None

    def __call__(self, text: str) -> bool:
        return self.after_lines is not None and text.count("\n") >= self.after_lines


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """vLLM sets variables of its process, LD_PRELOAD among them, which children of later tests would inherit."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def stop() -> Stop:
    return Stop()


@pytest.fixture(scope="module")
def running(tiny_model: Path, stop: Stop) -> Iterator[VllmEngine]:
    settings = EngineSettings("float32", 512, 8, 0.25, 0.5, 1, seed=0)
    engine = VllmEngine(settings, tiny_model, stop)
    yield engine
    engine.close()


@pytest.fixture
def engine(running: VllmEngine, tiny_model: Path, stop: Stop) -> VllmEngine:
    """The engine on the first weights, idle."""
    stop.after_lines = None
    running.load(tiny_model)
    return running


@pytest.fixture(scope="module")
def nearly(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after next to no training: its log-probabilities are the first weights' within the tolerance."""
    folder = tmp_path_factory.mktemp("nearly") / "model"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight += 1e-5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def reference(folder: Path, token_ids: list[int]) -> list[float]:
    """Log-probabilities by transformers in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([token_ids])
    with torch.inference_mode():
        found = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
    return [float(value) for value in found[:, 0]]


def probe_of(folder: Path) -> Probe:
    return Probe(PROMPT, reference(folder, PROMPT))


def drain(engine: VllmEngine) -> dict[str, Finished]:
    done: dict[str, Finished] = {}
    while engine.unfinished:
        done |= {one.request_id: one for one in engine.step()}
    return done


def draw(engine: VllmEngine, sampling: Sampling = GREEDY, prompt: list[int] = PROMPT) -> Finished:
    engine.add("draw", prompt, sampling)
    return drain(engine)["draw"]


def overhear(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The token ids of the engine's one draw, as they come."""
    heard: list[int] = []
    step = engine._engine.step

    def listening() -> Any:
        outputs = step()
        heard.extend(token for output in outputs for token in output.outputs[0].token_ids)
        return outputs

    monkeypatch.setattr(engine._engine, "step", listening)
    return heard


def without_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load a checkpoint as vLLM alone would: the file's names and no others."""
    monkeypatch.setattr(checkpoint_loader, "with_tied_head", iter)


def test_log_probabilities_are_those_of_transformers(engine: VllmEngine, tiny_model: Path) -> None:
    first = engine.logprobs(PROMPT)
    assert len(first) == len(PROMPT) - 1
    assert first == pytest.approx(reference(tiny_model, PROMPT), abs=1e-4)
    assert engine.logprobs(PROMPT) == first, "the second time the prompt is in the prefix cache"


def test_loaded_weights_compute_as_in_a_fresh_engine(engine: VllmEngine, tiny_checkpoint: Path) -> None:
    before, first = engine.logprobs(PROMPT), draw(engine)
    engine.load(tiny_checkpoint)
    loaded, drawn = engine.logprobs(PROMPT), draw(engine)
    engine.restart(tiny_checkpoint)
    fresh = draw(engine)
    assert loaded == pytest.approx(engine.logprobs(PROMPT), abs=1e-6)
    assert loaded == pytest.approx(reference(tiny_checkpoint, PROMPT), abs=1e-4)
    assert max(abs(a - b) for a, b in zip(before, loaded, strict=True)) > 1
    # The same prompt was drawn for before: nothing of it comes from the old weights' cache.
    assert (drawn.text, drawn.logprob) == (fresh.text, pytest.approx(fresh.logprob, abs=1e-5))
    assert drawn.text != first.text


def test_a_swap_reloads_and_proves(engine: VllmEngine, tiny_checkpoint: Path) -> None:
    with pytest.raises(WeightsNotProved, match="nats per token"):
        engine.prove(probe_of(tiny_checkpoint))
    assert engine.swap(tiny_checkpoint, probe_of(tiny_checkpoint)) == "reloaded"
    assert engine.prove(probe_of(tiny_checkpoint)) < 1e-5


@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "nearly"])
def test_a_stale_head_is_caught(
    engine: VllmEngine, checkpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = request.getfixturevalue(checkpoint)
    without_head(monkeypatch)
    with pytest.raises(WeightsNotProved, match="LM head"):
        engine.load(folder)
    if checkpoint == "nearly":
        engine.prove(probe_of(folder))  # the probe alone cannot tell so small a training from noise
    else:
        with pytest.raises(WeightsNotProved, match="nats per token"):
            engine.prove(probe_of(folder))


def test_a_reload_that_leaves_a_stale_head_ends_in_a_fresh_engine(
    engine: VllmEngine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_head(monkeypatch)
    assert engine.swap(tiny_checkpoint, probe_of(tiny_checkpoint)) == "restarted"
    assert engine.logprobs(PROMPT) == pytest.approx(reference(tiny_checkpoint, PROMPT), abs=1e-4)


def test_a_reload_that_does_nothing_is_not_believed(
    engine: VllmEngine, nearly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "load", lambda folder: None)
    before = engine.logprobs(PROMPT)
    assert engine.swap(nearly, probe_of(nearly)) == "restarted"
    assert engine.logprobs(PROMPT) != before


def test_a_wrong_probe_raises_after_the_fresh_engine_too(
    engine: VllmEngine, tiny_model: Path, tiny_checkpoint: Path
) -> None:
    with pytest.raises(WeightsNotProved, match="nats per token"):
        engine.swap(tiny_checkpoint, probe_of(tiny_model))


def test_weights_without_a_probe_come_with_a_fresh_engine(engine: VllmEngine, tiny_checkpoint: Path) -> None:
    assert engine.swap(tiny_checkpoint, None) == "restarted"
    assert engine.logprobs(PROMPT) == pytest.approx(reference(tiny_checkpoint, PROMPT), abs=1e-4)


def test_the_old_cache_would_be_read_if_it_were_kept(
    engine: VllmEngine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the comparison with a fresh engine can fail for the cache's sake."""
    draw(engine)
    monkeypatch.setattr(engine._engine, "reset_prefix_cache", lambda: True)
    engine.load(tiny_checkpoint)
    leaked = draw(engine)
    monkeypatch.undo()
    engine.load(tiny_checkpoint)
    assert leaked.logprob != pytest.approx(draw(engine).logprob, abs=1e-3)


def test_a_cache_that_stays_is_not_believed(
    engine: VllmEngine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._engine, "reset_prefix_cache", lambda: False)
    with pytest.raises(WeightsNotProved, match="prefix cache"):
        engine.load(tiny_checkpoint)


def test_weights_do_not_change_under_a_draw(engine: VllmEngine, tiny_checkpoint: Path) -> None:
    engine.add("draw", PROMPT, GREEDY)
    for forbidden in (engine.load, engine.restart, lambda folder: engine.swap(folder, None)):
        with pytest.raises(FemError, match="1 draws are unfinished"):
            forbidden(tiny_checkpoint)
    with pytest.raises(FemError, match="1 draws are unfinished"):
        engine.logprobs(PROMPT)
    engine.abort(["draw", "unknown"])
    assert engine.unfinished == 0
    assert draw(engine).completion_tokens == GREEDY.max_tokens, "the name is free again"


def test_a_seed_gives_its_text_wherever_it_stands_in_a_batch(engine: VllmEngine) -> None:
    seeds = [7, 8, 7, 9, 7]
    for i, seed in enumerate(seeds):
        engine.add(str(i), PROMPT, Sampling(1.0, 1.0, 24, seed))
    done = drain(engine)
    assert done["0"].text == done["2"].text == done["4"].text
    assert done["0"].logprob == pytest.approx(done["4"].logprob, abs=1e-4)
    assert len({done["0"].text, done["1"].text, done["3"].text}) == 3


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.6, 0.9, 24, 3)], ids=["greedy", "sharpened"])
def test_the_sum_is_the_models_own_log_probability(
    engine: VllmEngine, tiny_model: Path, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = overhear(engine, monkeypatch)
    one = draw(engine, sampling)
    assert one.prompt_tokens == len(PROMPT)
    assert one.completion_tokens == len(tokens)
    expected = sum(reference(tiny_model, PROMPT + tokens)[len(PROMPT) - 1 :])
    assert one.logprob == pytest.approx(expected, abs=1e-3)


def test_given_tokens_are_looked_at_beside_draws_and_whatever_the_cache_holds(
    engine: VllmEngine, tiny_model: Path
) -> None:
    whole = Sampling(1.0, 1.0, 512 - len(PROMPT), 5)
    drawn = draw(engine, whole)
    assert drawn.prompt_tokens + len(drawn.token_ids) == 512, "no room is left behind it"
    other = list(range(1000, 1040))
    looks = {
        "own": (PROMPT, drawn.token_ids),
        "other": (other, drawn.token_ids),
        "one": (PROMPT, drawn.token_ids[:1]),
        "end": (PROMPT[:260], [*PROMPT[260:], 2]),
    }
    engine.add("beside", PROMPT, whole)
    for name, (prompt, completion) in looks.items():
        engine.add_score(name, prompt, completion)
    assert engine.unfinished == 5
    done = drain(engine)
    for name, (prompt, completion) in looks.items():
        expected = sum(reference(tiny_model, [*prompt, *completion])[len(prompt) - 1 :])
        assert done[name].logprob == pytest.approx(expected, abs=1e-3)
        assert (done[name].prompt_tokens, done[name].token_ids) == (len(prompt), tuple(completion))
    assert done["own"].logprob == pytest.approx(drawn.logprob, abs=1e-3)
    assert abs(done["other"].logprob - drawn.logprob) > 1
    assert (done["beside"].text, done["beside"].token_ids) == (drawn.text, drawn.token_ids)
    with pytest.raises(FemError, match="have 514 tokens"):
        engine.add_score("long", PROMPT, [5] * 214)
    with pytest.raises(ValueError, match="0 completion tokens"):
        engine.add_score("empty", PROMPT, [])
    assert engine.unfinished == 0


def test_a_probe_looks_at_the_very_tokens_that_were_drawn(engine: VllmEngine, tiny_model: Path) -> None:
    problems = [make_problem(f"Is {n} even?", "yes", "label") for n in range(5)]
    prompts = {one.problem_id: PROMPT[20 * n : 20 * n + 200] for n, one in enumerate(problems)}
    parts: dict[int, pa.Table] = {}
    direct = ChatTokens(tiny_model).closed("Answer: yes")

    def judge(text: str, finish_reason: str, problem: Problem) -> Judgement:
        return Judgement("wrong_answer", "no") if problem is problems[1] else Judgement("accepted", "yes")

    def probe(plain: Callable[[Problem], list[int]]) -> list[dict[str, Any]]:
        loop = DrawLoop(
            "probe",
            problems,
            Plan((Stage("hinted", 3),), "all"),
            DrawSettings(0, 1, 0, 1.0, 1.0, 12),
            part_size=2,
            done_parts={1},
            render=lambda problem, kind: prompts[problem.problem_id],
            judge=judge,
            write_part=parts.__setitem__,
            looker=ProbeLooker(plain, lambda problem: direct),
        )
        while not loop.done:
            loop.fill(engine, 4)
            for finished in engine.step():
                loop.receive(finished, engine)
        assert sorted(parts) == [0, 2] and parts[0].schema == PROBES and engine.unfinished == 0
        return [row for n in (0, 2) for row in parts[n].to_pylist()]

    same = probe(lambda problem: prompts[problem.problem_id])
    drawn_for = [problems[n].problem_id for n in (0, 1, 4)]
    assert [(row["problem_id"], row["attempt"]) for row in same] == [(one, n) for one in drawn_for for n in range(3)]
    looked = [row for row in same if row["problem_id"] != drawn_for[1]]
    assert {row["plain_logprob"] for row in same if row not in looked} == {None}
    assert [row["plain_logprob"] for row in looked] == pytest.approx([row["logprob"] for row in looked], abs=1e-3)
    for one in drawn_for:
        expected = sum(reference(tiny_model, [*prompts[one], *direct])[len(prompts[one]) - 1 :])
        found = [row["direct_logprob"] for row in same if row["problem_id"] == one]
        assert found == [pytest.approx(expected, abs=1e-3), None, None]
    other = probe(lambda problem: list(range(2000, 2040)))
    assert [row["text"] for row in other] == [row["text"] for row in same]
    moved = [a["plain_logprob"] - b["plain_logprob"] for a, b in zip(other, same, strict=True) if b in looked]
    assert all(abs(one) > 0.01 for one in moved)


def test_an_answer_ends_a_draw(
    engine: VllmEngine, tiny_model: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(1.0, 1.0, 64, 1)
    whole = draw(engine, sampling)
    assert whole.finish_reason == "length"
    assert whole.text.count("\n") > 2, "the model writes lines"
    stop.after_lines = 2
    tokens = overhear(engine, monkeypatch)
    cut = draw(engine, sampling)
    assert cut.finish_reason == "answer"
    assert engine.unfinished == 0
    assert whole.text.startswith(cut.text)
    assert cut.text.count("\n") == 2 or cut.text.rstrip("\n").count("\n") < 2, "no token after the second line break"
    assert cut.completion_tokens == len(tokens) < whole.completion_tokens
    assert cut.logprob == pytest.approx(sum(reference(tiny_model, PROMPT + tokens)[len(PROMPT) - 1 :]), abs=1e-3)


def test_a_prompt_that_leaves_no_room_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(FemError, match="512 tokens"):
        engine.add("long", [5] * 512, GREEDY)
    assert engine.unfinished == 0


def test_norms_in_bfloat16_are_computed_by_the_fused_kernels_and_as_vllm_computes_them(engine: VllmEngine) -> None:
    from vllm import ir

    assert engine._engine.vllm_config.cache_config.block_size == 32
    torch.manual_seed(0)
    for dtype, provider in ((torch.float32, "native"), (torch.bfloat16, "fem_cpu")):
        x, rest, weight = (torch.randn(5, 64, dtype=dtype) for _ in range(3))
        for op, inputs in ((ir.ops.rms_norm, (x, weight[0])), (ir.ops.fused_add_rms_norm, (x, rest, weight[0]))):
            chosen = op.dispatch(*inputs, 1e-5)
            assert chosen.provider == provider
            found = chosen.func_impl_fn(*(one.clone() for one in inputs), 1e-5)
            native = op.impls["native"].func_impl_fn(*(one.clone() for one in inputs), 1e-5)
            torch.testing.assert_close(found, native, atol=0.02, rtol=0.02)


def test_an_aborted_draw_is_forgotten_and_its_tokens_are_told(engine: VllmEngine) -> None:
    for name in ("kept", "dropped"):
        engine.add(name, PROMPT, GREEDY)
    for _ in range(3):
        assert engine.step() == []
    assert engine.abort(["dropped", "unknown"]) == 3
    finished = []
    while engine.unfinished:
        finished += engine.step()
    assert [one.request_id for one in finished] == ["kept"]
