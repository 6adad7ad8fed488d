"""Every prompt of a run before anything is drawn: examples for people, and the check that all of them fit the model.

Contract: the lengths are those of the very prompts that the run will use; nothing is ever cut silently.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fem_core import families
from fem_core.config import PromptsConfig, RunConfig
from fem_core.errors import FemError
from fem_core.evaluate.bound import direct_text
from fem_core.hints import Others, others
from fem_core.problems.answers import answer_text
from fem_core.problems.problem import Problem
from fem_core.prompts import ChatTokens, PromptKind, completion, longest_prompt, messages
from fem_core.sample.given import given_text, is_given
from fem_core.sample.schemes import plan_of

VERSION = 1
"""Of the prepare step: raised when the same source would give other problems or prompts."""

_TRAINING = "training prompts"


@dataclass(frozen=True)
class Example:
    """One problem as the model sees it."""

    problem_id: str
    answer: str
    plain: str
    """The sampling prompt without a hint, through the chat template."""
    hinted: str
    """The sampling prompt with the hint; empty where the hint cannot be given and the scheme shows none."""
    training: str
    """The training text: the plain training prompt and a completion, the given one or in the form of an accepted draw;
    empty where the problem is not trained on."""


@dataclass(frozen=True)
class Lengths:
    """Tokens that the engine must have room for."""

    longest_prompt: int
    longest_sequence: int


def described(prompts: PromptsConfig) -> str:
    """Where the words come from, and what the hint shows: ``family number with another plain; hint: answer``."""
    if prompts.family is None or prompts.family not in families.names():
        return f"no family; hint: {prompts.hint}"
    words = families.read(prompts.family)
    theirs = {"system": words.system, "plain": words.plain, "hinted": words.hinted[prompts.hint]}
    own = [name for name, text in theirs.items() if getattr(prompts, name) != text]
    changed = f" with another {' and '.join(own)}" if own else ""
    return f"family {prompts.family}{changed}; hint: {prompts.hint}"


def examples(config: RunConfig, problems: Sequence[Problem], tokens: ChatTokens, count: int = 3) -> list[Example]:
    """The first training problems, rendered through the model's chat template.

    Args:
        problems: all training problems: a hint may show answers of others.
    """
    shown = config.prompts
    known = others(shown, problems, config.seed)
    return [
        Example(
            problem_id=problem.problem_id,
            answer=answer_text(problem),
            plain=tokens.text(messages(shown, problem, "plain", shown.sample_exemplars)),
            hinted=_hinted(config, problem, tokens, known),
            training=_training(config, problem, tokens),
        )
        for problem in problems[:count]
    ]


def _hinted(config: RunConfig, problem: Problem, tokens: ChatTokens, known: Others | None) -> str:
    try:
        return tokens.text(messages(config.prompts, problem, "hinted", config.prompts.sample_exemplars, known))
    except FemError:
        if "hinted" in plan_of(config.scheme).kinds:
            raise
        return ""


def _training(config: RunConfig, problem: Problem, tokens: ChatTokens) -> str:
    text: str | None = f"{problem.rationale or '<rationale>'}\nAnswer: {answer_text(problem)}"
    if is_given(config.scheme):
        text = given_text(config.scheme, problem)
    if text is None or config.scheme.name == "none":
        return ""
    prompt = messages(config.prompts, problem, "plain", config.prompts.train_exemplars)
    return tokens.text(prompt + completion(text), open_assistant=False)


def examples_json(found: Sequence[Example]) -> list[dict[str, str]]:
    """The same as plain JSON values."""
    return [asdict(example) for example in found]


def check_lengths(
    config: RunConfig, train: Sequence[Problem], test: Sequence[Problem], tokens: ChatTokens, context: int
) -> Lengths:
    """Measure every prompt of the run.

    Args:
        context: the model's context, tokens; ``sample.engine.max_model_len`` narrows it.

    Raises:
        FemError: prompts that do not fit, with counts.
    """
    shown = config.prompts
    room = min(context, config.sample.engine.max_model_len or context)
    draw_tokens = config.sample.max_tokens
    score_tokens = config.evaluate.max_tokens or draw_tokens
    uses: list[tuple[Sequence[Problem], PromptKind, int, int, str]] = [
        (train, kind, shown.sample_exemplars, draw_tokens, f"{kind} sampling prompts")
        for kind in plan_of(config.scheme).kinds
    ]
    if config.filter.looks and "plain" not in plan_of(config.scheme).kinds and not is_given(config.scheme):
        uses.append((train, "plain", shown.sample_exemplars, draw_tokens, "plain prompts of second looks"))
    uses.append((train, "plain", shown.train_exemplars, draw_tokens, _TRAINING))
    uses.append((test, "plain", shown.train_exemplars, score_tokens, "evaluation prompts"))
    if config.evaluate.exemplar_baseline and shown.sample_exemplars != shown.train_exemplars:
        uses.append((test, "plain", shown.sample_exemplars, score_tokens, "evaluation prompts with exemplars"))
    if config.evaluate.bound is not None:
        direct = max((len(tokens.closed(direct_text(problem))) for problem in train), default=0)
        uses.append((train, "hinted", shown.sample_exemplars, draw_tokens, "hinted prompts of evaluate.bound"))
        uses.append((train, "plain", shown.train_exemplars, direct, "plain prompts and answers of evaluate.bound"))
    known = others(shown, train, config.seed)
    longest_prompt_, longest_sequence = 0, 0
    for problems, kind, exemplars, needs, what in uses:
        lengths = [len(tokens.ids(messages(shown, problem, kind, exemplars, known))) for problem in problems]
        longest = longest_prompt(problems, lengths, room, what, needs)
        longest_prompt_ = max(longest_prompt_, longest)
        longest_sequence = max(longest_sequence, longest + needs)
        if what == _TRAINING and config.train.max_length is not None and not is_given(config.scheme):
            _check_rows(config.train.max_length, longest, needs)
    if is_given(config.scheme):
        _check_given(config, train, tokens, min(context, config.train.max_length or context))
    return Lengths(longest_prompt_, longest_sequence)


def _check_rows(allowed: int, longest: int, needs: int) -> None:
    if longest + needs > allowed:
        raise FemError(
            f"train.max_length is {allowed}, and a training prompt of {longest} tokens with a completion of up to {needs} "
            f"(sample.max_tokens) has {longest + needs}. Rows are never cut: raise it to that, or lower sample.max_tokens or "
            "prompts.train_exemplars."
        )


def _check_given(config: RunConfig, train: Sequence[Problem], tokens: ChatTokens, context: int) -> None:
    """Given completions are no draws that a limit ends: each must fit the context with its prompt.

    Raises:
        FemError: some do not.
    """
    texts = [(problem, text) for problem in train if (text := given_text(config.scheme, problem)) is not None]
    shown = config.prompts
    lengths = [
        len(tokens.ids(messages(shown, problem, "plain", shown.train_exemplars) + completion(text)))
        for problem, text in texts
    ]
    over = [(n, problem.problem_id) for n, (problem, _) in zip(lengths, texts, strict=True) if n > context]
    if over:
        longest, worst = max(over)
        raise FemError(
            f"{len(over)} of {len(texts)} training texts do not fit the {context} tokens of the model's context or of "
            f"train.max_length; the longest is problem {worst} with {longest}. Lower prompts.train_exemplars, drop those "
            "problems, or allow longer texts."
        )
