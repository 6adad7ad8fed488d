"""What the train task does about a trainer that dies while it takes up a state."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fem_core.config import TrainConfig
from fem_core.train import launch
from tasks import train


@pytest.fixture
def resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``resumes(error)``: train from a state with a trainer that dies of this at first; the states that trainers got."""

    @contextlib.asynccontextmanager
    async def watched(*_: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(move=lambda *args, **more: None)

    monkeypatch.setattr(train, "watch", watched)
    state = tmp_path / "step-0004000"

    def run(error: Exception) -> list[Path | None]:
        given: list[Path | None] = []

        async def trainer(job: launch.TrainJob, *_: Any) -> str:
            given.append(job.resume_from)
            if len(given) == 1:
                raise error
            return "trained"

        monkeypatch.setattr(launch, "train", trainer)
        job = launch.TrainJob(tmp_path, [], tmp_path / "checkpoint", 1, 1e-5, 0, TrainConfig(), resume_from=state)
        states: Any = SimpleNamespace(take=None, resumed=[1])
        with contextlib.suppress(launch.TrainerKilled):
            assert asyncio.run(train._trained("train · 1", job, states, lambda text: None, None)) == "trained"
        return [None if one is None else one.relative_to(tmp_path) for one in given]

    return run


def test_a_trainer_that_dies_of_its_state_starts_afresh(resumes: Any) -> None:
    assert resumes(launch.TrainerDied("exit code 1")) == [Path("step-0004000"), None]


def test_a_trainer_that_is_killed_while_it_loads_its_state_costs_no_step(resumes: Any) -> None:
    """The task, or a later resume, takes up the same state."""
    assert resumes(launch.TrainerKilled("SIGKILL")) == [Path("step-0004000")]
