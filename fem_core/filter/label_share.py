"""Which rationales of frequent labels are too many beside those of the others.

Contract: a label keeps at most r times as many rationales as the median label has (the lower one of two medians, so with
two labels the rarer). Which ones stay follows from their content: the order of parts and rows decides nothing. Held are
some 16 bytes per rationale.
"""

import hashlib
from array import array
from collections.abc import Iterable


def objections(ranked: Iterable[tuple[str, int]], ratio: float) -> list[str | None]:
    """Why a rationale is one too many, for each in the order given; None for those that stay.

    Args:
        ranked: label and ``rank`` of every rationale.
        ratio: r, at least 1.
    """
    numbers: dict[str, int] = {}
    labels, ranks = array("I"), array("Q")
    for label, place in ranked:
        labels.append(numbers.setdefault(label, len(numbers)))
        ranks.append(place)
    if not numbers:
        return []
    names, of_label = list(numbers), [array("Q") for _ in numbers]
    for number, place in zip(labels, ranks, strict=True):
        of_label[number].append(place)
    median = sorted(numbers, key=lambda label: (len(of_label[numbers[label]]), label))[(len(numbers) - 1) // 2]
    measure = len(of_label[numbers[median]])
    limit = int(ratio * measure + 1e-9)
    last = [sorted(places)[limit - 1] if len(places) > limit else None for places in of_label]

    def objection(number: int, place: int) -> str | None:
        border = last[number]
        if border is None or place <= border:
            return None
        return (
            f"one of {len(of_label[number])} rationales with the answer {names[number]!r}, of which {limit} are kept: "
            f"{ratio:g} times the {measure} with {median!r}"
        )

    return [objection(number, place) for number, place in zip(labels, ranks, strict=True)]


def rank(problem_id: str, attempt: int, text: str) -> int:
    """A rationale's place in the order in which those of a label stay: 64 bits of its digest."""
    content = f"{problem_id} {attempt} {text}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
