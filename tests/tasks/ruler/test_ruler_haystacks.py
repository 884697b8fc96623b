"""Haystacks of RULER's needle tasks: where sentences end, and where needles go."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.tasks.ruler.haystacks import (
    DEPTHS,
    EssayHaystack,
    LineHaystack,
)


def test_every_place_among_lines_is_as_likely_as_another():
    counts = [0] * 5
    for seed in range(1000):
        text, depths = LineHaystack(lambda n: ["-"] * n).hide(5, ["here"], random.Random(seed))
        place = text.split("\n").index("here")
        assert depths == [100 * place / 5]
        counts[place] += 1
    assert min(counts) > 150


SENTENCES = [
    f"Word{'s' * (i % 7)} number {i} {'so ' * (i % 3)}ends" + ".!?"[i % 3] for i in range(37)
]
"""Sentences of several lengths, each of which begins in upper case."""


@given(
    num_words=st.integers(1, 700),
    num_needles=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_essays_hold_needles_where_a_plain_loop_puts_them(num_words, num_needles, seed):
    statements = [f"<{i}>" for i in range(num_needles)]
    haystack = EssayHaystack([" \n\n".join(SENTENCES[:20]), " ".join(SENTENCES[20:])])
    text, depths = haystack.hide(num_words, statements, random.Random(seed))
    # The plain loop: whole sentences, the last one cut, over again when used up.
    sentences, left = [], num_words
    while left:
        for sentence in SENTENCES:
            if left:
                sentences.append(sentence.split()[:left])
                left -= len(sentences[-1])
    places = [len(sentences) * depth // 100 for depth in map(int, depths)]
    expected = []
    for place in range(len(sentences) + 1):
        here = [i for i in range(num_needles) if places[i] == place]
        expected += [statements[i] for i in sorted(here, key=lambda i: depths[i])]
        expected += sentences[place] if place < len(sentences) else []
    assert text == " ".join(expected)
    assert len(set(depths)) == num_needles and set(depths) <= set(DEPTHS)


def without_stops(num_words: int, depth: float, statement: str, essay: str) -> str:
    """OpenCompass' way: cut at full stop and blank, put the needle in, join by blanks."""
    sentences = [part.strip() for part in " ".join(essay.split()[:num_words]).split(". ") if part]
    place = int(len(sentences) * depth / 100)
    parts = [" ".join(sentences[:place]), statement, " ".join(sentences[place:])]
    return " ".join(filter(None, parts))


@given(num_words=st.integers(1, 80), seed=st.integers(0, 99))
def test_full_stops_before_blanks_go_as_in_opencompass_and_needles_keep_theirs(num_words, seed):
    # Sentences that both ways part in the same places.
    essay = " ".join(f"Word number {i} {'so ' * (i % 3)}ends." for i in range(17))
    haystack = EssayHaystack([essay], full_stops=False)
    text, (depth,) = haystack.hide(num_words, ["The key is 7."], random.Random(seed))
    assert text == without_stops(num_words, depth, "The key is 7.", essay)


def test_only_a_full_stop_before_a_blank_goes() -> None:
    essay = 'A U.S. ship... "Sank." It (did.) at 3.5 . Why? Mr. X knew. End.'
    text, _ = EssayHaystack([essay], False).hide(14, ["N."], random.Random(2))
    assert text.replace("N.", "").split() == " ".join(essay.split(". ")).split()


def test_depths_are_forty_evenly_spaced_from_first_to_last():
    assert (DEPTHS[0], DEPTHS[-1], len(set(DEPTHS))) == (0, 100, 40)
    assert {b - a for a, b in zip(DEPTHS, DEPTHS[1:], strict=False)} == {2, 3}
    assert DEPTHS[:6] == (0, 3, 5, 8, 10, 13)


@pytest.mark.parametrize(
    ("text", "num_sentences"),
    [
        ("One ends. Two begins here. Three", 3),
        ('He asked "why?" Nobody knew. (None did.) So it was', 4),
        ("We met Dr. Smith and J. Jones, i.e. Everyone. Then we left", 2),
        ("It cost approx. five. Or less! 7 of them", 3),
        ("Version 3.5 is out.Nobody noticed", 1),
    ],
)
def test_sentences_end_at_marks_before_a_new_beginning(text, num_sentences):
    haystack = EssayHaystack([text])
    assert haystack._num_sentences(len(text.split())) == num_sentences


def test_essays_are_split_once_for_all_samples():
    haystacks = [EssayHaystack(["One. Two.", "Three."]) for _ in range(3)]
    assert len({id(haystack._words) for haystack in haystacks}) == 1
