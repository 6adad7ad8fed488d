"""Second looks as a real engine takes them: against transformers, and through the filter."""

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from committed import KEY, commit_problems
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.tiny_model import answering_llama, letters
from fem_core.config import FilterConfig, PromptsConfig
from fem_core.filter.rationales import filter_attempts
from fem_core.problems.problem import Problem, make_problem
from fem_core.prompts import messages
from fem_core.sample.client import EngineHost
from fem_core.sample.engine_settings import EngineSettings
from fem_core.sample.job import DrawJob, HostSettings
from fem_core.schemas import LOOKED
from fem_core.store import layout, tables
from fem_core.store.store import Store

pytestmark = pytest.mark.slow
PROMPTS = PromptsConfig(plain="{question}", hinted="{question} It is {answer}.")
PROBLEMS = 6
ROOM = 128


@pytest.fixture(scope="module")
def model(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers A most of the time, at once or after a sentence."""
    folder = tmp_path_factory.mktemp("answering")
    return answering_llama(smollm2, folder / "model", letters(folder, 12), steps=60)


def stored(folder: Path) -> tuple[Store, list[Problem]]:
    store = Store.open(str(folder))
    problems = [
        make_problem(f"Which of these letters comes first in row {n}?", "A", "choice", choices=("x", "y"))
        for n in range(PROBLEMS)
    ]
    commit_problems(store, problems)
    return store, problems


def drawn(store: Store, model: Path, folder: Path, temperature: float = 1.0) -> pa.Table:
    job = DrawJob(
        id="looked",
        store=store.url,
        problems=layout.problems("r", "train"),
        artifact=layout.iteration("r", 1, "attempts"),
        key=KEY,
        iteration=1,
        seed=0,
        prompts=PROMPTS,
        exemplars=0,
        stages=(("hinted", 4),),
        keep="all",
        temperature=temperature,
        top_p=1.0,
        max_tokens=24,
        problems_per_part=4,
        looks=("plain_logprob", "blind_answer"),
    )
    engine = EngineSettings("float32", ROOM, 8, 0.25, 0.5, 1, seed=0, tempered_logprobs=temperature != 1)

    async def draw() -> list[dict[str, Any]]:
        heard: list[dict[str, Any]] = []
        settings = HostSettings(model_dir=str(model), engine=engine, stop_at_answer=True)
        async with EngineHost(settings, folder / "engine.log") as host:
            await host.draw(job, ("0", model), heard.append)
        return heard

    heard = asyncio.run(asyncio.wait_for(draw(), 240))
    last = [event for event in heard if event["event"] == "progress"][-1]
    assert last["settled"] == PROBLEMS and last["look_tokens"] > 0
    parts = store.parts(job.artifact, KEY)
    assert len(parts) == 2
    return pa.concat_tables(tables.decode(store.root.read(f"{job.artifact}/{name}")) for name in sorted(parts))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_looks_find_what_transformers_finds_and_the_filter_decides_from_them(
    model: Path, tmp_path: Path, temperature: float
) -> None:
    store, problems = stored(tmp_path / "store")
    table = drawn(store, model, tmp_path, temperature)
    assert table.schema.names == LOOKED.names and table.num_rows == 4 * PROBLEMS
    judged = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    by_id = {problem.problem_id: problem for problem in problems}

    def ids(problem: Problem, kind: Any) -> list[int]:
        chat = messages(PROMPTS, problem, kind, 0)
        return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False))

    def logprob(prompt: list[int], completion: list[int], at: float = 1.0) -> float:
        whole = torch.tensor([[*prompt, *completion]])
        with torch.inference_mode():
            every = (judged(input_ids=whole).logits[0, :-1] / at).log_softmax(-1).gather(1, whole[0, 1:, None])
        return float(every[len(prompt) - 1 :].sum())

    compared, kinds = 0, set[str]()
    for row in table.to_pylist():
        if row["verdict"] != "accepted":
            assert (row["plain_logprob"], row["blind_answer"], row["blind_verdict"]) == (None, None, None)
            continue
        problem = by_id[row["problem_id"]]
        tokens = tokenizer.encode(row["text"]) + ([tokenizer.eos_token_id] if row["finish_reason"] == "stop" else [])
        if abs(logprob(ids(problem, "hinted"), tokens, temperature) - row["logprob"]) > 1e-3:
            continue  # drawn in other pieces than the tokenizer cuts
        assert row["plain_logprob"] == pytest.approx(logprob(ids(problem, "plain"), tokens), abs=1e-3)
        before = row["text"].rsplit("Answer:", 1)[0]
        shown = torch.tensor([ids(problem, "plain") + tokenizer.encode(before + "Answer:")])
        with torch.inference_mode():
            said = tokenizer.decode(judged(input_ids=shown).logits[0, -1].argmax())
        assert (row["blind_verdict"] == "accepted") == (said.strip() == "A")
        compared += 1
        kinds.add(row["blind_verdict"])
    assert "accepted" in kinds
    assert compared >= PROBLEMS, "too few draws were right"
    config = FilterConfig(blind=True, weighting="importance")
    one, again = (filter_attempts(problems, parts, config, PROMPTS) for parts in ([table], [table[12:], table[:12]]))
    assert one.rationales.equals(again.rationales) and one.verdicts.equals(again.verdicts)
    kept = one.rationales.column("problem_id").to_pylist()
    assert len(set(kept)) == len(kept) == one.stats["accepted"] > 0
    assert 1.0 <= one.stats["effective_sample_size"] <= one.stats["weighed_draws"] <= 4.0
