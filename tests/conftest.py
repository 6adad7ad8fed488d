"""What every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from xdist.scheduler import LoadFileScheduling

from deployments.s3 import BUCKET, S3Server
from fem_core.store.store import Store

REPOSITORY = Path(__file__).resolve().parents[1]


ONE_RUN = ("tests/e2e/test_resume_and_fork.py", "tests/e2e/test_run.py")
"""Files whose tests look at the same run, which is made once in a worker."""


class ByFile(LoadFileScheduling):
    """A file's tests, and those of ``ONE_RUN``, go to one worker, so that what they share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return ONE_RUN[0] if file in ONE_RUN else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Files in the order of their collection: the slow ones, of tests/e2e, come first."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_configure() -> None:
    """Give each of xdist's workers a core of its own: engines and trainers size their threads by the cores they have."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the S3 server, however it asks for it: `make test-fast` leaves it out."""
    for item in items:
        values = getattr(item, "callspec", None)
        asked = set(map(str, values.params.values())) if values else set()
        if "s3_server" in getattr(item, "fixturenames", ()) or asked & {"s3", "remote"}:
            item.add_marker("s3")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the repository, where it is there."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; its endpoint and credentials are in the environment while the tests run."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    before = {name: os.environ.get(name) for name in server.environment}
    server.start()
    os.environ.update(server.environment)
    yield server
    server.kill()  # in good order it takes ten seconds, and its folder goes anyway
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(params=["local", "s3"])
def root_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root of each kind that people use."""
    if request.param == "local":
        return str(tmp_path / "root")
    request.getfixturevalue("s3_server")
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture
def real_store(root_url: str) -> Store:
    """An empty store on a local root, and one on S3."""
    return Store.open(root_url)


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local store with the run ``made`` (tests/made_run.py), made once; copy it before you change it."""
    from made_run import make_run

    folder = tmp_path_factory.mktemp("made")
    make_run(Store.open(str(folder)))
    return folder
