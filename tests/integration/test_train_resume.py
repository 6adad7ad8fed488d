"""An M-step that is broken off and taken up again: real TRL, a tiny Llama, real kills, a real S3 server."""

import asyncio
import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from prefect import flow
from prefect.testing.utilities import prefect_test_harness
from safetensors.torch import load_file

from deployments.s3 import BUCKET
from fem_core.config import RunConfig, TrainConfig
from fem_core.config_files import parse_config
from fem_core.schemas import RATIONALES
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from fem_core.train import launch, sft, state
from fem_core.train.launch import TrainJob
from tasks import step
from tasks.train import train, work

pytestmark = pytest.mark.slow

NOW_AND_THEN = 1e-6
"""Minutes: after every step, as long as somebody takes the states."""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here and in the trainer's own process: sums of other threads may be rounded otherwise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def table(rows: int) -> pa.Table:
    values = [
        {
            "prompt": [{"role": "user", "content": f"What is {i} plus {i + 1}?" + " Think." * (i % 5)}],
            "completion": [{"role": "assistant", "content": f"{i} and {i + 1}.\nAnswer: {2 * i + 1}"}],
            "problem_id": f"{i:016x}",
            "attempt": 0,
            "prompt_kind": "plain",
            "completion_tokens": 20,
        }
        for i in range(rows)
    ]
    return pa.Table.from_pylist(values, schema=RATIONALES)


def settings(**changes: Any) -> dict[str, Any]:
    return {"batch_size": 4, "micro_batch_size": 2, "epochs": 3, "precision": "fp32", "save_minutes": None, **changes}


def make_job(folder: Path, model: Path, **config: Any) -> TrainJob:
    folder.mkdir()
    pq.write_table(table(6), folder / "part.parquet")
    job = TrainJob(
        model_dir=model,
        rationales=[folder / "part.parquet"],
        output_dir=folder / "checkpoint",
        iteration=1,
        learning_rate=1e-2,
        seed=3,
        config=TrainConfig.model_validate(settings(**config)),
    )
    job.work_dir.mkdir()
    return job


def run(job: TrainJob) -> dict[str, torch.Tensor]:
    sft.run(job, "cpu")
    return load_file(job.output_dir / "model.safetensors")


def log_without_times(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "training_log.parquet").drop_columns(["seconds"]).to_pylist()


@pytest.mark.parametrize(
    "method",
    [{"method": "full", "scheduler": "cosine"}, {"method": "lora", "lora": {"r": 4, "alpha": 8, "dropout": 0.3}}],
    ids=["full", "lora with dropout"],
)
def test_a_resumed_m_step_ends_with_the_very_same_weights(
    tiny_model: Path, tmp_path: Path, method: dict[str, Any]
) -> None:
    """Two steps an epoch: step 1 is in the midst of one, step 2 at its end. Equal bit by bit, dropout included."""
    whole = make_job(tmp_path / "whole", tiny_model, **method)
    expected = run(whole)
    assert not whole.states_dir.exists()

    saving = make_job(tmp_path / "saving", tiny_model, **method, save_minutes=NOW_AND_THEN)
    weights = run(saving)
    assert all(torch.equal(weights[name], expected[name]) for name in expected), "saving must change nothing"
    assert sorted(folder.name for folder in saving.states_dir.iterdir()) == ["step-0000001", "step-0000002"]

    for steps in (1, 2):
        resumed = make_job(tmp_path / f"resumed-{steps}", tiny_model, **method)
        resumed = replace(resumed, resume_from=saving.state_dir(steps))
        weights = run(resumed)
        assert all(torch.equal(weights[name], expected[name]) for name in expected), steps
        assert log_without_times(resumed.output_dir) == log_without_times(whole.output_dir)
        seconds = pq.read_table(resumed.output_dir / "training_log.parquet")["seconds"].to_pylist()
        assert seconds == sorted(seconds) and len(seconds) == 6
        assert (resumed.work_dir / "progress.jsonl").read_text().count('"step": ') == 6 - steps


def test_a_state_holds_no_free_pickle(tiny_model: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", tiny_model, save_minutes=NOW_AND_THEN, epochs=1)
    run(job)
    (folder,) = job.states_dir.iterdir()
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "fem_log.json",
        "generation_config.json",
        "model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    }
    torch.load(folder / "optimizer.pt", weights_only=True)
    torch.load(folder / "scheduler.pt", weights_only=True)


def test_a_state_that_cannot_be_saved_is_a_warning(tiny_model: Path, tmp_path: Path) -> None:
    """Adam's file breaks off in the midst of being written; the smaller checkpoint does not."""
    job = make_job(tmp_path / "job", tiny_model, save_minutes=NOW_AND_THEN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, hard))
    try:
        run(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    events = (job.work_dir / "progress.jsonl").read_text()
    assert events.count('"warning"') == 5 and '"saved"' not in events and '"event": "done"' in events
    assert "state after step 1 could not be saved (" in events and "Training goes on." in events
    assert not list(job.states_dir.iterdir())


def test_a_state_leaves_room_for_the_checkpoint(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path / "job", tiny_model, save_minutes=NOW_AND_THEN, epochs=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4 * 10_000_000))
    run(job)
    assert "could not be saved (it and the checkpoint need" in (job.work_dir / "progress.jsonl").read_text()
    assert not list(job.states_dir.iterdir())


