"""`fem audit`: what it prints and how it ends."""

import pytest
from forge import RUN, flip

from fem_core.errors import FemError
from fem_core.store.store import Store
from flows.commands.audit import audit


def test_a_run_that_holds_says_so_in_one_line(made: Store, capsys: pytest.CaptureFixture[str]) -> None:
    audit("made", store=made.url, deep=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok ") and f"{RUN}/problems/test" in lines[0]
    assert lines[-1].startswith("Run made holds: 18 artifacts, 26 files") and "12 derived again" in lines[-1]


def test_a_run_that_does_not_hold_ends_with_1_and_names_the_first_broken_link(
    made: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (f"{RUN}/iteration=002/verdicts/part-00000.parquet", f"{RUN}/model/model.safetensors"):
        flip(made, name)
    with pytest.raises(SystemExit) as stop:
        audit("made", store=made.url)
    out = capsys.readouterr().out
    assert stop.value.code == 1
    assert f"First broken link: {RUN}/model/model.safetensors: sha256: recorded " in out.splitlines()[-1]
    assert f"broken: {RUN}/iteration=002/verdicts/part-00000.parquet: sha256" in out


def test_names_from_the_store_cannot_steer_the_terminal(made: Store, capsys: pytest.CaptureFixture[str]) -> None:
    made.root.create(f"{RUN}/model/evil\x1b[2J\nbroken", b"")
    audit("made", store=made.url)
    out = capsys.readouterr().out
    assert "\x1b" not in out and f"note: {RUN}/model/evil[2J broken: a file" in out


def test_an_unknown_run_is_a_users_mistake(made: Store) -> None:
    with pytest.raises(FemError, match=r"There is no run 'nobody'.*Runs here: made"):
        audit("nobody", store=made.url)
