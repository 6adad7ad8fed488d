"""From a completion to ŷ, and from ŷ and y* to right or wrong.

Contract: the last line of the form ``Answer: …`` that holds an answer wins; markup around it does not matter. What
cannot be an answer of the problem's kind (no existing letter, no number, no rating of the scale) is None: *unparsable*,
which is not *wrong*.
y* written on an answer line parses back to itself. Every pattern is bounded or anchored, so time is linear in the
text: completions are untrusted.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fem_core.problems.numbers import parse_number, same_number, write_number
from fem_core.problems.problem import LETTERS, Problem
from fem_core.problems.ratings import parse_rating, scale_of

if TYPE_CHECKING:
    from fem_core.problems.verifier import Verifier

_HEAD = re.compile(
    r"[ \t]{0,20}(?:(?:>|[-+•*]|#{1,6}|[0-9]{1,2}[.)])[ \t]{1,4}){0,3}"
    r"(?P<open>[*_`~\"']{0,4})"
    r"(?:the[ \t]{1,3})?(?:(?:my|final|correct|right)[ \t]{1,3}){0,2}answer(?:[ \t]{1,3}is)?[ \t]{0,4}"
    r"(?P<before>[*_`~\"']{0,4})[ \t]{0,4}[:：]",
    re.IGNORECASE,
)
_NOTHING = frozenset({"", ".", "...", "…", "?", "*", "**", "_", "__", "___", "`", "``", '""', "''", "$$", "()", "[]"})
"""Values that are only layout. Other values without a word (``+``, ``(()``) are answers to some problems."""
_PLACEHOLDER = re.compile(
    r"[<\[{(]\s?(?:(?:your|the|my)\s)?(?:final\s)?(?:answer|letter|number|choice)\s?[>\]})]", re.IGNORECASE
)
_PAIRS = (("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ("$$", "$$"), ("$", "$"), ("\\(", "\\)"),
          ("\\[", "\\]"), ('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("«", "»"))  # fmt: skip
_BOXED = re.compile(r"\\(?:boxed|fbox|text|mathrm|mathbf|textbf)\s?\{")
_LETTER = re.compile(
    r"(?:(?:option|choice|answer|letter)\s{1,3})?[(\[]?(?P<letter>[A-Za-z])"
    r"(?:[)\]][.:,;]?|[.,;](?=\s|$)|:|\s{1,3}[-–—](?=\s)|$)\s{0,3}(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_EDGES = ".,;:!?\"'()[]{}<>*_`~“”‘’«»…"
_TRAILING = " \t.,;:!?"
_ARTICLES = frozenset({"a", "an", "the"})

CLASS_KINDS = frozenset({"choice", "label", "rating"})
"""Kinds of answers that come from a small fixed set."""


@dataclass(frozen=True)
class Parsed:
    """An answer and the character span of its line in the text, without the line's end."""

    answer: str
    start: int
    end: int


def parse_answer(text: str, problem: Problem) -> Parsed | None:
    """ŷ from the last answer line that holds one, in the normal form of the problem's kind."""
    end = len(text)
    while end >= 0:
        start = text.rfind("\n", 0, end) + 1
        value = _value(text[start:end])
        if value is not None:
            answer = _normal(value, problem)
            return None if answer is None else Parsed(answer, start, end)
        end = start - 1
    return None


def has_answer_line(text: str) -> int | None:
    """Where the first complete answer line ends (before its line end), or None: no later text can change that line."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        if _value(text[start:end]) is not None:
            return end
        start = end + 1
    return None


def is_correct(answer: str, problem: Problem, verifier: "Verifier | None" = None) -> bool:
    """Whether a parsed answer counts as y*.

    Raises:
        VerifierTimeout: kind ``reasoning_gym`` or ``math``, and the scorer took too long.
        FemError: kind ``reasoning_gym`` or ``math``, and the scorer cannot run.
    """
    if problem.answer_kind == "reasoning_gym":
        return _verified(answer, problem, verifier)
    if problem.answer_kind == "math":
        return _same_formula(answer, problem, verifier)
    if problem.answer_kind == "number":
        given, gold = parse_number(answer), parse_number(problem.answer)
        return given is not None and gold is not None and same_number(given, gold)
    if problem.answer_kind == "choice":
        return answer.strip().upper() == problem.answer
    if problem.answer_kind == "rating":
        return answer.strip() == problem.answer
    return normal_text(answer) == normal_text(problem.answer)


def answer_text(problem: Problem) -> str:
    """y* as a hint shows it and an answer line holds it: the letter where there are choices."""
    return problem.answer


def answer_class(answer: str, answer_kind: str) -> str:
    """The same for right answers that differ in their spelling only."""
    return normal_text(answer) if answer_kind in ("text", "label") else answer


def classes(problems: Sequence[Problem]) -> bool:
    """Whether the answers come from a small fixed set."""
    return bool(problems) and all(p.answer_kind in CLASS_KINDS for p in problems)


def majority_baseline(train: Sequence[Problem], test: Sequence[Problem]) -> float | None:
    """Share of test answers that equal the most common train answer (the first in order among equals).

    None where answers are no classes.
    """
    if not (classes(train) and classes(test)):
        return None
    counts = Counter(normal_text(p.answer) for p in train)
    most = min(counts, key=lambda answer: (-counts[answer], answer))
    return sum(normal_text(p.answer) == most for p in test) / len(test)


def normal_text(text: str) -> str:
    """Lower case, one space between words, no punctuation at the edges of words, no articles."""
    words = [word.strip(_EDGES) for word in text.casefold().split()]
    kept = [word for word in words if word and word not in _ARTICLES] or [word for word in words if word]
    return " ".join(kept) or " ".join(text.casefold().split())


def letter_of(text: str, choices: Sequence[str]) -> str | None:
    """The one choice whose text this is, as a letter."""
    wanted = normal_text(text)
    found = [letter for letter, choice in zip(LETTERS, choices, strict=False) if normal_text(choice) == wanted]
    return found[0] if len(found) == 1 else None


def _value(line: str) -> str | None:
    """What stands behind ``Answer:`` on an answer line, without the line's own markup; None on other lines."""
    head = _HEAD.match(line)
    if head is None:
        return None
    value = line[head.end() :].strip()
    opened = head["open"]
    if opened and not head["before"]:
        if value.startswith(opened):
            value = value[len(opened) :].strip()
        elif value.rstrip(".").endswith(opened) and value.count(opened) % 2:
            value = value.rstrip(".")[: -len(opened)].strip()
    if value.strip("-") in _NOTHING:
        return None
    return None if _PLACEHOLDER.fullmatch(value.strip(" \t*_`\"'.")) else value


def _normal(value: str, problem: Problem) -> str | None:
    if value == problem.answer and problem.answer_kind in ("text", "reasoning_gym", "math"):
        return value
    value = _unwrap(value)
    if problem.answer_kind == "choice":
        return _letter(value, problem.choices or ())
    if problem.answer_kind == "number":
        number = parse_number(value.strip(_TRAILING) if value[:1] != "." else value.rstrip(_TRAILING))
        return None if number is None else write_number(number)
    if problem.answer_kind == "rating":
        rating = parse_rating(value, *scale_of(problem.verifier or ""))
        return None if rating is None else str(rating)
    if problem.answer_kind == "label":
        return normal_text(value) or None
    if problem.answer_kind in ("text", "math"):
        return value.rstrip(".,;: ") or value or None
    return value or None


def _letter(value: str, choices: Sequence[str]) -> str | None:
    """The letter that a value names: by itself, in front of a text, or by a choice's text.

    None where it names two (``A, B``, or one letter with another choice's text).
    """
    value = value.replace("**", "").replace("`", "")
    match = _LETTER.fullmatch(value)
    rest = _unwrap(match["rest"]) if match else ""
    by_text = letter_of(value, choices)
    if match is None or (rest and by_text):
        if by_text is None and value[1:2] == " " and letter_of(value[2:], choices) == value[0].upper():
            return value[0].upper()
        return by_text
    letter = match["letter"].upper()
    if LETTERS.index(letter) >= len(choices):
        return by_text
    named = letter_of(rest, choices) if rest else letter
    if named is None:
        listed = all(len(word.strip(_EDGES)) <= 1 or word in ("and", "or") for word in rest.casefold().split())
        return None if listed else letter
    return letter if named == letter else None


def _unwrap(value: str) -> str:
    """Without the markup, quotes, dollar signs or ``\\boxed{}`` around the whole value (at most eight layers)."""
    for _ in range(8):
        inner = _inner(value.strip())
        if inner is None:
            break
        value = inner
    return value.strip()


def _inner(value: str) -> str | None:
    boxed = _BOXED.match(value)
    if boxed is not None:
        close = _closing_brace(value, boxed.end())
        if close is not None and not value[close + 1 :].strip(_TRAILING + "*_`$"):
            return value[boxed.end() : close]
    for left, right in _PAIRS:
        core = value.rstrip(_TRAILING)
        if len(core) > len(left) + len(right) and core.startswith(left) and core.endswith(right):
            middle = core[len(left) : -len(right)]
            if left not in middle and right not in middle:
                return middle
    return None


def _closing_brace(value: str, start: int) -> int | None:
    depth = 1
    for match in re.finditer(r"[{}]", value[start:]):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return start + match.start()
    return None


def _verified(answer: str, problem: Problem, verifier: "Verifier | None") -> bool:
    """The scorer's word on the answer, and on the answer without a full stop or quotes that people would not count."""
    if verifier is None or problem.verifier is None:
        raise ValueError("a problem of kind reasoning_gym is judged with a Verifier and its own verifier record")
    threshold = float(json.loads(problem.verifier)["threshold"])
    readings = dict.fromkeys((answer, answer.rstrip(_TRAILING), _unwrap(answer.rstrip(_TRAILING))))
    return any(verifier.score(problem.verifier, reading).value >= threshold - 1e-9 for reading in readings if reading)


def _same_formula(answer: str, problem: Problem, verifier: "Verifier | None") -> bool:
    """The same text but for blanks and markup, or the same value in the scorer's eyes."""
    if "".join(answer.split()) in {"".join(text.split()) for text in (problem.answer, _unwrap(problem.answer))}:
        return True
    if verifier is None or problem.verifier is None:
        raise ValueError("a problem of kind math is judged with a Verifier and its own verifier record")
    return verifier.score(problem.verifier, answer).value == 1.0