# -- through the task and the store -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


def made_inputs(store: Store, config: RunConfig, model: Path) -> tuple[Manifest, Manifest]:
    """Rationales and start weights, committed."""

    def commit(kind: str, files: Any, stats: dict[str, Any]) -> Manifest:
        todo = step.Work(kind, layout.iteration("run", 1, kind), "made", 1, {}, ())
        return store.commit(todo.manifest(files(todo), step.now(), stats=stats))

    rationales = commit(
        "rationales",
        lambda todo: [store.write_table(todo.artifact, layout.part_name(0), table(40), todo.key)],
        {"accepted": 40},
    )
    return rationales, commit("base", lambda todo: store.put_directory(todo.artifact, model), {})


def run_task(
    store: Store, config: RunConfig, inputs: tuple[Manifest, Manifest], cache: Path, killed: bool = False
) -> tuple[Manifest | BaseException, list[str]]:
    """The task in a flow of its own, and what it said; the trainer is killed with 9 once the store holds two states."""
    said: list[str] = []

    class Listening(step.Silent):
        def noted(self, step: str, text: str) -> None:
            said.append(text)

        def ended(self, step: str, note: str) -> None:
            said.append(note)

    @flow
    async def one() -> Manifest:
        killer = asyncio.create_task(kill()) if killed else None
        try:
            return await train.with_options(retries=0)(step.Run("run", config, store, cache), 1, *inputs)
        finally:
            if killer is not None:
                killer.cancel()

    def stored() -> int:
        top = layout.iteration("run", 1, "trainer")
        return sum(store.manifest(f"{top}/{name}") is not None for name in store.root.children(top))

    async def kill() -> None:
        while await asyncio.to_thread(stored) < state.KEPT:
            await asyncio.sleep(0.05)
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(cache) in line and "accelerate" not in line:
                os.kill(process.pid, 9)

    token = step.LISTENER.set(Listening())
    try:
        return asyncio.run(one()), said
    except launch.TrainerDied as error:
        return error, said
    finally:
        step.LISTENER.reset(token)


@pytest.mark.usefixtures("prefect_server", "s3_server")
def test_a_killed_trainer_is_taken_up_on_another_machine_from_its_newest_whole_state(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(f"s3://{BUCKET}/{tmp_path.name}")
    values = {"name": "run", "iterations": 1, "train": settings(epochs=5, learning_rate=1e-3)}
    problems = {"source": "table", "path": "sums.jsonl", "answer_kind": "number", "test": 4}
    saves = {"train": {**values["train"], "save_minutes": NOW_AND_THEN}}
    config, saving = (parse_config({**values, "problems": problems, **more}) for more in ({}, saves))
    inputs = made_inputs(store, config, tiny_model)

    died, _ = run_task(store, saving, inputs, tmp_path / "one", killed=True)
    assert isinstance(died, launch.TrainerDied) and "killed" in str(died)
    key = work("run", config, 1, *inputs).key
    newest, _ = state.newest(store, "run", 1, key, tmp_path / "look")
    assert newest is not None and not list((tmp_path / "one").rglob("optimizer.pt"))
    older = store.root.children("runs/run/iteration=001/trainer")[:-1]
    assert older, "the one before it is kept"

    weights = f"{newest.manifest.artifact}/model.safetensors"
    data = bytearray(store.root.read(weights))
    data[-1] ^= 1
    store.root.replace(weights, bytes(data))
    torn = layout.trainer_state("run", 1, 99)
    store.root.replace(f"{torn}/optimizer.pt", b"half")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done, said = run_task(store, config, inputs, tmp_path / "two")
    assert isinstance(done, Manifest)
    begun = int(older[-1].removeprefix("step-"))
    assert said[0] == f"Skipped {torn}: it is torn, it has files and no manifest."
    assert f"{weights} does not hold what its manifest records" in said[1]
    assert said[2].startswith(f"resumed from step {begun} of 50 ({layout.trainer_state('run', 1, begun)}, ")
    assert [entry["step"] for entry in done.stats["resumed"]] == [begun]

    folder = store.local_dir(done, tmp_path / "look")
    log = pq.read_table(folder / "training_log.parquet")
    assert log["step"].to_pylist() == list(range(1, 51))
    assert done.stats["steps"] == 50 and done.stats["tokens"] == log["tokens"].to_pylist()[-1]
    assert store.root.files("runs/run/iteration=001/trainer") == {}, "the checkpoint replaces the states"
    assert not list((tmp_path / "two").rglob("optimizer.pt"))

    whole = TrainJob(
        model_dir=tiny_model,
        rationales=[store.local_dir(inputs[0], tmp_path / "look") / layout.part_name(0)],
        output_dir=tmp_path / "whole",
        iteration=1,
        learning_rate=config.learning_rate(1),
        seed=done.seeds["train"],
        config=config.train,
    )
    whole.work_dir.mkdir()
    expected, weights_of = run(whole), load_file(folder / "model.safetensors")
    assert all(torch.equal(weights_of[name], expected[name]) for name in expected)
