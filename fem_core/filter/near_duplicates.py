"""Which rationales say again, nearly word for word, what one that is kept says.

Contract: exact. A rationale repeats a kept one when the Jaccard similarity of their sets of word trigrams reaches the
threshold; a common trigram among the rarest ones of both finds the pair (prefix filtering: Chaudhuri et al. 2006, Bayardo
et al. 2007), so two rationales that share only frequent ones are never compared. Held are 8 bytes per trigram and 12
per indexed one of each kept rationale, and 8 MiB. Time grows with what is kept, and at a low threshold with the rationales
that share a trigram.
"""

import hashlib
import math
import re
from array import array
from collections.abc import Iterable

_WORD = re.compile(r"\w+")
_LENGTH = 3
"""Words in a shingle. A text of fewer words is one shingle, one without words repeats nothing."""

_BUCKETS = 1 << 20


class NearDuplicates:
    """The kept rationales of one iteration, by their shingles."""

    def __init__(self, threshold: float, texts: Iterable[str]) -> None:
        """
        Args:
            texts: what will be asked for, once over; counts which shingles are rare, and decides nothing.
        """
        self._threshold = threshold
        self._frequency = array("I", bytes(4 * _BUCKETS))
        for text in texts:
            for shingle in shingles(text):
                self._frequency[shingle % _BUCKETS] += 1
        self._names = array("q")
        self._shingles = array("Q")
        self._ends = array("q", [0])
        # A linked list of kept rationales for each bucket of shingles: what shares a bucket by chance is compared, too.
        self._heads = array("i", [-1]) * _BUCKETS
        self._links = array("i")
        self._owners = array("i")

    def repeated(self, text: str) -> tuple[int, float] | None:
        """The name of the first kept rationale that this one repeats, and their similarity."""
        mine = shingles(text)
        for kept in sorted(self._sharing(mine)):
            theirs = self._shingles[self._ends[kept] : self._ends[kept + 1]]
            common = sum(shingle in mine for shingle in theirs)
            similarity = common / (len(mine) + len(theirs) - common)
            if similarity >= self._threshold - 1e-9:
                return self._names[kept], similarity
        return None

    def keep(self, name: int, text: str) -> None:
        """Remember a rationale under a number of the caller's."""
        mine = shingles(text)
        for shingle in self._rarest(mine):
            bucket = shingle % _BUCKETS
            self._links.append(self._heads[bucket])
            self._owners.append(len(self._names))
            self._heads[bucket] = len(self._links) - 1
        self._names.append(name)
        self._shingles.extend(mine)
        self._ends.append(len(self._shingles))

    def _sharing(self, mine: set[int]) -> set[int]:
        """Kept rationales of a fitting length that share one of the rarest shingles."""
        least, most = self._threshold * len(mine) - 1e-9, len(mine) / self._threshold + 1e-9
        found: set[int] = set()
        for shingle in self._rarest(mine):
            entry = self._heads[shingle % _BUCKETS]
            while entry >= 0:
                owner = self._owners[entry]
                if least <= self._ends[owner + 1] - self._ends[owner] <= most:
                    found.add(owner)
                entry = self._links[entry]
        return found

    def _rarest(self, mine: set[int]) -> list[int]:
        """As many that two similar texts cannot differ in all of them."""
        if not mine:
            return []
        count = len(mine) - math.ceil(self._threshold * len(mine) - 1e-9) + 1
        return sorted(mine, key=lambda shingle: (self._frequency[shingle % _BUCKETS], shingle))[:count]


def shingles(text: str) -> set[int]:
    """The text's word trigrams without case and punctuation, each as 64 bits of its digest."""
    words = _WORD.findall(text.casefold())
    last = max(1, len(words) - _LENGTH + 1) if words else 0
    return {
        int.from_bytes(hashlib.blake2b(" ".join(words[i : i + _LENGTH]).encode(), digest_size=8).digest(), "big")
        for i in range(last)
    }
