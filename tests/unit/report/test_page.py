"""The page that a flow run shows to somebody who knows nothing else of it."""

from pathlib import Path

import pytest
from made_run import made_config, make_run

from fem_core.report.page import BROWSE_URL, Surroundings, links, page, state
from fem_core.report.summary import summarise
from fem_core.store.store import Store

AROUND = Surroundings("/somewhere/a store", "/cache/logs/made-engine.log", "a-machine")


def test_the_page_says_what_where_and_how_it_goes(made_folder: Path, tmp_path: Path) -> None:
    whole = summarise(Store.open(str(made_folder)), "made")
    text = page(whole, ["- a warning"], AROUND)
    for said in (
        "### made: star on table, 2 iterations, seed 0, finished",
        "- a warning",
        "finished: all of 2 iterations are trained and scored",
        "`/somewhere/a store/runs/made`",
        "`/cache/logs/made-engine.log`",
        "`fem resume made --store /somewhere/a store`",
        "held-out problems",
    ):
        assert said in text
    part = Store.open(str(tmp_path / "part"))
    make_run(part, iterations=1)
    assert state(summarise(part, "made")) == "1 of 2 iterations are trained, 1 scored"
    base = Store.open(str(tmp_path / "base"))
    make_run(base, made_config(scheme={"name": "none"}))
    assert state(summarise(base, "made")) == "finished: the base model is scored"


def test_links_are_there_only_where_a_browser_is_named(made_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summarise(Store.open(str(made_folder)), "made")
    monkeypatch.delenv(BROWSE_URL, raising=False)
    assert links(summary) == "" and "Browse" not in page(summary, [], AROUND)
    monkeypatch.setenv(BROWSE_URL, "javascript:alert(1)")
    assert links(summary) == ""
    monkeypatch.setenv(BROWSE_URL, "http://127.0.0.1:8484/")
    assert links(summary) == (
        "[the run](http://127.0.0.1:8484/runs/made), "
        "[rationales of iteration 1](http://127.0.0.1:8484/runs/made/iterations/1/attempts), "
        "[rationales of iteration 2](http://127.0.0.1:8484/runs/made/iterations/2/attempts)"
    )
