"""The prompt of an attempt as the model saw it, with what it takes from the hint marked.

Contract: rendered by the run's own code (``prompts.messages``) from its configuration and problems, and through the base
model's chat template where its tokenizer is at hand. The template is wrapped, not the text searched, so that an answer
which the question happens to contain is not taken for the hint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup

from fem_core.audit.ledger import Ledger
from fem_core.audit.tokenizer import NoTokenizer, load
from fem_core.browse.marks import hinted
from fem_core.browse.rows import Attempt
from fem_core.config import PromptsConfig
from fem_core.errors import FemError
from fem_core.hints import others
from fem_core.problems.problem import Problem, from_table
from fem_core.prompts import ChatTokens, Message, PromptKind, messages
from fem_core.store.manifest import Manifest
from fem_core.store.store import Store

DRAWN = ("plain", "hinted")
"""Kinds of attempts that a prompt drew; what is given saw none."""


@dataclass(frozen=True)
class Chat:
    """A prompt as messages, with ``between`` around what comes from the hint."""

    messages: Sequence[Message]
    between: str
    """Two private characters that are nowhere else in it."""

    @property
    def bare(self) -> list[Message]:
        """What the model was given."""
        return [{"role": one["role"], "content": self.without(one["content"])} for one in self.messages]

    def without(self, text: str) -> str:
        """A text without ``between``."""
        return text.replace(self.between[0], "").replace(self.between[1], "")


def chat(config: Mapping[str, Any], problem: Problem, kind: str, exemplars: int, train: Sequence[Problem] = ()) -> Chat:
    """The prompt of an attempt.

    Args:
        config: the run's configuration.
        train: all training problems, which hints with candidates need.

    Raises:
        FemError: the hint cannot be given.
    """
    shown = PromptsConfig.model_validate(config["prompts"])
    known = others(shown, train, int(config["seed"]))
    exact = messages(shown, problem, cast(PromptKind, kind), exemplars, known)
    used = {character for message in exact for character in message["content"]}
    start, end = islice((one for one in map(chr, range(0xE000, 0xF8FF)) if one not in used), 2)
    wrapped = shown.hinted
    for name in ("{answer}", "{candidates}", "{solution}"):
        wrapped = wrapped.replace(name, f"{start}{name}{end}")
    prompts = shown.model_copy(update={"hinted": wrapped})
    return Chat(messages(prompts, problem, cast(PromptKind, kind), exemplars, known), start + end)


def from_row(config: Mapping[str, Any], row: Attempt) -> Chat | None:
    """The messages from what a page of many has at hand; None where a hint shows more than y*, or nothing was drawn.

    A prompt holds the question with its choices, and of the rest of a problem only what the hint shows.
    """
    if row.prompt_kind not in DRAWN or not row.question:
        return None
    if row.prompt_kind == "hinted" and PromptsConfig.model_validate(config["prompts"]).hint != "answer":
        return None
    problem = Problem(row.problem_id, row.question, None, row.label, "text", None, "", None)
    return chat(config, problem, row.prompt_kind, row.exemplars)


def from_store(store: Store, config: Mapping[str, Any], row: Attempt, problems: Manifest) -> Chat:
    """The messages of any attempt that was drawn. Reads the problems.

    Args:
        problems: the side that the problem is on.

    Raises:
        FemError: the problem is not there, or a file does not hold.
    """
    found = [problem for table in store.iter_tables(problems) for problem in from_table(table)]
    mine = next((problem for problem in found if problem.problem_id == row.problem_id), None)
    if mine is None:
        raise FemError(f"The problem {row.problem_id} is not in {problems.artifact}. Audit the run: fem audit.")
    return chat(config, mine, row.prompt_kind, row.exemplars, found)


def marked(shown: Chat) -> list[tuple[str, Markup]]:
    """Role and content of each message."""
    return [(message["role"], hinted(message["content"], shown.between)) for message in shown.messages]


def tokenizer(store: Store, model: Manifest, run: str, cache: Path) -> ChatTokens | str:
    """The tokenizer of a run's base model, or why there is none. Takes seconds: imports transformers."""
    ledger = Ledger(store)
    for manifest in store.artifacts(run):
        if manifest.kind == "checkpoint":
            ledger.manifest(manifest.artifact)  # a checkpoint holds the same files
    try:
        return load(ledger, model, cache)
    except NoTokenizer as error:
        return str(error)


def rendered(tokens: ChatTokens, shown: Chat) -> tuple[Markup, int]:
    """The text that the tokenizer was given, and how many tokens it is. Hints are marked where the template leaves texts
    as they are."""
    exact, marked_ = tokens.text(shown.bare), tokens.text(shown.messages)
    whole = shown.without(marked_) == exact
    return hinted(marked_ if whole else exact, shown.between), len(tokens.ids(shown.bare))
