"""Schemes as plans: hand-computed cases, and what holds for every plan and every outcome."""

from hypothesis import given
from hypothesis import strategies as st

from fem_core.config import SchemeConfig
from fem_core.sample.schemes import EVALUATION, Plan, Stage, next_draws, plan_of


def walk(plan: Plan, outcomes: list[bool]) -> list[tuple[str, bool]]:
    """Draw until the problem settles; outcome n is that of draw n."""
    drawn: list[tuple[str, bool]] = []
    while kinds := next_draws(plan, [accepted for _, accepted in drawn]):
        for kind in kinds:
            drawn.append((kind, outcomes[len(drawn)]))
    return drawn


def kinds(plan: Plan, *outcomes: bool) -> str:
    return " ".join(kind for kind, _ in walk(plan, [*outcomes, *[False] * 20]))


def test_rejection_sampling_draws_plain_until_accepted_or_spent() -> None:
    rs = plan_of(SchemeConfig(name="rs", budget=3))
    assert kinds(rs, True) == "plain"
    assert kinds(rs, False, True) == "plain plain"
    assert kinds(rs) == "plain plain plain"


def test_star_hints_only_what_plain_got_wrong() -> None:
    star = plan_of(SchemeConfig(name="star"))
    assert kinds(star, True) == "plain"
    assert kinds(star, False, True) == "plain hinted"
    assert kinds(star) == "plain hinted"
    wide = plan_of(SchemeConfig(name="star", budget=2, hinted_budget=2))
    assert kinds(wide, False, True) == "plain plain"
    assert kinds(wide, False, False, False, True) == "plain plain hinted hinted"


def test_pps_always_hints() -> None:
    assert kinds(plan_of(SchemeConfig(name="pps"))) == "hinted"
    assert kinds(plan_of(SchemeConfig(name="pps", budget=2)), False, True) == "hinted hinted"


def test_defaults_of_the_budget() -> None:
    assert [plan_of(SchemeConfig(name=name)).budget for name in ("rs", "star", "pps")] == [4, 2, 1]
    assert kinds(EVALUATION) == "plain"


def test_keep_all_spends_the_budget_of_a_stage() -> None:
    rs = plan_of(SchemeConfig(name="rs", budget=3, keep="all"))
    assert kinds(rs, True) == "plain plain plain"
    assert next_draws(rs, []) == ("plain",) * 3
    star = plan_of(SchemeConfig(name="star", budget=2, hinted_budget=2, keep="all"))
    assert kinds(star, False, True) == "plain plain"
    assert kinds(star) == "plain plain hinted hinted"


plans = st.builds(
    Plan,
    st.lists(st.builds(Stage, st.sampled_from(["plain", "hinted"]), st.integers(1, 4)), min_size=1, max_size=3).map(
        tuple
    ),
    st.sampled_from(["first", "all"]),
)


@given(plans, st.lists(st.booleans(), min_size=12, max_size=12))
def test_no_plan_draws_more_than_its_budget(plan: Plan, outcomes: list[bool]) -> None:
    assert 1 <= len(walk(plan, outcomes)) <= plan.budget


@given(plans, st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_problem_stops_at_its_first_acceptance(plan: Plan, outcomes: list[bool]) -> None:
    accepted = [a for _, a in walk(Plan(plan.stages, "first"), outcomes)]
    assert True not in accepted[:-1]


@given(plans, st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_later_stage_follows_only_a_stage_without_acceptance(plan: Plan, outcomes: list[bool]) -> None:
    drawn = walk(plan, outcomes)
    spent = 0
    for stage in plan.stages:
        later = drawn[spent + stage.budget :]
        if later:
            assert not any(accepted for _, accepted in drawn[: spent + stage.budget])
        spent += stage.budget
