"""Which state an M-step resumes from, and what becomes of the others, on a local root and on S3."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_run import made_config
from prefect.logging import disable_run_logger

from fem_core.config import RunConfig, TrainConfig, identity_of, places_of
from fem_core.digest import digest_file
from fem_core.store import layout
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store
from fem_core.train import state
from fem_core.train.launch import SavedState
from tasks import step, train

RUN = "made"
WORK = step.Work("checkpoint", layout.iteration(RUN, 1, "checkpoint"), "train", 1, {"seed": 0}, ())


def put(store: Store, at: int, todo: step.Work = WORK, content: str = "weights") -> Manifest:
    """A whole state."""
    todo = replace(todo, kind=state.KIND, artifact=layout.trainer_state(RUN, 1, at))
    files = [store.write_bytes(todo.artifact, name, f"{content} {at} {name}".encode()) for name in ("a.pt", "b.json")]
    return store.commit(todo.manifest(files, step.now(), stats={"step": at, "steps": 96, "tokens": 5}))


def newest(store: Store, cache: Path, key: str = WORK.key) -> tuple[int | None, list[str]]:
    found, skipped = state.newest(store, RUN, 1, key, cache)
    return (found.step if found else None), skipped


def states(store: Store) -> list[int]:
    """The steps of the states that have a manifest."""
    top = layout.iteration(RUN, 1, "trainer")
    return [int(name[5:]) for name in store.root.children(top) if store.manifest(f"{top}/{name}") is not None]


def test_the_newest_state_of_the_step_is_found_with_its_files(real_store: Store, tmp_path: Path) -> None:
    assert newest(real_store, tmp_path) == (None, [])
    for at in (8, 40, 9):
        put(real_store, at)
    found, skipped = state.newest(real_store, RUN, 1, WORK.key, tmp_path)
    assert found is not None and found.step == 40 and not skipped
    assert (found.folder / "a.pt").read_text() == "weights 40 a.pt"


def test_torn_damaged_and_foreign_states_are_skipped_and_named(real_store: Store, tmp_path: Path) -> None:
    put(real_store, 10)
    put(real_store, 20, replace(WORK, config={"seed": 1}))
    flipped = put(real_store, 30)
    real_store.root.replace(f"{flipped.artifact}/b.json", b"weights 30 c.json")
    lost = put(real_store, 40)
    real_store.root.remove(f"{lost.artifact}/a.pt")
    half = put(real_store, 50)
    real_store.root.replace(f"{half.artifact}/{layout.MANIFEST}", b'{"kind": "trai')
    real_store.root.replace(f"{layout.trainer_state(RUN, 1, 60)}/a.pt", b"half")

    at, skipped = newest(real_store, tmp_path)
    assert at == 10
    assert [sentence.split()[1].rstrip(":") for sentence in skipped] == [
        layout.trainer_state(RUN, 1, at) for at in (60, 50, 40, 30, 20)
    ]
    reasons = ["no manifest", "is not valid JSON", "a.pt is missing", "b.json does not hold", "other rationales"]
    assert all(reason in sentence for reason, sentence in zip(reasons, skipped, strict=True))


def test_a_state_goes_manifest_first_and_is_then_neither_found_nor_skipped(
    real_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = put(real_store, 7).artifact
    order: list[str] = []
    real = real_store.root.remove
    monkeypatch.setattr(real_store.root, "remove", lambda path: (order.append(path), real(path)))
    state.remove(real_store, artifact)
    assert order[0] == f"{artifact}/{layout.MANIFEST}" and len(order) == 3
    assert newest(real_store, tmp_path) == (None, [])
    state.remove(real_store, artifact)


# -- while the trainer works ------------------------------------------------------------------------------------------


def saved(folder: Path, at: int) -> SavedState:
    folder = folder / f"step-{at:07d}"
    folder.mkdir(parents=True)
    (folder / "a.pt").write_text(f"state {at}")
    return SavedState(step=at, steps=96, tokens=100 * at, folder=folder)


def take(store: Store, folder: Path, steps: list[int], resumed: state.State | None = None) -> list[str]:
    """What the trainer saves at these steps, each stored before the next; the warnings."""
    warnings: list[str] = []

    async def taken() -> None:
        run = step.Run(RUN, made_config(), store, folder / "cache")
        taking = train.States(run, WORK, 1, resumed, warnings.append)
        for at in steps:
            taking.take(saved(folder / "local", at))
            await taking.end()

    asyncio.run(taken())
    return warnings


def test_the_newest_two_stay_in_the_store_and_none_on_the_disk(real_store: Store, tmp_path: Path) -> None:
    real_store.root.replace(f"{layout.trainer_state(RUN, 1, 3)}/a.pt", b"torn")
    assert take(real_store, tmp_path, [10, 20, 30]) == []
    assert states(real_store) == [20, 30]
    assert not real_store.root.files(layout.trainer_state(RUN, 1, 3))
    assert list((tmp_path / "local").iterdir()) == []
    found, _ = state.newest(real_store, RUN, 1, WORK.key, tmp_path / "other machine")
    assert found is not None and (found.folder / "a.pt").read_text() == "state 30"
    assert found.manifest.stats == {"step": 30, "steps": 96, "tokens": 3000, "resumed": []}


def test_a_damaged_state_of_the_same_step_makes_room_and_a_good_one_stays_until_two_are_newer(
    real_store: Store, tmp_path: Path
) -> None:
    put(real_store, 10)
    damaged = put(real_store, 20)
    real_store.root.replace(f"{damaged.artifact}/a.pt", b"damaged")
    resumed, skipped = state.newest(real_store, RUN, 1, WORK.key, tmp_path)
    assert resumed is not None and resumed.step == 10 and len(skipped) == 1

    assert take(real_store, tmp_path, [20], resumed) == []
    assert states(real_store) == [10, 20]
    found, skipped = state.newest(real_store, RUN, 1, WORK.key, tmp_path)
    assert found is not None and found.step == 20 and not skipped
    (entry,) = found.manifest.stats["resumed"]
    assert entry == {"step": 10, "artifact": resumed.manifest.artifact, "digest": resumed.manifest.digest}


def test_of_states_that_come_at_once_the_older_is_dropped(real_store: Store, tmp_path: Path) -> None:
    async def taken() -> None:
        taking = train.States(step.Run(RUN, made_config(), real_store, tmp_path), WORK, 1, None, print)
        taking.take(saved(tmp_path / "local", 1))
        taking.take(saved(tmp_path / "local", 2))
        await taking.end()

    asyncio.run(taken())
    assert states(real_store) == [2] and list((tmp_path / "local").iterdir()) == []


def test_a_state_that_cannot_be_stored_is_a_warning_and_leaves_the_last_one(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "root"))
    assert take(store, tmp_path, [10]) == []
    (tmp_path / "root" / layout.trainer_state(RUN, 1, 20)).write_text("in the way")
    (warning,) = take(store, tmp_path, [20])
    assert warning.startswith("The state after step 20 could not be stored, training goes on: ")
    assert states(store) == [10] and list((tmp_path / "local").iterdir()) == []


def test_how_often_states_are_saved_changes_no_key(real_store: Store, tmp_path: Path) -> None:
    rationales, start = put(real_store, 1), put(real_store, 2)

    def key(config: RunConfig) -> str:
        return train.work(RUN, config, 1, rationales, start).key

    changes: list[dict[str, Any]] = [{}, {"save_minutes": 1}, {"save_minutes": None}]
    configs = [made_config(train=change) for change in changes]
    assert len({key(config) for config in configs}) == len({config.digest() for config in configs}) == 1
    assert key(made_config(train={"epochs": 2})) != key(configs[0])
    assert "save_minutes" not in identity_of(TrainConfig()) and places_of(TrainConfig())["save_minutes"] == 10.0


def test_stored_states_are_what_the_trainer_wrote(tmp_path: Path) -> None:
    """The trainer's files may become the store's by a hard link, so removing the local folder must not touch them."""
    store = Store.open(str(tmp_path / "root"))
    take(store, tmp_path, [10])
    manifest = store.manifest(layout.trainer_state(RUN, 1, 10))
    assert manifest is not None
    file = tmp_path / "root" / manifest.artifact / "a.pt"
    assert digest_file(file) == manifest.files[0].sha256 and file.read_text() == "state 10"


def test_what_killed_tries_of_a_run_left_goes_with_its_next_try_and_their_logs_stay(
    made_folder: Path, tmp_path: Path
) -> None:
    store = Store.open(str(shutil.copytree(made_folder, tmp_path / "store")), check=False)
    run = step.Run(name="made", config=made_config(), store=store, cache=tmp_path / "cache")
    mine = train.tries_of(store, "made")
    others = [train.tries_of(store, "made-train-1"), train.tries_of(Store.open(str(tmp_path / "other")), "made")]
    left, log = "checkpoint.train/states/step-0000002/model.safetensors", "checkpoint.train/trainer.log"
    for tries in (mine, *others):
        for name in (left, log, "checkpoint/model.safetensors"):
            file = run.cache / "staging" / f"{tries}-2-abcdefgh" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"of a try")
    manifests = [store.manifest(layout.iteration("made", 1, "rationales")), store.manifest(layout.model("made"))]
    with disable_run_logger():
        asyncio.run(train.train.fn(run, 1, *manifests))
    there = {file.relative_to(run.cache / "staging").as_posix() for file in run.cache.rglob("*") if file.is_file()}
    kept = {f"{tries}-2-abcdefgh/{name}" for tries in others for name in (left, log, "checkpoint/model.safetensors")}
    assert there == {f"{mine}-2-abcdefgh/{log}", *kept}
