"""Ratings: whole numbers on a known scale, as people and models write them.

Contract: ``parse_rating`` gives a number of the scale or None: what is off the scale, between two of its numbers, or may
be either of two is no rating. Time is linear in the text.
"""

import json
import re
from functools import cache

_RATING = re.compile(
    r"(?:(?:rating|score)(?:\s(?:of|is))?\s{0,3}[:=]?\s{0,3})?"
    r"(?P<value>[+-]?[0-9]{1,3})(?:\.0{1,3})?(?![0-9.]*[0-9])"
    r"(?:\s{0,3}(?:/|out\sof|of)\s{0,3}(?P<top>[0-9]{1,3})(?:\.0{1,3})?(?![0-9.]*[0-9]))?"
    r"(?P<rest>(?![A-Za-z0-9_]).*)?",
    re.IGNORECASE | re.DOTALL,
)


def scale_record(low: int, high: int) -> str:
    """The ``verifier`` column of a problem whose answer is a rating from ``low`` to ``high``."""
    return json.dumps({"high": high, "low": low, "source": "rating"}, separators=(",", ":"))


@cache
def scale_of(record: str) -> tuple[int, int]:
    """The lowest and the highest rating of such a record."""
    data = json.loads(record)
    return int(data["low"]), int(data["high"])


def parse_rating(text: str, low: int, high: int) -> int | None:
    """The one rating that a text states: ``3``, ``3.0``, ``3/4`` or ``3 out of 4`` where 4 is the highest, ``3 (good)``."""
    match = _RATING.fullmatch(text.strip(" \t\r*_`'\"()[]{}~"))
    if match is None or re.search(r"[0-9]", match["rest"] or ""):
        return None
    if match["top"] is not None and int(match["top"]) != high:
        return None
    value = int(match["value"])
    return value if low <= value <= high else None
