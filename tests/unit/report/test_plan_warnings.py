"""What `fem plan` prints of an estimate, and what it warns of."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from made_run import made_config
from test_estimate import CALIBRATION

from fem_core.errors import FemError
from fem_core.report.calibration import Calibration
from fem_core.report.estimate import estimate
from flows.commands.plan import plan, show_estimate


def shown(capsys: pytest.CaptureFixture[str], found: Calibration = CALIBRATION, **changes: object) -> str:
    show_estimate(made_config(**changes), estimate(found, 2, 1.0, "2026-01-01", {}))
    return capsys.readouterr().out


def test_steps_iterations_and_the_run_are_summed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = shown(capsys, store=str(tmp_path))
    assert re.search(r"^sample · 1 +60 +6,000 +1,400 +191\.0 +\d+ to \d+ +14\.0 kB", out, re.MULTILINE)
    assert re.search(r"^filter · 2 +- +- +- +2\.0 +- +8\.0 kB", out, re.MULTILINE)
    # sample 191, filter 2, train 3600 / 50 + 7, evaluate 38
    assert re.search(r"^= iteration 1 +70 +6,500 +1,700 +310\.0 ", out, re.MULTILINE)
    assert re.search(r"^= the run +150 +13,500 +3,700 +655\.0 ", out, re.MULTILINE)
    assert "The run: 10 min 55 s (" in out and "3,700 tokens drawn, 7,200 trained on, 63.9 kB in the store." in out
    assert "Peak memory: the trainer 1.5 GiB and the engine 3.0, together 4.5 GiB." in out
    assert "plain prompt: 4, accepted 2 (0.50); 100 prompt and 25 completion tokens each" in out
    assert "Utilization 0.50 (0.15 to 0.85), from 4 of 40 training problems." in out
    assert "Assumed: acceptance and lengths stay those of the base model." in out
    assert "Warning" not in out


def test_near_zero_utilization_is_warned_of(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    few = dataclasses.replace(CALIBRATION.sample, draws=(1,) * 200, first_prompt_tokens=(9,) * 200)
    few = dataclasses.replace(few, prompt_tokens=(9,) * 200, completion_tokens=(9,) * 200, of=900)
    low = dataclasses.replace(CALIBRATION, sample=few)
    assert "Warning: utilization will be near zero (0.04 at most)" in shown(capsys, low, store=str(tmp_path))
    training = dataclasses.replace(CALIBRATION.training, made_up=True)
    none = dataclasses.replace(low, training=training)
    assert "Warning: no attempt was accepted" in shown(capsys, none, store=str(tmp_path))


def test_looks_the_most_rationales_and_near_duplicates_are_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sample = dataclasses.replace(CALIBRATION.sample, look_tokens=700)
    rates = dataclasses.replace(CALIBRATION.rates, look_tokens=250.0)
    accepted = dataclasses.replace(CALIBRATION.accepted, most=6)
    found = dataclasses.replace(CALIBRATION, sample=sample, rates=rates, accepted=accepted)
    out = shown(capsys, found, store=str(tmp_path), filter={"near_duplicate": 0.8})
    assert "Second looks at draws read 14,000 tokens more, at 250 tokens/s; their seconds are in" in out
    assert (
        "Utilization 0.14 (" in out and "from 4 of 40 training problems and at most 6 rationales an iteration." in out
    )
    assert "Near duplicates were looked for among the rationales of these few problems" in out
    plain = shown(capsys, store=str(tmp_path))
    assert "looks" not in plain and "at most" not in plain and "duplicates" not in plain


def test_a_full_disk_and_too_little_memory_are_warned_of(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def usage(folder: Path) -> SimpleNamespace:
        seen.append(folder)
        return SimpleNamespace(free=10_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    out = shown(capsys, store=str(tmp_path / "not" / "yet"))
    assert re.search(r"Warning: the store needs up to \d+\.\d kB, and its disk has 10\.0 kB free\.", out)
    assert seen == [tmp_path], "the nearest folder that is there"
    assert "disk" not in shown(capsys, store="s3://bucket/prefix") and len(seen) == 1

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=4 * 2**30))
    assert "engine and trainer need 4.5 GiB together, and this machine has 4.0" in shown(capsys, store="s3://b/p")
    gpu = dataclasses.replace(CALIBRATION, engine_gib=None)
    out = shown(capsys, gpu, store="s3://b/p")
    assert "Peak memory: the trainer 1.5 GiB, on the GPU." in out and "Warning" not in out


def test_a_busy_machine_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for load, told in ((1.0, False), (3.5, True)):
        show_estimate(made_config(store="s3://b/p"), estimate(CALIBRATION, 2, 1.0, "now", {"load": load, "cores": 2}))
        assert ("Warning: the machine was busy (load 3.5 on 2 cores)" in capsys.readouterr().out) is told


def test_a_range_needs_two_problems(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("problems: {source: reasoning_gym, dataset: needle_haystack}\n")
    with pytest.raises(FemError, match="--problems is 1, and a range needs 2"):
        plan(tmp_path / "run.yaml", problems=1)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, flows.cli as cli\n"
        "try: cli.app(['plan', '--help'], exit_on_error=False)\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'vllm', 'prefect', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--problems" in done.stdout and "calibration" in done.stdout
