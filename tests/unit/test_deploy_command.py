"""`fem deploy` where something is wrong: one sentence, before anything is registered."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from fem_core.config_files import load_config
from fem_core.errors import FemError
from flows.commands.deploy import Overlap, deploy, deployment_of

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server's URL at which nothing answers. Prefect read the environment when it was imported, so it is told, too."""
    url = "http://127.0.0.1:9/api"
    monkeypatch.setenv("PREFECT_API_URL", url)
    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield url


def test_without_a_server_that_stays_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(FemError, match=r"^Deployments need a Prefect server that stays\. Start one with `make up`"):
        deploy()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cron": "every night"}, "The schedule 'every night' in 'UTC' cannot be"),
        ({"cron": "0 2 * * *", "timezone": "Europe/Berlinn"}, "in 'Europe/Berlinn' cannot be"),
        ({"timezone": "MEZ+1"}, "in 'MEZ+1' cannot be"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(closed: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(FemError, match=re.escape(said)):
        deploy(DEMO, **given)


def test_a_schedule_needs_a_configuration(closed: str) -> None:
    with pytest.raises(FemError, match=r"^--name, --set and --cron describe a deployment of a configuration\."):
        deploy(cron="0 2 * * *")


def test_a_mistake_in_the_configuration_is_found_before_the_server_is_asked(closed: str) -> None:
    with pytest.raises(FemError, match=r"sample\.max_tokens: "):
        deploy(DEMO, set_=("sample.max_tokens=0",))


@pytest.mark.parametrize(
    ("cron", "overlap", "strategy"),
    [
        (None, None, None),
        ("0 2 * * *", None, "ENQUEUE"),
        ("0 2 * * *", "skip", "CANCEL_NEW"),
        (None, "queue", "ENQUEUE"),
        (None, "skip", "CANCEL_NEW"),
    ],
)
def test_runs_are_done_one_at_a_time_where_that_is_asked_for(
    cron: str | None, overlap: Overlap | None, strategy: str | None
) -> None:
    made = deployment_of(load_config(DEMO, ()), "demo", cron, "UTC", overlap, "fem")
    assert made.concurrency_limit == (None if strategy is None else 1)
    options = made.concurrency_options
    assert (options and options.collision_strategy.value) == strategy


def test_a_server_that_does_not_answer_is_named(closed: str) -> None:
    with pytest.raises(FemError, match=rf"^No Prefect server answers at {closed}\."):
        deploy(DEMO)


class Busy(BaseHTTPRequestHandler):
    """What a Prefect server on SQLite answers while others write."""

    def do_POST(self) -> None:
        self.send_response(503)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_server_that_is_busy_is_a_sentence(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        with temporary_settings({PREFECT_API_URL: url}):
            with pytest.raises(FemError, match=rf"^The Prefect server at {url} did not do it: .*503.* Try it again\."):
                deploy(DEMO)
            server.shutdown()
