"""Names of runs that nobody has named."""

from datetime import UTC, datetime, timedelta

from fem_core.config import RunConfig
from fem_core.config_files import parse_config
from flows.naming import derived, run_name

WHEN = datetime(2026, 3, 1, 2, 5, 59, tzinfo=UTC)


def config(**changes: object) -> RunConfig:
    problems = {"source": "table", "path": "sums.jsonl", "test": 2}
    return parse_config({"problems": problems} | changes)


def test_a_derived_name_says_deployment_time_and_parameters() -> None:
    name = derived("nightly", WHEN, config())
    assert name == f"nightly-20260301-020559-{config().digest()[:8]}"
    assert derived("nightly", WHEN, config(seed=1)) != name
    assert derived("nightly", WHEN - timedelta(seconds=1), config()) != name, "two firings in one minute are two"
    assert derived("nightly", WHEN, config(store="elsewhere", name="x")) == name, "places do not count"
    assert config(name=name).name == name, "it is a name that a configuration takes"


def test_any_deployment_name_gives_a_run_name_that_the_store_takes() -> None:
    for odd in ("Café ☕ / every night", "..", "---", "x" * 300, "a/b"):
        name = derived(odd, WHEN, config())
        assert config(name=name).name == name


def test_the_configurations_own_name_counts_and_without_a_deployment_it_is_fem() -> None:
    assert run_name(config(name="mine")) == "mine"
    assert run_name(config()) == "fem"
