"""What flows do about workers that die, and the question that a person is asked between iterations."""

import subprocess
import sys
from pathlib import Path

import pytest
from made_run import make_run

from fem_core.errors import FemError
from fem_core.store.store import Store
from flows import approval
from flows.automations import automations

TALKS = """
import sys
from prefect.logging.configuration import setup_logging
from prefect.logging import get_logger
from flows import worker
setup_logging()
log = get_logger("fem")
if sys.argv[1] == "outlives":
    worker.outlive()
sys.stdin.read()
for n in range(3):
    log.warning("line %d", n)
open(sys.argv[2], "w").write("went on")
"""


@pytest.mark.parametrize("how", ["outlives", "as it is"])
def test_a_log_that_nobody_reads_does_not_end_a_flow(tmp_path: Path, how: str) -> None:
    """The worker reads it through a pipe. Where the second case goes on as well, ``outlive`` is not needed any more."""
    mark = tmp_path / "mark"
    child = subprocess.Popen(
        [sys.executable, "-c", TALKS, how, str(mark)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdout.close()
    child.stdin.close()
    child.wait(120)
    assert mark.exists() == (how == "outlives")


def test_a_pause_that_cannot_be_is_refused_before_anything_is_done() -> None:
    approval.check((), 5)
    for k in (0, 3):
        with pytest.raises(FemError, match=f"pause_after names iteration {k}, .* 1 to 2. Name one of these."):
            approval.check((1, k), 3)
    with pytest.raises(FemError, match="needs a deployment"):
        approval.check((1,), 3)


def test_a_person_is_asked_with_the_draws_in_sight(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    make_run(store, iterations=1)
    asked = approval.question(store, "made", 1)
    assert "Go on with iteration 2?" in asked and "| accepted |" in asked and "| 1 | " in asked
    assert approval.begun(store, "made", 1) and not approval.begun(store, "made", 2)


def test_automations_name_the_labels_that_the_events_have() -> None:
    low, falling = (one.trigger for one in automations())
    assert low.expect == {"fem.iteration.filtered"} and falling.expect == {"fem.iteration.scored"}
    event = {"prefect.resource.id": "fem.run.demo", "fem.utilization-percent": "4", "fem.accuracy-falls": "2"}
    assert low.match.matches(event) and falling.match.matches(event)
    for other in ({"fem.utilization-percent": "5"}, {"prefect.resource.id": "prefect.flow-run.1"}):
        assert not low.match.matches(event | other)
    assert not falling.match.matches(event | {"fem.accuracy-falls": "1"})
