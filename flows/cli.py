"""The `fem` command.

Contract: a mistake of the user's is one sentence on stderr and exit code 2; a run that failed is exit code 1 and the
command that continues it. Heavy imports happen inside the commands, so `fem --help` and configuration errors answer
at once.
"""

import os
import sys
from pathlib import Path

import cyclopts
from cyclopts import App

from fem_core.config import RunConfig
from fem_core.config_files import load_config
from fem_core.errors import FemError, StoreAway
from flows.commands.audit import audit
from flows.commands.browse import browse
from flows.commands.compare import compare
from flows.commands.cp import cp
from flows.commands.delete import delete
from flows.commands.deploy import deploy
from flows.commands.export import export
from flows.commands.fork import fork
from flows.commands.gc import gc
from flows.commands.lineage import lineage
from flows.commands.ls import ls
from flows.commands.options import DEFAULT_STORE, RunName, Set, StoreUrl
from flows.commands.plan import plan
from flows.commands.report import report
from flows.commands.resume import resume
from flows.commands.show import show
from flows.commands.trace import trace
from flows.ending import leave, safe

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
    from flows.commands.execute import execute

    execute(resolved)


@app.command
def preview(config: Path, *, set_: Set = (), problems_only: bool = False) -> None:
    """Show the problems' figures, the plain and hinted prompts of three of them and one training text; draws nothing.

    A control arm has no sampling prompts: of it, the three training texts are shown.

    Parameters
    ----------
    config
        YAML file.
    set_
        Override a field; may be repeated.
    problems_only
        Show the problems' figures and no prompts, for which no model is needed.
    """
    from fem_core.initial import looked_at
    from fem_core.model import default_cache
    from fem_core.preview import check_lengths, described, examples
    from fem_core.problems.profile import lines
    from fem_core.problems.registry import load
    from fem_core.prompts import ChatTokens
    from fem_core.sample.given import refuse_without_rationale
    from fem_core.sample.schemes import plan_of

    resolved = resolve(config, None, None, set_)
    problems = load(resolved.problems, resolved.seed)
    for line in (*lines(problems.train, problems.test), *problems.notes):
        print(safe(line))
    print()
    if problems_only:
        return
    refuse_without_rationale(resolved.scheme, problems.train)
    model, _ = looked_at(resolved, default_cache())
    tokens = ChatTokens(model.path, resolved.model.trust_remote_code)
    lengths = check_lengths(resolved, problems.train, problems.test, tokens, model.context_length)
    shown = examples(resolved, problems.train, tokens)
    draws = bool(plan_of(resolved.scheme).stages)
    print(f"Prompts: {described(resolved.prompts)}.\n")
    for example in shown if draws else ():
        for name, text in (("plain", example.plain), ("hinted", example.hinted)):
            print(
                f"--- problem {example.problem_id}, answer {example.answer!r}, {name} sampling prompt ---\n"
                f"{safe(text) or '(the scheme shows no hint)'}\n"
            )
    for example in shown[:1] if draws else shown:
        training = safe(example.training) or "(not trained on)"
        print(f"--- problem {example.problem_id}, training text ---\n{training}\n")
    print(
        f"{len(problems.train)} training and {len(problems.test)} test problems; longest prompt {lengths.longest_prompt} "
        f"tokens, with completion {lengths.longest_sequence} of {model.context_length}."
    )


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


app.command(plan)
app.command(show)
app.command(resume)
app.command(fork)
app.command(compare)
app.command(audit)
app.command(lineage)
app.command(trace)
app.command(browse)
app.command(report)
app.command(ls)
app.command(cp)
app.command(export)
app.command(delete)
app.command(gc)
app.command(deploy)


def main() -> None:
    """Entry point of the `fem` command."""
    try:
        app(exit_on_error=False)
    except FemError as error:
        leave(safe(str(error)), 2)
    except StoreAway as error:
        leave(safe(str(error)), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has nowhere to go
        raise SystemExit(141) from None
    except cyclopts.CycloptsError:
        raise SystemExit(2) from None  # cyclopts has printed what is wrong


if __name__ == "__main__":
    main()
