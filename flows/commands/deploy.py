"""`fem deploy`: register the deployments on a Prefect server, or one of a configuration of your own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fem_core.config import RunConfig
from fem_core.config_files import load_config
from fem_core.errors import FemError
from flows.commands.options import DEFAULT_STORE, PoolType, Set, StoreUrl
from flows.ending import sentence

if TYPE_CHECKING:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment

Overlap = Literal["queue", "skip"]

SHIPPED = Path(__file__).resolve().parents[2] / "deployments" / "prefect.yaml"


def deploy(
    config: Path | None = None,
    *,
    name: str | None = None,
    store: StoreUrl = None,
    set_: Set = (),
    cron: str | None = None,
    timezone: str = "UTC",
    overlap: Overlap | None = None,
    pool: str = "fem",
    pool_type: PoolType = "process",
    folder: Path = Path("."),
) -> None:
    """Register deployments on the Prefect server that PREFECT_API_URL names: fem, compare and audit, or one of your own.

    Parameters
    ----------
    config
        YAML file of a run, for a deployment of its own; without it the three of deployments/prefect.yaml.
    name
        Name of that deployment; the file's name by default. Its runs are called after it, the time and their parameters.
    store
        Folder or URL of the store; the configuration's, or ./fem-store, by default.
    set_
        Override a field of the configuration; may be repeated.
    cron
        When to run that deployment, such as ``--cron "0 2 * * *"``; only by hand without it.
    timezone
        Of the schedules, such as Europe/Berlin.
    overlap
        What becomes of a run of that deployment that is to begin while its last is not finished: ``queue`` lets it wait,
        ``skip`` cancels it. With a schedule ``queue`` by default; by hand, without it, both run.
    pool
        Work pool that does the runs; made if it is not there.
    pool_type
        Its type: process (on the worker's machine), docker or kubernetes.
    folder
        Where runs of a process pool work.
    """
    if not os.environ.get("PREFECT_API_URL"):
        raise FemError(
            "Deployments need a Prefect server that stays. Start one with `make up`, or name yours: "
            "export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    _check(timezone, cron)
    if config is None and (name or set_ or cron):
        raise FemError("--name, --set and --cron describe a deployment of a configuration. Name its file, too.")
    read = None if config is None else load_config(config, set_, **({} if store is None else {"store": store}))
    with _answered():
        asyncio.run(_prepare(pool, pool_type, folder.resolve()))
        if config is None or read is None:
            _shipped(pool, store or DEFAULT_STORE, timezone)
        else:
            _own(read, name or config.stem, cron, timezone, overlap, pool)


@contextmanager
def _answered() -> Iterator[None]:
    """Say in a sentence that the server answered with an error.

    Raises:
        FemError: it did.
    """
    from prefect.deployments.runner import DeploymentApplyError
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except (PrefectHTTPStatusError, DeploymentApplyError) as error:
        raise FemError(
            f"The Prefect server at {os.environ['PREFECT_API_URL']} did not do it: {sentence(error)}. A server may be busy "
            "for a minute, and its log says more. Try it again."
        ) from error


def version() -> str:
    """What deployments have as their version: the git commit, ``+`` with changes; the package's version elsewhere."""
    from fem_core.store import provenance

    code = provenance.code()
    if code["commit"] is None:
        return str(code["version"])
    return str(code["commit"])[:12] + ("+" if code["dirty"] else "")


def _check(timezone: str, cron: str | None) -> None:
    """Raises FemError: there is no such time zone or cron line."""
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    try:
        CronSchedule(cron=cron or "0 0 * * *", timezone=timezone)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise FemError(
            f"The schedule {cron!r} in {timezone!r} cannot be: {said}. Write for example "
            '--cron "0 2 * * *" --timezone Europe/Berlin.'
        ) from error


async def _prepare(pool: str, pool_type: PoolType, folder: Path) -> None:
    import httpx
    from prefect.client.orchestration import get_client

    from flows import server

    try:
        async with get_client() as client:
            made = await server.work_pool(client, pool, pool_type, folder)
            await server.zombies(client)
    except httpx.TransportError as error:
        raise FemError(
            f"No Prefect server answers at {os.environ['PREFECT_API_URL']}. Start it, or correct PREFECT_API_URL."
        ) from error
    if made:
        print(f"work pool {pool}: made, type {pool_type}")


def _shipped(pool: str, store: str, timezone: str) -> None:
    """What deployments/prefect.yaml says, read by Prefect itself."""
    said = {"FEM_POOL": pool, "FEM_STORE": store, "FEM_TIMEZONE": timezone, "FEM_VERSION": version()}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(SHIPPED)]
    done = subprocess.run(prefect, env={**os.environ, **said}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FemError(f"Prefect did not take {SHIPPED}: {done.stdout.strip()[-1500:]}{done.stderr.strip()[-1500:]}")
    for one in ("fem/fem", "compare/compare", "audit/audit"):
        print(f"deployment {one}: version {said['FEM_VERSION']}, store {store}, pool {pool}")


def _own(config: RunConfig, name: str, cron: str | None, timezone: str, overlap: Overlap | None, pool: str) -> None:
    deployment_of(config, name, cron, timezone, overlap, pool).apply()
    when = f"{cron} {timezone}" if cron else "by hand"
    print(f"deployment fem/{name}: version {version()}, store {config.store}, pool {pool}, runs {when}")


def deployment_of(
    config: RunConfig, name: str, cron: str | None, timezone: str, overlap: Overlap | None, pool: str
) -> "RunnerDeployment":
    """A deployment whose parameters are a configuration. Its runs get names of their own: see flows/naming.py."""
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    from flows.fem import fem

    parameters = {"config": config.model_dump(mode="json", exclude_unset=True) | {"name": None}}
    schedules: list[Any] = [] if cron is None else [CronSchedule(cron=cron, timezone=timezone)]
    made: RunnerDeployment = RunnerDeployment.from_flow(
        fem,
        name,
        parameters=parameters,
        schedules=schedules,
        concurrency_limit=_at_a_time(overlap or ("queue" if cron else None)),
        tags=["fem"],
        version=version(),
        work_pool_name=pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return made


def _at_a_time(overlap: Overlap | None) -> "ConcurrencyLimitConfig | None":
    """One run at a time where that was asked for, and no limit elsewhere: a run holds its slot by a lease, and where the
    server is away at the time to renew it, Prefect ends the run."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    if overlap is None:
        return None
    strategy = ConcurrencyLimitStrategy.ENQUEUE if overlap == "queue" else ConcurrencyLimitStrategy.CANCEL_NEW
    return ConcurrencyLimitConfig(limit=1, collision_strategy=strategy)
