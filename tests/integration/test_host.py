"""The engine host as the flow sees it: real processes, real vLLM, tiny models; new weights, failures, bad listeners."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from committed import KEY, commit_problems

from fem_core.config import PromptsConfig
from fem_core.problems.problem import make_problem
from fem_core.sample.client import EngineDied, EngineHost
from fem_core.sample.engine_settings import EngineSettings
from fem_core.sample.job import DrawJob, HostSettings
from fem_core.sample.spawn import HostProcess, spawn
from fem_core.schemas import PROBES
from fem_core.store import layout
from fem_core.store.store import Store
from fem_core.train.probe import write_probe

pytestmark = pytest.mark.slow
Draw = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with eight problems."""
    store = Store.open(str(tmp_path_factory.mktemp("host") / "store"))
    problems = [
        make_problem(question=f"What is {n} plus 1?", answer=str(n + 1), answer_kind="number") for n in range(8)
    ]
    commit_problems(store, problems)
    return store


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Path:
    """The second tiny model with the probe that a trainer leaves beside its weights."""
    write_probe(tiny_checkpoint, list(range(1000, 1100)), "cpu", False)
    assert json.loads((tiny_checkpoint / "fem_probe.json").read_text())["logprobs"]
    return tiny_checkpoint


def host(model: Path, folder: Path, ahead: HostProcess | None = None, **engine: Any) -> EngineHost:
    settings = EngineSettings(
        **{
            "dtype": "float32",
            "max_model_len": 256,
            "max_num_seqs": 8,
            "kv_cache_gib": 0.25,
            "gpu_memory_utilization": 0.5,
            "tensor_parallel_size": 1,
            "seed": 0,
        }
        | engine
    )
    return EngineHost(
        HostSettings(model_dir=str(model), engine=settings, stop_at_answer=True), folder / "engine.log", ahead
    )


def job(store: Store, name: str) -> DrawJob:
    return DrawJob(
        id=name,
        store=store.url,
        problems=layout.problems("r", "train"),
        artifact=layout.iteration("r", 1, name),
        key=KEY,
        iteration=1,
        seed=0,
        prompts=PromptsConfig(),
        exemplars=0,
        stages=(("plain", 1),),
        keep="first",
        temperature=0.0,
        top_p=1.0,
        max_tokens=8,
        problems_per_part=4,
    )


def rows(store: Store, name: str) -> list[tuple[str, float]]:
    folder = Path(store.url) / layout.iteration("r", 1, name)
    tables = [pq.read_table(file) for file in sorted(folder.glob("part-*.parquet"))]
    return [(row["text"], round(row["logprob"], 3)) for table in tables for row in table.to_pylist()]


def ignore(event: dict[str, Any]) -> None:
    """A listener that does not care."""


def test_each_job_is_drawn_with_its_own_weights_and_a_broken_listener_ends_nothing(
    store: Store, tiny_model: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def broken(event: dict[str, Any]) -> None:
        raise BrokenPipeError("the terminal went away")

    manifest = store.manifest(layout.problems("r", "train"))
    assert manifest is not None
    chosen = tuple(store.read_table(manifest).column("problem_id").to_pylist()[i] for i in (1, 2, 6))
    probing = {"stages": (("hinted", 2),), "keep": "all", "temperature": 1.0, "only": chosen, "plain_exemplars": 0}
    probes = job(store, "probes").model_copy(update=probing)

    async def drawn() -> dict[str, Any]:
        async with host(tiny_model, tmp_path) as one:
            await asyncio.gather(
                one.draw(job(store, "old-1"), ("0", tiny_model), broken),
                one.draw(job(store, "old-2"), ("0", tiny_model), ignore),
            )
            await one.draw(job(store, "new"), ("1", checkpoint), ignore)
            await one.draw(probes, ("1", checkpoint), ignore)
            facts = dict(one.facts)
            os.kill(one.pid or 0, signal.SIGKILL)
            with pytest.raises(EngineDied, match="SIGKILL"):
                await one.draw(job(store, "dies"), ("1", checkpoint), ignore)
            # A fresh host on the new weights: what the reloaded one must equal.
            await one.draw(job(store, "fresh"), ("1", checkpoint), ignore)
            return facts

    facts = asyncio.run(asyncio.wait_for(drawn(), 240))
    assert rows(store, "old-1") == rows(store, "old-2")
    assert len(rows(store, "new")) == 8
    assert rows(store, "new") != rows(store, "old-1")
    assert rows(store, "new") == rows(store, "fresh")
    table = pq.read_table(Path(store.url) / probes.artifact / layout.part_name(0))
    assert table.schema.remove_metadata() == PROBES.remove_metadata()
    assert table.column("problem_id").to_pylist() == [one for one in chosen for _ in range(2)]
    direct = table.column("direct_logprob").to_pylist()
    assert direct[1::2] == [None] * 3 and all(one < 0 for one in direct[::2]) and len(set(direct[::2])) == 3
    assert (facts["weights"], facts["resolved_dtype"]) == ("reloaded", "float32")
    assert facts["proved_difference"] < 1e-3


def test_a_host_that_cannot_start_says_why_and_leaves_no_process(
    store: Store, tiny_model: Path, tmp_path: Path
) -> None:
    async def drawn() -> None:
        async with host(tiny_model, tmp_path, max_model_len=100_000) as one:
            for _ in range(2):  # a second try must meet the same reason, not a half-dead host
                with pytest.raises(EngineDied, match=r"max_model_len|maximum|longer"):
                    await one.draw(job(store, "never"), ("0", tiny_model), ignore)
                assert one.pid is None

    asyncio.run(asyncio.wait_for(drawn(), 200))


def test_a_process_started_ahead_is_taken_once_and_a_dead_one_is_replaced(
    store: Store, tiny_model: Path, tmp_path: Path
) -> None:
    async def drawn(ahead: HostProcess) -> int:
        async with host(tiny_model, tmp_path, ahead) as one:
            await one.draw(job(store, f"ahead-{ahead.pid}"), ("0", tiny_model), ignore)
            return one.pid or 0

    alive = spawn(tmp_path / "engine.log")
    assert asyncio.run(asyncio.wait_for(drawn(alive), 120)) == alive.pid
    assert not alive.alive
    dead = spawn(tmp_path / "engine.log")
    dead.end()
    assert asyncio.run(asyncio.wait_for(drawn(dead), 120)) not in (0, dead.pid)


def test_a_process_started_ahead_in_vain_ends_with_its_host(tiny_model: Path, tmp_path: Path) -> None:
    ahead = spawn(tmp_path / "engine.log")

    async def nothing() -> None:
        async with host(tiny_model, tmp_path, ahead):
            assert ahead.alive

    asyncio.run(nothing())
    assert ahead.returncode == -signal.SIGKILL
