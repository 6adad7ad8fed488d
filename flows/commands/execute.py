"""Runs the flow in this process, with people watching: what `fem run`, `fem resume` and `fem fork` share.

Contract: a run that is in the store says first what it has and what is to be done; a mistake of the user's leaves as
``FemError``; a stop and a failure end the process with the command that continues the run.
"""

import asyncio
import os
import shlex
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fem_core.config import RunConfig
from fem_core.errors import FemError
from flows.commands.show import show
from flows.ending import leave, part, sentence

if TYPE_CHECKING:
    from fem_core.store.fork import Parent


def execute(config: RunConfig, parent: "Parent | None" = None) -> None:
    """Run the EM loop to its end and show what came out.

    Args:
        parent: where a fork that is to begin starts from.

    Raises:
        FemError: a mistake that the user can mend.
    """
    quiet_prefect()
    from prefect.exceptions import CancelledRun, TerminationSignal
    from rich.console import Console

    from flows.credentials import provide
    from flows.fem import engine_ahead, fem
    from flows.plan import announce
    from flows.terminal import follower
    from tasks.step import LISTENER

    name = config.name or "fem"
    asyncio.run(provide(config))
    drawing = announce(config, parent)
    again = _again(config)
    with follower(Console()) as listener, engine_ahead(name) if drawing else nullcontext():
        LISTENER.set(listener)
        provide_server()
        try:
            asyncio.run(fem(config))
        except FemError:
            raise
        except (KeyboardInterrupt, TerminationSignal) as stop:
            code = 130 if isinstance(stop, KeyboardInterrupt) else 143
            leave(f"Stopped. What is committed is kept; continue with: {again}", code)
        except CancelledRun:
            leave(f"Cancelled in the Prefect UI. What is committed is kept; continue with: {again}", 1)
        except Exception as error:  # noqa: BLE001 (told in a sentence, its traceback kept in a file)
            log = keep_traceback(name)
            leave(f"The run failed: {sentence(error)}\nThe traceback is in {log}. Continue with: {again}", 1)
    show(name, store=config.store)
    _look_further(config)
    part("the run is complete in its store.", 0)


def _again(config: RunConfig) -> str:
    """The command that continues; before the run is in the store only the same command does."""
    if sys.argv[1:2] == ["run"]:
        return shlex.join(["fem", *sys.argv[1:]])
    return shlex.join(["fem", "resume", config.name or "fem", "--store", config.store])


def quiet_prefect() -> None:
    """The terminal belongs to the run's own lines; Prefect's log goes to its server."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Where no server is named, one is started for the run; on a busy machine that takes longer than the usual 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")


def provide_server() -> None:
    """Have Prefect start our own temporary server where none is named and it has started none."""
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        from flows.temporary_server import TemporaryServer

        TemporaryServer()  # Prefect takes the one that there is


def _look_further(config: RunConfig) -> None:
    store = str(Path(config.store).resolve()) if "://" not in config.store else config.store
    name = config.name or "fem"
    python = shlex.quote(sys.executable)
    query = f"select iteration, prompt_kind, count(*) from '{store}/runs/{name}/iteration=*/rationales/*.parquet' group by all"
    reach = "import duckdb; "
    if "://" in store:
        scheme = store.partition("://")[0]
        reach = f"import duckdb, fsspec; duckdb.register_filesystem(fsspec.filesystem('{scheme}')); "
    print(
        "\nLook further:\n"
        f"  {shlex.quote(str(Path(sys.executable).with_name('fem')))} show {name} --store {shlex.quote(store)}\n"
        f'  {python} -c "{reach}duckdb.sql(\\"{query}\\").show()"\n'
        f"  {python} -m prefect server start    # then open http://127.0.0.1:4200/runs\n"
        f"The curves are in {store}/runs/{name}/report/curves.svg"
    )


def keep_traceback(name: str) -> Path:
    """Put the traceback of what is being handled in a file, so that a sentence can stand for it."""
    from fem_core.model import default_cache

    log = default_cache() / "logs" / f"{name}-error.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(traceback.format_exc(), encoding="utf-8")
    return log
