"""Numbers as people and models write them, read exactly.

Contract: ``parse_number`` gives a ``Fraction`` or None, never a guess between two numbers, in time linear in the text
and with bounded digits: ``1e999999999`` is refused, not computed.
"""

import re
from fractions import Fraction

_MAX_CHARACTERS = 2000
_MAX_DIGITS = 300
_TOLERANCE = Fraction(1, 10**6)

_CURRENCY = "$€£¥₹"
_PLAIN = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u2014": "-",
        "\u2044": "/",
        "\u00a0": " ",
        "\u202f": " ",
        "\u00d7": "x",
        "½": " 1/2",
        "¼": " 1/4",
        "¾": " 3/4",
        "⅓": " 1/3",
        "⅔": " 2/3",
        "$": " ",
    }
)
_MARKED = re.compile(r"\*\*([^*]*)\*\*|`([^`]*)`")
_NUMBER = re.compile(
    r"""
    (?P<sign>[+-]?)\s*
    (?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)
    (?:\.(?P<part>[0-9]+)|\.(?![0-9]))?
    (?:
        [eE](?P<exponent>[+-]?[0-9]+)
      | \s?(?:x|\*|\\times|\\cdot)\s?10\^\{?(?P<power>[+-]?[0-9]+)\}?
      | \s?/\s?(?P<under>[0-9]+)(?![0-9.,]*[0-9])
      | \s(?P<top>[0-9]+)/(?P<bottom>[0-9]+)(?![0-9.,]*[0-9])
    )?
    """,
    re.VERBOSE,
)
_FRAC = re.compile(r"\\[dt]?frac\s?\{([+-]?[0-9]+)\}\s?\{([0-9]+)\}")
_LATEX_COMMA = re.compile(r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3})")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s?\{([^{}]*)\}")
_UNIT_DIGIT = re.compile(r"([A-Za-z])\^?\{?[0-9]\}?")
_MAGNITUDE = re.compile(r"\s*(?:hundred|thousand|million|billion|trillion|mio|mrd|bn)\b|[kmb](?![\w^/])", re.IGNORECASE)


def parse_number(text: str) -> Fraction | None:
    """The one number that a text states: ``$1,234.50``, ``-3/4``, ``2 1/2``, ``6.02 x 10^23``, ``= 42 km/h``.

    A percent sign is a unit (``50%`` is 50). None where there is no number first, where a second number or an operator
    follows, or where a word such as *million* leaves the value open.
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    text = _MARKED.sub(r" \1\2 ", text.translate(_PLAIN).replace("\\ ", " "))
    text = _FRAC.sub(r" \1/\2", _LATEX_COMMA.sub("", _LATEX_TEXT.sub(r" \1 ", text.replace("\\%", "%"))))
    text = text.rpartition("=")[2].strip(" \t\r*_`'\"()[]{}~≈")
    sign = 1
    if text[:1] in ("-", "+"):
        sign = -1 if text[0] == "-" else 1
        text = text[1:].lstrip()
        if text[:1] in ("-", "+"):
            return None
    match = _NUMBER.match(text.lstrip(_CURRENCY + " "))
    assert match is not None
    value = _value(match)
    return None if value is None or not _is_unit(match.string[match.end() :]) else sign * value


def same_number(a: Fraction, b: Fraction) -> bool:
    """Equality of integers; otherwise within one part in a million, as decimals are rounded."""
    if a.denominator == b.denominator == 1:
        return a == b
    return abs(a - b) <= _TOLERANCE * max(abs(a), abs(b))


def write_number(value: Fraction) -> str:
    """The shortest exact form: an integer, a finite decimal, or a fraction ``a/b``."""
    bottom = value.denominator
    places = 0
    while bottom % 10 == 0:
        bottom, places = bottom // 10, places + 1
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom, places = bottom // prime, places + 1
    if bottom != 1 or places > _MAX_DIGITS:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:].rstrip('0')}".rstrip(".") if places else digits
    return f"-{text}" if value < 0 else text


def _value(match: re.Match[str]) -> Fraction | None:
    found = match.groupdict()
    whole, part = found["whole"].replace(",", ""), found["part"] or ""
    digits = whole + part
    if not digits or any(len(found[name] or "") > 3 for name in ("exponent", "power")):
        return None
    if max(len(digits), *(len(found[name] or "") for name in ("under", "top", "bottom"))) > _MAX_DIGITS:
        return None
    value = Fraction(int(digits), 10 ** len(part))
    exponent = int(found["exponent"] or found["power"] or 0)
    if abs(exponent) > _MAX_DIGITS:
        return None
    value *= Fraction(10) ** exponent
    if found["under"] is not None:
        if int(found["under"]) == 0 or part:
            return None
        value /= int(found["under"])
    if found["bottom"] is not None:
        if int(found["bottom"]) == 0 or part:
            return None
        value += Fraction(int(found["top"]), int(found["bottom"]))
    return -value if found["sign"] == "-" else value


def _is_unit(rest: str) -> bool:
    """Whether what follows a number may stand there without changing it."""
    if not rest:
        return True
    if rest[0] in "0123456789^_²³" or (rest[0] == ":" and rest.strip(" :")):
        return False
    if _MAGNITUDE.match(rest):
        return False
    rest = rest.strip()
    if rest[:1] in ("*", "+", "=", "<", ">", "^", "x") and rest[1:2] in ("", " ", *"0123456789"):
        return False
    if rest[:1] in ("/", "-") and not rest[1:2].isalpha():
        return False
    return not re.search(r"[0-9]", _UNIT_DIGIT.sub(r"\1", rest))
