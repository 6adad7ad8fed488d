"""Runs whose filter decides from second looks are derived again from the recorded columns, and forged columns are found."""

from pathlib import Path
from typing import Any

import pytest
from forge import RUN, edit_rows, forge_on, manifest_of
from made_run import made_config, make_run

from fem_core.report.summary import notes, summarise
from fem_core.store.store import Store

ATTEMPTS = f"{RUN}/iteration=001/attempts"


@pytest.fixture
def looked(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"))
    config = made_config(
        scheme={"name": "pps", "budget": 4, "keep": "all"}, filter={"blind": True, "weighting": "importance"}
    )
    make_run(store, config)
    return store


def test_the_run_holds_is_derived_again_and_tells_its_effective_sample_size(looked: Store, examine: Any) -> None:
    result = examine(looked, deep=True)
    assert result.broken == () and not result.missing and {row.state for row in result.checked} == {"ok"}
    assert manifest_of(looked, ATTEMPTS).step.config["looks"] == ["plain_logprob", "blind_answer"]
    stats = manifest_of(looked, f"{RUN}/iteration=001/rationales").stats
    assert stats["verdicts"] == {"accepted": 10, "blind": 10, "outweighed": 10, "wrong_answer": 10}
    # two draws are weighed, and one is e times likelier
    share = 1 / (1 + 2.718281828459045)
    assert stats["effective_sample_size"] == pytest.approx(1 / (share**2 + (1 - share) ** 2))
    said = [note for note in notes(summarise(looked, "made")) if "Effective" in note]
    assert said == [
        "Effective sample size of the importance weights, of so many draws a problem: 1.6 of 2.0 in iteration 1, 1.6 of "
        "2.0 in iteration 2."
    ]


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        ({"blind_verdict": "accepted"}, "blind_verdict"),
        ({"blind_answer": None}, "blind_verdict"),
        ({"blind_answer": None, "blind_verdict": None}, "blind_verdict"),
        ({"plain_logprob": None}, "plain_logprob"),
    ],
)
def test_forged_looks_are_found_though_every_digest_matches(
    looked: Store, examine: Any, edit: dict[str, Any], found: str
) -> None:
    edit_rows(looked, ATTEMPTS, lambda rows: rows[1].update(edit))
    forge_on(looked)
    broken = [one for one in examine(looked, deep=True).broken if one.artifact == ATTEMPTS]
    assert [one.what.split()[0] for one in broken] == [found]


def test_another_weight_gives_other_rationales_than_those_recorded(looked: Store, examine: Any) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["plain_logprob"] is not None:
                row["plain_logprob"] = 40.0 * row["attempt"]

    edit_rows(looked, ATTEMPTS, edit)
    forge_on(looked)
    kinds = {one.artifact.rsplit("/", 1)[1] for one in examine(looked, deep=True).broken}
    assert {"verdicts", "rationales"} <= kinds
