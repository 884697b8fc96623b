"""The word lists of RULER, as wonderwords has them."""

from __future__ import annotations

import hashlib
import random
import re

import pytest

from lm_eval_llada.tasks.ruler import words

RELEASE = "wonderwords 3.0.1"
"""The release whose lists are pinned here."""


def test_words_are_sorted_distinct_and_together():
    lists = words.nouns(), words.adjectives(), words.verbs()
    for listed in (*lists, words.plain_words()):
        assert list(listed) == sorted(set(listed))
        assert all(word and word == word.strip() for word in listed)
    assert set(words.plain_words()) == set().union(*lists)


def test_words_of_the_tested_release_are_the_known_ones():
    if words.words_release() != RELEASE:
        pytest.skip(f"the checksums are those of {RELEASE}; here is {words.words_release()}")
    listed = words.nouns(), words.adjectives(), words.verbs(), words.plain_words()
    assert [len(each) for each in listed] == [6782, 910, 1041, 8166]
    assert [hashlib.sha256("\n".join(each).encode()).hexdigest()[:12] for each in listed] == [
        "d2e7b4a3fe53",
        "0729eaf04deb",
        "a6b9d92624e8",
        "393572555cfe",
    ]


def test_no_two_pairs_make_the_same_key():
    # Only words with hyphens could: "a-b" with "c" reads like "a" with "b-c".
    adjectives, nouns = set(words.adjectives()), set(words.nouns())
    for adjective in adjectives:
        for cut in (match.start() for match in re.finditer("-", adjective)):
            rest = adjective[cut + 1 :]
            assert adjective[:cut] not in adjectives or not any(
                f"{rest}-{noun}" in nouns for noun in nouns
            )


def test_key_words_depend_on_the_given_generator_alone():
    words._words.cache_clear()
    state = random.getstate()
    keys = [words.draw_key_word(random.Random(seed)) for seed in range(50)]
    assert keys == [words.draw_key_word(random.Random(seed)) for seed in range(50)]
    assert len(set(keys)) == 50
    assert random.getstate() == state
    adjectives, nouns = set(words.adjectives()), set(words.nouns())
    for key in keys:
        cuts = [match.start() for match in re.finditer("-", key)]
        assert any(key[:cut] in adjectives and key[cut + 1 :] in nouns for cut in cuts)
