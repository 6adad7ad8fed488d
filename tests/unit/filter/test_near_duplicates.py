"""Near duplicates: the inverted index finds what comparing every pair finds."""

import itertools
import random

import pytest

from fem_core.filter.near_duplicates import NearDuplicates, shingles

WORDS = ["the", "statement", "about", "tea", "says", "that", "one", "of", "them", "hates", "it", "so", "answer", "is"]


def made(count: int, seed: int) -> list[str]:
    """Texts of few words, many of them a few words away from an earlier one."""
    draw = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        if texts and draw.random() < 0.6:
            words = draw.choice(texts).split()
            for _ in range(draw.randint(0, 4)):
                words[draw.randrange(len(words))] = draw.choice(WORDS)
        else:
            words = [draw.choice(WORDS) for _ in range(draw.randint(1, 25))]
        texts.append(" ".join(words))
    return texts


def similarity(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8, 1.0])
def test_it_finds_what_comparing_every_pair_finds(threshold: float) -> None:
    texts = made(400, seed=1)
    near = NearDuplicates(threshold, texts)
    kept: list[int] = []
    repeats = 0
    for number, text in enumerate(texts):
        found = near.repeated(text)
        first = next((k for k in kept if similarity(texts[k], text) >= threshold - 1e-9), None)
        assert (None if found is None else found[0]) == first, text
        if found is None:
            kept.append(number)
            near.keep(number, text)
        else:
            repeats += 1
            assert found[1] == pytest.approx(similarity(texts[found[0]], text))
    assert repeats > 20 and len(kept) > 2, "both must have happened"


def test_counting_other_texts_changes_the_work_and_not_the_result() -> None:
    texts = made(120, seed=2)
    results = []
    for counted in ([], texts, texts[:9] * 30):
        near, found = NearDuplicates(0.6, counted), []
        for number, text in enumerate(texts):
            found.append(near.repeated(text))
            if found[-1] is None:
                near.keep(number, text)
        results.append(found)
    assert results[0] == results[1] == results[2]


def test_case_and_punctuation_do_not_matter_and_a_text_without_words_repeats_nothing() -> None:
    near = NearDuplicates(1.0, [])
    near.keep(7, "Bo hates tea, so it is Bo.")
    near.keep(8, "")
    assert near.repeated("bo HATES tea so it is bo") == (7, 1.0)
    assert near.repeated("?!") is None and near.repeated("") is None
    assert near.repeated("Bo hates tea so it is Ann") is None


def test_short_texts_are_one_shingle() -> None:
    assert len(shingles("one")) == len(shingles("one two")) == len(shingles("one two three")) == 1
    assert len(shingles("one two three four")) == 2
    assert all(0 <= number < 1 << 64 for number in itertools.chain(shingles("a b c d e f")))
