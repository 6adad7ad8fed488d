"""Which rationales speak of having been given the answer, or repeat the hint's own words.

Contract: looks at the words before the answer line only; naming y* is no leak. What the question says itself is never
held against a rationale. All patterns are bounded and run over words with single spaces, so time is linear in the text.
How often this is right is measured on labelled draws: docs/method.md.
"""

import re
from collections.abc import Iterator

from fem_core.config import PromptsConfig
from fem_core.problems.answers import answer_text
from fem_core.problems.problem import Problem, full_question

_WORD = re.compile(r"[\w']+")
_PLACEHOLDER = re.compile(r"\{[a-z]+\}|<[a-z]+>")
_LENGTH = 5
"""Words of the hint in a row that count as repeated. Shorter runs, such as "the correct answer is", say nothing."""

_KIND = r"(?:(?:correct|right|final|true|expected) ){0,2}(?:answer|rating|verdict)(?! (?:choice|option)s?\b)"
_TOLD = re.compile(
    r"\b(?:"
    rf"(?:told|informed|given|shown)(?: (?:to )?(?:us|me|you))?(?: that)? the {_KIND}|"
    rf"(?:given|provided|supplied|known|hinted|revealed) {_KIND}|"
    rf"{_KIND} (?:that |which )?(?:was|were|has been|had been) (?:given|provided|told|supplied|revealed)(?! by)|"
    rf"{_KIND} (?:given|provided|told) (?:to (?:me|us|you)|in the (?:prompt|instructions?))|"
    rf"(?:we|i|you) (?:already )?(?:know|knew)(?: that)? the {_KIND}|"
    rf"(?:already have|now that (?:we|you|i) have)(?: the)? {_KIND}|"
    rf"(?:since|because|as|given that|knowing(?: that)?) the (?:correct|right|expected) (?:answer|rating|verdict) is|"
    rf"{_KIND} (?:that )?you(?:'ve| have)? (?:have|had|gave|given|provided|stated|mentioned|said)|"
    rf"you(?:'ve| have)? (?:already )?(?:gave|given|provided|told|said|stated|mentioned)(?: (?:me|us))?(?: that)?"
    rf" (?:the|your|an) {_KIND}|"
    rf"your {_KIND} is|"
    r"you(?:'ve| have) been told|"
    r"process you(?:'ve| have)? provided|"
    r"you(?:'re| are) (?:right|correct)|"
    r"(?:do not|don't|never) mention|"
    rf"repeat(?:ing|ed|s)? the (?:last )?{_KIND}|"
    r"the (?:prompt|instructions?) (?:says?|said|states?|tells?|told|gives?|gave)|"
    r"as (?:given|stated|told|mentioned|indicated|instructed) in the (?:prompt|instructions?)"
    r")(?![\w'])"
)
_HINT = re.compile(r"(?:\b(?:the|this|that|your|using|from|by) )?\bhint(?! (?:of|at))(?![\w'])")
_AIM = re.compile(
    rf"\bto (?:reach|arrive at|get to|obtain|justify|support)(?: (?:the|this|that|an))? {_KIND}(?: of)?(?= )"
)
"""A leak where y* itself follows."""
_AT_FIRST = re.compile(rf"(?:\w+ ){{0,2}}to (?:reach|arrive at|get to|obtain|justify|support) this {_KIND}")
"""A leak where a rationale begins so: no answer has been named yet."""


class Leaks:
    """What to look for under the prompts of a run."""

    def __init__(self, prompts: PromptsConfig) -> None:
        plain = set(_runs(prompts.plain))
        self._hint = frozenset(run for run in _runs(prompts.hinted) if run not in plain)

    def find(self, rationale: str, problem: Problem) -> str | None:
        """Why a rationale leaks, with the words that show it; None where nothing does."""
        text, question = f"{_words(rationale)} ", _words(full_question(problem))
        for phrase in self._told(text, question, _words(answer_text(problem))):
            if f" {phrase} " not in f" {question} ":
                return f"speaks of a given answer: {phrase!r}"
        asked = set(_runs(question))
        for run in _runs(text):
            if run in self._hint and run not in asked:
                return f"repeats the hint: {run!r}"
        return None

    def _told(self, text: str, question: str, answer: str) -> Iterator[str]:
        yield from (match.group() for match in _TOLD.finditer(text))
        if "hint" not in question.split():
            yield from (match.group() for match in _HINT.finditer(text))
        if (match := _AT_FIRST.match(text)) is not None:
            yield match.group()
        for match in _AIM.finditer(text):
            if answer and text.startswith(f"{answer} ", match.end() + 1):
                yield f"{match.group()} {answer}"


def _words(text: str) -> str:
    """Lower-case words with single spaces."""
    return " ".join(_WORD.findall(text.casefold().replace("’", "'")))


def _runs(text: str) -> Iterator[str]:
    """Every run of ``_LENGTH`` words that no placeholder interrupts."""
    for piece in _PLACEHOLDER.split(text):
        words = _words(piece).split()
        for i in range(len(words) - _LENGTH + 1):
            yield " ".join(words[i : i + _LENGTH])
