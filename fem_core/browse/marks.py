"""Untrusted text as HTML: everything escaped, what cannot be seen made visible, and what matters marked.

Contract: every function takes text and returns ``Markup`` whose tags are ours alone. Characters that would hide or turn
text around (control characters, ANSI escapes, direction marks, zero-width ones) are shown by name.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup, escape

LONGEST = 20_000
"""Characters of one text on a page of many; the page of one attempt shows all."""

_WORDS = 3_000
"""Words of two texts that are compared word by word; longer ones line by line."""

_AROUND = 300
"""Characters before and after a word that is found far down."""

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""What Unicode lets a renderer ignore, but for the two selectors that emoji have."""


def plain(text: str) -> Markup:
    """Escaped, with hidden characters as small labels."""
    parts, end = [], 0
    for match in _HIDDEN.finditer(text):
        parts += [escape(text[end : match.start()]), _label(match.group())]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def found(text: str, words: Sequence[str]) -> Markup:
    """The same with these words in ``<mark>``, whatever their case."""
    pattern = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    spans = re.finditer(pattern, text, re.IGNORECASE) if pattern else ()
    return _marked(text, spans, lambda part: Markup("<mark>%s</mark>") % plain(part))


def hinted(text: str, between: str) -> Markup:
    """A prompt with what comes from the hint marked.

    Args:
        between: the two characters that stand around it.
    """
    start, end = map(re.escape, between)
    spans = re.finditer(f"{start}([^{start}{end}]*){end}", text)
    return _marked(
        text,
        spans,
        lambda part: Markup('<mark class="hint" title="the hint">%s</mark>') % plain(part.strip(between)),
    )


def difference(old: str, new: str) -> tuple[Markup, Markup]:
    """Two texts, with what only the first has in ``<del>`` and what only the second has in ``<ins>``."""
    unit = r"\s+|\w+|[^\w\s]"
    was, now = re.findall(unit, old), re.findall(unit, new)
    if len(was) + len(now) > _WORDS:
        was, now = old.splitlines(keepends=True), new.splitlines(keepends=True)
    if len(was) + len(now) > _WORDS:
        return plain(old), plain(new)
    left, right = Markup(), Markup()
    for what, i1, i2, j1, j2 in difflib.SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        before, after = plain("".join(was[i1:i2])), plain("".join(now[j1:j2]))
        left += before if what == "equal" or not before else Markup("<del>%s</del>") % before
        right += after if what == "equal" or not after else Markup("<ins>%s</ins>") % after
    return left, right


def shortened(text: str, longest: int = LONGEST) -> str:
    """The beginning of a long text."""
    return text if len(text) <= longest else text[:longest]


def beyond(text: str, words: Sequence[str], longest: int = LONGEST) -> str:
    """The passage around the first of these words that only the rest of a long text holds; empty where none is."""
    for word in words:
        sought = re.compile(re.escape(word), re.IGNORECASE)
        if not sought.search(text[:longest]) and (match := sought.search(text)):
            return text[max(match.start() - _AROUND, 0) : match.end() + _AROUND]
    return ""


def _marked(text: str, spans: Iterable[re.Match[str]], mark: Callable[[str], Markup]) -> Markup:
    parts, end = [], 0
    for match in spans:
        if match.end() > match.start():
            parts += [plain(text[end : match.start()]), mark(match.group())]
            end = match.end()
    return Markup("").join([*parts, plain(text[end:])])


def _label(character: str) -> Markup:
    code = ord(character)
    name = unicodedata.name(character, "control character").lower()
    short = chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"U+{code:04X}"
    return Markup('<span class="hidden" title="U+%s, %s">%s</span>') % (f"{code:04X}", name, short)
