"""Texts from data, models and configuration as Markdown that shows them and obeys none of them."""

import re


def md(text: str) -> str:
    """Text on one line of Markdown, with what Markdown, HTML and tables would read as theirs escaped.

    Addresses are broken as well: many renderers make a link of a bare one.
    """
    escaped = re.sub(r"([\\`*_\[\]<>|&~$#@!])", r"\\\1", printable(" ".join(text.split())))
    return re.sub(r"(?i)\b(https?|ftp|www)(:|\.)", r"\1\\\2", escaped)


def printable(text: str, kept: str = "") -> str:
    """The text without control characters, but for those in ``kept``."""
    return "".join(c for c in text if c.isprintable() or c in kept)
