"""Local copies of artifacts: they stay while somebody uses them, and no longer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fem_core.store import cache
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

ARTIFACT = "runs/demo/iteration=001/checkpoint"

HOLDS = """
import sys, time
from pathlib import Path
from fem_core.store import cache
print(cache.take(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def far() -> Store:
    return Store.open("memory://far-away", check=False)


@pytest.fixture
def manifest(far: Store, tmp_path: Path, make_manifest) -> Manifest:
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained/model.safetensors").write_bytes(b"weights")
    made: Manifest = far.commit(make_manifest(ARTIFACT, far.put_directory(ARTIFACT, tmp_path / "trained")))
    return made


def test_a_copy_goes_with_its_last_user_and_comes_back_when_it_is_asked_for(
    far: Store, manifest: Manifest, tmp_path: Path
) -> None:
    folder = far.local_dir(manifest, tmp_path / "cache")
    assert far.local_dir(manifest, tmp_path / "cache") == folder
    far.forget(manifest, tmp_path / "cache")
    assert (folder / "model.safetensors").read_bytes() == b"weights", "the second one uses it"
    for _ in range(2):
        far.forget(manifest, tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []
    assert (far.local_dir(manifest, tmp_path / "cache") / "model.safetensors").read_bytes() == b"weights"
    far.forget(manifest, tmp_path / "cache")


def test_a_copy_that_another_process_uses_stays_until_that_ends(far: Store, manifest: Manifest, tmp_path: Path) -> None:
    folder = far.local_dir(manifest, tmp_path / "cache")
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "True\n"
    try:
        far.forget(manifest, tmp_path / "cache")
        assert folder.is_dir()
    finally:
        other.kill()
        other.wait()
    far.local_dir(manifest, tmp_path / "cache")
    far.forget(manifest, tmp_path / "cache")
    assert not folder.exists()


def test_a_copy_that_was_deleted_by_hand_is_made_again(far: Store, manifest: Manifest, tmp_path: Path) -> None:
    folder = far.local_dir(manifest, tmp_path / "cache")
    (folder / "model.safetensors").unlink()
    folder.rmdir()
    assert (far.local_dir(manifest, tmp_path / "cache") / "model.safetensors").is_file()
    far.forget(manifest, tmp_path / "cache")
    assert not folder.exists()


def test_what_killed_processes_have_left_goes_after_days_and_nothing_else_does(
    far: Store, manifest: Manifest, tmp_path: Path
) -> None:
    place, old = tmp_path / "cache", time.time() - (cache.KEPT_DAYS + 1) * 86400
    names = {"used": "a" * 64, "unused": "b" * 64, "half": ".tmp-0123", "young": "c" * 64, "other": "staging"}
    for name in names.values():
        (place / name).mkdir(parents=True)
    assert cache.take(place / names["used"])
    for what in ("used", "unused", "half", "other"):
        os.utime(place / names[what], (old, old))
    far.local_dir(manifest, place)
    assert {one.name for one in place.iterdir()} == {names["used"], names["young"], names["other"], manifest.digest}
    cache.give_back(place / names["used"])
    far.forget(manifest, place)
