"""A run as one page of Markdown for somebody who knows nothing else of it: what it is, where it is, how it goes.

Contract: pure over a summary and a few facts of the process; shows what is committed. Texts from configuration are
escaped. ``FEM_BROWSE_URL`` names the rationale browser, where there is one; nothing is linked without it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from fem_core.report.summary import Summary, markdown
from fem_core.report.text import md, printable

BROWSE_URL = "FEM_BROWSE_URL"
"""Environment variable with the rationale browser's URL, such as http://127.0.0.1:8765."""

METHOD = (
    "Filtered EM teaches a language model to reason: an iteration draws rationales with the model of the iteration before "
    "(sample), keeps those that end in the right answer (filter), trains on them (train), and asks the new model the "
    "held-out problems (evaluate). Accuracy is on held-out problems, utilization the share of training problems with a "
    "rationale, rationale tokens their mean length."
)


@dataclass(frozen=True)
class Surroundings:
    """What the process knows and the store does not."""

    store: str
    """URL of the store, without secrets."""
    engine_log: str
    """The engine host's log on the machine that runs."""
    machine: str
    """That machine's name."""


def page(summary: Summary, warnings: Sequence[str], around: Surroundings) -> str:
    """The whole page.

    Args:
        warnings: lines of Markdown (``signatures.lines``).
    """
    config = summary.record.config
    name = summary.record.name
    store = f"{around.store.rstrip('/')}/runs/{name}"
    facts = [
        f"**State:** {state(summary)}",
        f"**Base model:** {code(str(summary.record.places.get('model.source', '-')))}, "
        f"{config['train']['method']} fine-tuning at {config['train']['learning_rate']:g}",
        f"**Store:** {code(store)}",
        f"**Runs on:** {code(around.machine)}; the engine's own log is {code(around.engine_log)} there",
        f"**In a terminal:** {code(f'fem show {name} --store {around.store}')} has the same; where this run has ended, "
        f"{code(f'fem resume {name} --store {around.store}')} continues it",
    ]
    if linked := links(summary):
        facts.append(f"**Browse:** {linked}")
    return "\n\n".join([markdown(summary, warnings, [f"- {fact}" for fact in facts]), METHOD])


def state(summary: Summary) -> str:
    """How far a run is, in words."""
    scored = sum(row.iteration > 0 and row.scores is not None for row in summary.rows)
    trained = sum(row.iteration > 0 and row.trained is not None for row in summary.rows)
    if not summary.iterations:
        return "finished: the base model is scored" if summary.finished else "the base model is to be scored"
    if summary.finished:
        return f"finished: all of {summary.iterations} iterations are trained and scored"
    words = f"{trained} of {summary.iterations} iterations are trained, {scored} scored"
    last = summary.rows[-1]
    if last.iteration and last.trained is None:
        words += f"; iteration {last.iteration} is {'filtered and to be trained' if last.filtered else 'drawn'}"
    return words


def links(summary: Summary) -> str:
    """The rationale browser's pages of a run; empty where no browser is named."""
    base = os.environ.get(BROWSE_URL, "").strip().rstrip("/")
    if not base.startswith(("http://", "https://")):
        return ""
    run = f"{quote(base, safe=':/?&=%#@[]~')}/runs/{quote(summary.record.name)}"
    pages = [f"[the run]({run})"]
    pages += [
        f"[rationales of iteration {row.iteration}]({run}/iterations/{row.iteration}/attempts)"
        for row in summary.rows
        if row.iteration and row.filtered
    ]
    return ", ".join(pages)


def code(text: str) -> str:
    """Text as it stands in a code span; backticks, of which paths have none, are left out."""
    clean = printable(" ".join(text.split())).replace("`", "")
    return f"`{clean}`" if clean else md("-")
