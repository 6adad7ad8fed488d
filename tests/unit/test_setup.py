"""deployments/setup.sh on machines that lack something: one sentence, exit code 2, nothing installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The part of a checkout that set-up reads, in a path with a space."""
    folder = tmp_path / "a checkout"
    for name in ("deployments/setup.sh", "requirements", "pyproject.toml"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    return folder


def setup(checkout: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": os.environ["PATH"], "HOME": str(checkout), **environment}
    command = [str(checkout / "deployments" / "setup.sh"), *arguments]
    return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=60, check=False)


def tools(folder: Path, **scripts: str) -> str:
    """A PATH with the usual tools but Python, and these scripts."""
    folder.mkdir()
    for name in ("bash", "dirname", "cat", "cksum", "tr", "awk", "grep", "df", "env"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name, text in scripts.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_a_disk_that_is_too_small_is_named_with_both_figures(checkout: Path, tmp_path: Path) -> None:
    df = f"printf 'Filesystem 1024-blocks Used Available\\n/dev/sda 9 9 {3 * 1024 * 1024}\\n'"
    done = setup(checkout, PATH=tools(tmp_path / "bin", df=df), PYTHON=sys.executable)
    assert done.returncode == 2
    assert done.stderr == (
        "setup: 8 GiB of free disk are needed for the environment, the model and a store; here are 3. Free some.\n"
    )
    assert not (checkout / ".venv").exists()


def test_a_machine_without_python_3_11_is_told_so(checkout: Path, tmp_path: Path) -> None:
    done = setup(checkout, PATH=tools(tmp_path / "bin", python3="exit 1"))
    assert done.returncode == 2
    assert done.stderr.startswith("setup: Python 3.11 is needed and was not found. Install it, or name it: PYTHON=")
    assert not (checkout / ".venv").exists()


def test_an_unknown_device_is_refused(checkout: Path) -> None:
    done = setup(checkout, "tpu")
    assert (done.returncode, done.stderr) == (2, "setup: unknown device 'tpu'. Use cpu or gpu.\n")


def test_the_other_devices_environment_is_not_overwritten(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".fem-setup").write_text("gpu 123")
    done = setup(checkout, "cpu")
    assert done.returncode == 2
    assert "vLLM's two builds exclude each other" in done.stderr


def test_a_second_call_finds_its_stamp_and_starts_nothing(checkout: Path, tmp_path: Path) -> None:
    files = [checkout / "requirements" / "cpu.lock", checkout / "pyproject.toml"]
    text = b"".join(file.read_bytes() for file in files)
    sum_ = (
        subprocess.run(["cksum"], input=text, capture_output=True, check=True).stdout.decode().replace(" ", "").strip()
    )
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / ".fem-setup").write_text(f"cpu {sum_}")
    done = setup(checkout, PATH=tools(tmp_path / "bin", python3="exit 1"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
