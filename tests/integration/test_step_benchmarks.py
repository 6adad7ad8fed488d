"""The measurements of the steps run at a tiny size and print rows in which the same work was done on both sides."""

from pathlib import Path

import pytest

from benchmarks import e_step, m_step, scaling
from benchmarks.tiny_model import answering_llama
from fem_core.model import default_cache
from fem_core.packaged_model import packaged_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    questions = [f"Which of these letters comes first in row {n}?" for n in range(40)]
    return answering_llama(packaged_model(default_cache()), tmp_path_factory.mktemp("model"), questions)


def rows(said: str) -> list[list[str]]:
    lines = [line for line in said.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_m_step_and_its_baselines_come_to_the_same_losses(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    m_step.main(["--rows", "24", "--steps", "3", "--repeats", "1", "--model", str(model)])
    _, *ways = rows(capsys.readouterr().out)
    assert [row[0] for row in ways] == ["default", "fem", "bare"]
    assert all(float(row[1]) > 0 and float(row[5]) < 0.05 for row in ways)


def test_the_e_step_repeats_its_draws_beside_and_keeps_to_the_bound(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    e_step.main(["--problems", "6", "--repeats", "1", "--model", str(model)])
    said = rows(capsys.readouterr().out)
    by_header = dict(zip((row[0] for row in said[::2]), said[1::2], strict=True))
    assert float(by_header["the same draws"][1]) > 0
    drawn = by_header["problems"]
    assert drawn[0] == "6" and 0 < float(drawn[3]) <= 1, "no more draws than generate(n=8)"
    assert by_header["evaluation beside sampling"][0] == "3 and 3 problems"


def test_scaling_measures_a_run_with_its_processes(model: Path, tmp_path: Path) -> None:
    one = scaling.measure(model, 12, 2)
    assert 12 <= one.draws <= 24 and one.tokens > one.draws
    assert min(one.flow_mb, one.host_mb, one.trainer_mb) > 50 and one.seconds > one.sample > 0
    scaling.picture([one], tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
