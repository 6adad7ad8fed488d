"""Plain and hinted prompts as chats, and their token ids through the model's own chat template.

Contract: one function renders every prompt, for drawing, evaluation and training alike, and the training prompt is
``messages(…, "plain", …)``: y* enters a prompt only through the hinted template. Questions and hints are data:
placeholders inside them are left as they are.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from fem_core.chat_template import load_tokenizer
from fem_core.config import PromptsConfig
from fem_core.errors import FemError
from fem_core.hints import Others, exemplar_values, values
from fem_core.problems.problem import Problem, full_question

PromptKind = Literal["plain", "hinted"]


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


def messages(
    config: PromptsConfig, problem: Problem, kind: PromptKind, exemplars: int, known: Others | None = None
) -> list[Message]:
    """The prompt of a problem, ending with the user's turn.

    Args:
        exemplars: how many of ``config.exemplars`` to show, each as a user turn of the same kind and its answer.
        known: ``hints.others`` of the training problems; a hinted prompt with candidates needs it.

    Raises:
        FemError: the hint cannot be given for this problem.
    """
    hinted, template = kind == "hinted", config.hinted if kind == "hinted" else config.plain
    chat: list[Message] = []
    if config.system is not None:
        chat.append({"role": "system", "content": config.system})
    for exemplar in config.exemplars[:exemplars]:
        hint = exemplar_values(config, exemplar, known) if hinted else {}
        chat.append({"role": "user", "content": _fill(template, exemplar.question, hint)})
        chat.append({"role": "assistant", "content": f"{exemplar.rationale}\nAnswer: {exemplar.answer}"})
    hint = values(config, problem, known) if hinted else {}
    chat.append({"role": "user", "content": _fill(template, full_question(problem), hint)})
    return chat


def completion(text: str) -> list[Message]:
    """A rationale with its answer line as the assistant's turn."""
    return [{"role": "assistant", "content": text}]


def _fill(template: str, question: str, hint: dict[str, str]) -> str:
    """All placeholders in one pass, so that a question that contains ``{answer}`` stays as it is."""
    filled = {"{question}": question} | hint
    return re.sub(r"\{[a-z]+\}", lambda match: filled.get(match.group(), match.group()), template)


class ChatTokens:
    """A model folder's tokenizer and chat template. Loads transformers' tokenizers when the first is made."""

    def __init__(self, model_dir: Path, trust_remote_code: bool = False) -> None:
        self._tokenizer = load_tokenizer(str(model_dir), trust_remote_code)
        if not self._tokenizer.chat_template:
            raise FemError(
                f"The model in {str(model_dir)!r} has no chat template. Use an instruction-tuned model, or add a "
                "chat_template.jinja to its folder."
            )

    def ids(self, chat: Sequence[Message]) -> list[int]:
        """Token ids of a prompt, the assistant's opening included."""
        ids = self._tokenizer.apply_chat_template(
            list(chat), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return [int(i) for i in ids]

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text inside a turn, without special tokens."""
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=False)]

    def closed(self, text: str) -> list[int]:
        """The same of a completion, which ends the turn."""
        end = self._tokenizer.eos_token_id
        return [*self.text_ids(text), *([] if end is None else [int(end)])]

    def text(self, chat: Sequence[Message], open_assistant: bool = True) -> str:
        """The same as text, for people."""
        return str(
            self._tokenizer.apply_chat_template(list(chat), add_generation_prompt=open_assistant, tokenize=False)
        )


def longest_prompt(problems: Sequence[Problem], lengths: Sequence[int], room: int, what: str, needs: int) -> int:
    """The longest of the prompts, tokens.

    Args:
        lengths: of each problem's prompt, tokens.
        room: the model's context, tokens.
        what: names the prompts in the message, such as ``hinted prompts``.
        needs: tokens that must stay free for the completion.

    Raises:
        FemError: some prompts do not fit, with how many and by how much.
    """
    over = [(n, p) for n, p in zip(lengths, problems, strict=True) if n + needs > room]
    if over:
        length, worst = max(over, key=lambda pair: pair[0])
        raise FemError(
            f"{len(over)} of {len(problems)} {what} do not fit the model's context of {room} tokens with {needs} left for "
            f"the completion; the longest is problem {worst.problem_id} with {length} tokens. Lower max_tokens or the "
            "number of exemplars, drop those problems, or use a model with a longer context."
        )
    return max(lengths, default=0)
