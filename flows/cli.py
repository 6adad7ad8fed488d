"""The `fem` command.

Contract: a mistake of the user's is one sentence on stderr and exit code 2; a run that failed is exit code 1 and the
command that continues it. Heavy imports happen inside the commands, so `fem --help` and configuration errors answer
at once.
"""

import asyncio
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import cyclopts
from cyclopts import App

from fem_core.config import RunConfig, load_config
from fem_core.errors import FemError
from flows.commands.options import DEFAULT_STORE, RunName, Set, StoreUrl

app = App(
    name="fem",
    help="Make a language model learn to reason by expectation maximization, with a record of everything.",
    version_flags=["--version"],
)


def resolve(config: Path, run: str | None, store: str | None, overrides: tuple[str, ...]) -> RunConfig:
    """The configuration of a command line."""
    places = {name: value for name, value in (("name", run), ("store", store)) if value is not None}
    return load_config(config, overrides, **places)


@app.command
def run(config: Path, *, run: RunName = None, store: StoreUrl = None, set_: Set = (), dry_run: bool = False) -> None:
    """Run, or continue, the EM loop that a configuration describes.

    Parameters
    ----------
    config
        YAML file; docs/configuration.md lists its fields.
    run
        Name of the run in the store; the file's name by default. The same name continues the run.
    store
        Folder or URL of the store; the configuration's by default.
    set_
        Override a field, such as ``--set scheme.name=rs``; may be repeated.
    dry_run
        Show the configuration, the steps with their keys, and which are done; write nothing.
    """
    resolved = resolve(config, run, store, set_)
    if dry_run:
        from flows.plan import show_plan

        show_plan(resolved)
        return
    _quiet_prefect()
    from prefect.exceptions import TerminationSignal
    from rich.console import Console

    from flows.fem import fem
    from flows.terminal import follower
    from tasks.step import LISTENER

    console = Console()
    again = shlex.join(["fem", "run", *sys.argv[2:]])
    with follower(console) as listener:
        LISTENER.set(listener)
        try:
            asyncio.run(fem(resolved))
        except FemError:
            raise
        except (KeyboardInterrupt, TerminationSignal) as stop:
            code = 130 if isinstance(stop, KeyboardInterrupt) else 143
            _leave(f"Stopped. What is committed is kept; continue with: {again}", code)
        except Exception as error:  # noqa: BLE001 (told in a sentence, its traceback kept in a file)
            log = _keep_traceback(resolved.name or "fem")
            _leave(f"The run failed: {_sentence(error)}\nThe traceback is in {log}. Continue with: {again}", 1)
    show(resolved.name or "fem", store=resolved.store)
    _look_further(resolved)


@app.command
def preview(config: Path, *, set_: Set = ()) -> None:
    """Show the plain and hinted prompts of three problems and one training text; draws nothing.

    Parameters
    ----------
    config
        YAML file.
    set_
        Override a field; may be repeated.
    """
    from fem_core.model import default_cache, resolve_model
    from fem_core.preview import check_lengths, examples
    from fem_core.problems.registry import load
    from fem_core.prompts import ChatTokens

    resolved = resolve(config, None, None, set_)
    problems = load(resolved.problems, resolved.seed)
    model = resolve_model(resolved.model, default_cache())
    tokens = ChatTokens(model.path, resolved.model.trust_remote_code)
    lengths = check_lengths(resolved, problems.train, problems.test, tokens, model.context_length)
    for example in examples(resolved, problems.train, tokens):
        for name, text in (("plain", example.plain), ("hinted", example.hinted)):
            print(
                f"--- problem {example.problem_id}, answer {example.answer!r}, {name} sampling prompt ---\n{_safe(text)}\n"
            )
    first = examples(resolved, problems.train, tokens, 1)[0]
    print(f"--- problem {first.problem_id}, training text ---\n{_safe(first.training)}\n")
    print(
        f"{len(problems.train)} training and {len(problems.test)} test problems; longest prompt {lengths.longest_prompt} "
        f"tokens, with completion {lengths.longest_sequence} of {model.context_length}."
    )


@app.command
def show(run: str, *, store: StoreUrl = None) -> None:
    """Show the table of a run, finished or not.

    Parameters
    ----------
    run
        Name of the run.
    store
        Folder or URL of the store; ./fem-store by default.
    """
    from rich.console import Console
    from rich.table import Table

    from fem_core.report.summary import HEADERS, cells, notes, summarise, title
    from fem_core.store.store import Store

    summary = summarise(Store.open(store or DEFAULT_STORE, check=False), run)
    table = Table(box=None, pad_edge=False)
    for header in HEADERS:
        table.add_column(header, justify="right" if header != "iteration" else "left", no_wrap=True)
    for row in cells(summary):
        table.add_row(*row)
    print(title(summary))
    Console(width=max(Console().width, 140), highlight=False).print(table)  # a narrow terminal wraps, and hides nothing
    for note in notes(summary):
        print(note)


@app.command
def doctor(*, store: StoreUrl = None) -> None:
    """Say what is installed, which device and store are used, what would fail, and how to mend it.

    Parameters
    ----------
    store
        Folder or URL of the store to try; ./fem-store by default.
    """
    from flows.doctor import examine

    findings = examine(store or DEFAULT_STORE)
    for finding in findings:
        print(f"{finding.state:4}  {finding.what}" + (f"\n      {finding.mend}" if finding.mend else ""))
    if any(finding.state == "FAIL" for finding in findings):
        raise SystemExit(1)


def _quiet_prefect() -> None:
    """The terminal belongs to the run's own lines; Prefect's log goes to its server."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _look_further(config: RunConfig) -> None:
    store = str(Path(config.store).resolve()) if "://" not in config.store else config.store
    name = config.name or "fem"
    python = shlex.quote(sys.executable)
    query = f"select iteration, prompt_kind, count(*) from '{store}/runs/{name}/iteration=*/rationales/*.parquet' group by all"
    print(
        "\nLook further:\n"
        f"  {shlex.quote(str(Path(sys.executable).with_name('fem')))} show {name} --store {shlex.quote(store)}\n"
        f'  {python} -c "import duckdb; duckdb.sql(\\"{query}\\").show()"\n'
        f"  {python} -m prefect server start    # then open http://127.0.0.1:4200/runs\n"
        f"The curves are in {store}/runs/{name}/report/curves.svg"
    )


def _keep_traceback(name: str) -> Path:
    from fem_core.model import default_cache

    log = default_cache() / "logs" / f"{name}-error.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(traceback.format_exc(), encoding="utf-8")
    return log


def _sentence(error: Exception) -> str:
    return _safe(" ".join(str(error).split())) or type(error).__name__


def _safe(text: str) -> str:
    return "".join(c for c in text if c.isprintable() or c == "\n")


def _leave(text: str, code: int) -> NoReturn:
    """Say it and go at once: Prefect's exit handlers would wait for a server that the same Ctrl-C may have ended."""
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if "prefect.server.api.server" in sys.modules:
        servers = sys.modules["prefect.server.api.server"].SubprocessASGIServer._instances
        for server in list(servers.values()):
            server.stop()
    os._exit(code)


def main() -> None:
    """Entry point of the `fem` command."""
    try:
        app(exit_on_error=False)
    except FemError as error:
        _leave(_safe(str(error)), 2)
    except cyclopts.CycloptsError:
        raise SystemExit(2) from None  # cyclopts has printed what is wrong


if __name__ == "__main__":
    main()
