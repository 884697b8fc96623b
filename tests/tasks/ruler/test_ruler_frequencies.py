"""RULER's cwe and fwe: what their samples hold, and what a program that counts can find."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.tasks.prompts import RulerTemplate
from lm_eval_llada.tasks.ruler import common_and_frequent_words as frequencies
from lm_eval_llada.tasks.ruler.common_and_frequent_words import (
    CommonWordsSettings,
    FrequentWordsSettings,
    common_words_maker,
    frequent_words_maker,
)
from lm_eval_llada.tasks.ruler.draft import Draft, Maker
from lm_eval_llada.tasks.ruler.scores import string_match_all
from lm_eval_llada.tasks.ruler.words import plain_words


def listed_words(line: str) -> list[str]:
    """The words of a numbered list, whose numbers have to be 1, 2, 3, ..."""
    entries = re.findall(r"(\d+)\. (.+?)(?= \d+\. |$)", line)
    assert [number for number, _ in entries] == [str(n + 1) for n in range(len(entries))]
    return [word for _, word in entries]


def word_lists(draft: Draft) -> list[list[str]]:
    """The word list of each worked example of cwe, and of the sample itself at the end."""
    return [listed_words(line) for line in re.findall(r"(?m)^1\. .*$", draft.prompt)]


def coded_words(draft: Draft) -> list[str]:
    """The words of fwe's text."""
    return draft.prompt.split("coded words. ")[1].split("\nQuestion")[0].split(" ")


# --- cwe ----------------------------------------------------------------------------------------


def test_cwe_settings_are_the_originals():
    long = {
        "freq_cw": 30,
        "freq_ucw": 3,
        "num_cw": 10,
        "num_examples": 1,
        "example_words": 40,
        "example_freq_cw": 10,
        "example_freq_ucw": 3,
        "example_blank": True,
    }
    short = {
        **long,
        "freq_cw": 6,
        "freq_ucw": 1,
        "example_words": 20,
        "example_freq_cw": 3,
        "example_freq_ucw": 1,
    }
    assert asdict(CommonWordsSettings()) == long
    assert asdict(common_words_maker(seed="", length=4096).settings) == long
    assert asdict(common_words_maker(seed="", length=4095).settings) == short


@pytest.mark.parametrize("length", [2048, 8192])
@pytest.mark.parametrize("num_words", [11, 60, 700])
def test_program_that_counts_the_list_finds_the_common_words(length, num_words):
    for number in range(5):
        draft = common_words_maker(seed=str(number), length=length).draft(num_words)
        counted = Counter(word_lists(draft)[-1])
        found = [word for word, _ in counted.most_common(10)]
        assert string_match_all(", ".join(found), draft.references) == 100
        assert set(found) == set(draft.references)


def test_every_word_comes_as_often_as_configured():
    draft = common_words_maker(seed="often", length=4096).draft(100)
    counted = Counter(word_lists(draft)[-1])
    assert Counter(counted.values()) == {30: 10, 3: 90}
    assert {word for word, count in counted.items() if count == 30} == set(draft.references)
    assert set(counted) <= set(plain_words())
    assert (draft.details["freq_cw"], draft.details["freq_ucw"]) == (30, 3)


def test_other_cwe_settings_are_followed_and_the_wording_gives_the_number():
    changes = {"freq_cw": 9, "freq_ucw": 2, "num_cw": 4, "num_examples": 2, "example_words": 7}
    draft = common_words_maker(seed="other", length=600, settings=changes).draft(6)
    first, second, own = map(Counter, word_lists(draft))
    assert Counter(own.values()) == {9: 4, 2: 2}
    assert Counter(first.values()) == Counter(second.values()) == {3: 4, 1: 3}
    assert len(draft.references) == 4
    assert draft.prompt.count("What are the 4 most common words") == 3
    assert draft.answer_prefix == (
        " Answer: The top 4 words that appear most often in the list are:"
    )


@pytest.mark.parametrize(("length", "size", "often"), [(4095, 40, 3), (4096, 190, 10)])
def test_worked_example_of_cwe_comes_once_with_the_right_answer(length, size, often):
    draft = common_words_maker(seed="example", length=length).draft(50)
    assert draft.prompt.count("Below is a numbered list") == draft.prompt.count("Question:") == 2
    example, _, own = draft.prompt.rpartition("\nBelow is")
    answer = listed_words(example.split("in the list are: ")[1])
    (words, _) = word_lists(draft)
    assert len(words) == size
    assert sorted(answer) == sorted(w for w, count in Counter(words).items() if count == often)
    assert "Answer:" not in own
    without = common_words_maker(seed="example", length=length, settings={"num_examples": 0})
    assert len(word_lists(without.draft(50))) == 1


def test_longer_list_keeps_the_words_of_a_shorter_one():
    maker = common_words_maker(seed="longer", length=8192)
    short, long = maker.draft(100), maker.draft(101)
    assert short.references == long.references
    assert set(word_lists(short)[-1]) < set(word_lists(long)[-1])
    assert word_lists(short)[0] == word_lists(long)[0]


def test_samples_are_shuffled_and_differ():
    drafts = [common_words_maker(seed=str(n), length=4096).draft(30) for n in range(10)]
    assert len({draft.references for draft in drafts}) == 10
    # One shuffle for all samples would put the first common word in the same places.
    places = set()
    for draft in drafts:
        words = word_lists(draft)[-1]
        places.add(tuple(n for n, word in enumerate(words) if word == draft.references[0]))
    assert len(places) == 10


def test_words_beyond_the_list_are_joined_ones_and_never_asked_for(monkeypatch):
    plain = [*"abcdefghijklmno", "a-b", "n-o"]
    monkeypatch.setattr(frequencies, "plain_words", lambda: tuple(plain))
    # The default example has more words than these.
    maker = common_words_maker(seed="joined", length=8192, settings={"example_words": 11})
    draft = maker.draft(40)
    counted = Counter(word_lists(draft)[-1])
    assert Counter(counted.values()) == {30: 10, 3: 30}
    assert set(draft.references) < set(plain) <= set(counted)
    uncommon = set(plain) - set(draft.references)
    joined = set(counted) - set(plain)
    pairs = {f"{one}-{other}" for one in uncommon for other in uncommon if one != other}
    assert len(joined) == 40 - 17 and joined <= pairs


def test_joined_words_that_read_the_same_come_once():
    joined = list(frequencies._joined(["a", "b-c", "a-b", "c"], {"a-c"}))
    assert joined.count("a-b-c") == 1 and "a-c" not in joined
    assert len(joined) == len(set(joined)) == 4 * 3 - 2


def test_a_list_longer_than_wonderwords_is_made():
    number = len(plain_words()) + 500
    draft = common_words_maker(seed="128k", length=131_072).draft(number)
    counted = Counter(word_lists(draft)[-1])
    assert len(counted) == number
    assert set(draft.references) <= set(plain_words())
    assert {word for word, _ in counted.most_common(10)} == set(draft.references)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freq_cv": 2}, "A setting of cwe must be one of .* Did you mean 'freq_cw'"),
        ({"freq_cw": 3}, "freq_cw=3 must be more than freq_ucw=3"),
        ({"example_freq_cw": 1}, "example_freq_cw=1 must be more than example_freq_ucw=3"),
        ({"num_cw": 0}, "num_cw must be a whole number >= 1"),
        ({"num_cw": 40}, "example_words=40 must be more than num_cw=40"),
    ],
)
def test_wrong_cwe_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        common_words_maker(seed="", length=4096, settings=changes)


# --- fwe ----------------------------------------------------------------------------------------


def test_fwe_settings_are_the_originals():
    assert asdict(FrequentWordsSettings()) == {"alpha": 2.0, "word_length": 6, "vocab_size": None}
    assert frequent_words_maker(seed="", length=4096).settings.vocab_size == 81
    assert frequent_words_maker(seed="", length=32_768).settings.vocab_size == 655
    assert frequent_words_maker(seed="", length=100).settings.vocab_size == 4


@pytest.mark.parametrize("num_words", [46, 47, 500, 9000])
def test_program_that_counts_the_text_finds_the_frequent_words(num_words):
    for number in range(5):
        draft = frequent_words_maker(seed=str(number), length=32_768).draft(num_words)
        words = coded_words(draft)
        assert len(words) == num_words
        ranked = Counter(words).most_common(5)
        assert ranked[0][0] == "..."
        found = [word for word, _ in ranked[1:4]]
        assert string_match_all(" ".join(found), draft.references) == 100
        assert draft.details["frequencies"] == [count for _, count in ranked[1:4]]
        assert draft.details["fourth_frequency"] == ranked[4][1] < ranked[3][1]
        assert all(re.fullmatch("[a-z]{6}", word) for word in set(words) - {"..."})


@given(
    alpha=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.5]),
    vocab_size=st.integers(4, 60),
    extra=st.integers(0, 400),
)
def test_third_and_fourth_word_never_tie(alpha, vocab_size, extra):
    changes = {"alpha": alpha, "vocab_size": vocab_size}
    maker = frequent_words_maker(seed="tie", length=4096, settings=changes)
    counted = Counter(coded_words(maker.draft(maker.fewest + extra)))
    counts = sorted(counted.values(), reverse=True) + [0]
    assert counts[3] > counts[4]


@pytest.mark.parametrize("vocab_size", [4, 5, 81])
def test_fewest_words_are_one_more_than_the_last_tie(vocab_size):
    changes = {"vocab_size": vocab_size}
    fewest = frequent_words_maker(seed="", length=4096, settings=changes).fewest
    # With the same rule, but by counting each number of words anew.
    tied = []
    for number in range(1, 300):
        counts = [*frequencies._counts(number, vocab_size, 2.0), 0]
        if counts[3] == counts[4]:
            tied.append(number)
    assert fewest == max(tied) + 1


@pytest.mark.parametrize("num_words", [300, 1234, 9000])
@pytest.mark.parametrize("vocab_size", [20, 655])
def test_counts_are_the_originals_rounded_expectations(num_words, vocab_size):
    # Zipf's law with alpha 2: the probabilities of all ranks sum to pi ** 2 / 6.
    expected = [
        math.floor(num_words * rank**-2 / (math.pi**2 / 6)) for rank in range(1, vocab_size + 1)
    ]
    assert frequencies._counts(sum(expected), vocab_size, 2.0) == tuple(expected)


@settings(max_examples=20)
@given(number=st.integers(46, 2000))
def test_another_word_only_adds_to_the_text(number):
    maker = frequent_words_maker(seed="add", length=8192)
    fewer, more = (Counter(coded_words(maker.draft(number + n))) for n in (0, 1))
    assert fewer < more and (more - fewer).total() == 1


def test_samples_of_fwe_are_shuffled_and_differ():
    drafts = [frequent_words_maker(seed=str(n), length=4096).draft(200) for n in range(10)]
    assert len({draft.references for draft in drafts}) == 10
    noise = {tuple(word == "..." for word in coded_words(draft)) for draft in drafts}
    assert len(noise) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alfa": 2}, "A setting of fwe must be one of .* Did you mean 'alpha'"),
        ({"alpha": 0}, "alpha must be a number > 0"),
        ({"alpha": 9}, "alpha must be at most 6; got 9"),
        ({"vocab_size": 3}, "vocab_size must be a whole number >= 4"),
        ({"vocab_size": 9000, "word_length": 3}, "vocab_size=9000 is too many for words of 3"),
        ({"word_length": 2}, "word_length must be a whole number >= 3"),
    ],
)
def test_wrong_fwe_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        frequent_words_maker(seed="", length=4096, settings=changes)


# --- both makers' contract ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [common_words_maker, frequent_words_maker])
def test_draft_depends_on_the_seed_and_its_argument_alone(make):
    maker: Maker = make(seed="7/x/0", length=4096)
    long, short = maker.draft(300), maker.draft(80)
    random.seed(1)
    state = random.getstate()
    assert make(seed="7/x/0", length=4096).draft(80) == short == maker.draft(80)
    assert maker.draft(300) == long
    assert random.getstate() == state
    assert make(seed="7/x/1", length=4096).draft(80) != short
    assert (maker.unit, maker.most) == ("word", None)
    with pytest.raises(ValueError, match=f"num_units must be a whole number >= {maker.fewest}"):
        maker.draft(maker.fewest - 1)


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (common_words_maker, "The top 10 words that appear most often in the list are:"),
        (
            frequent_words_maker,
            "According to the coded text above, the three most frequently appeared words are:",
        ),
    ],
)
def test_answer_prefix_is_the_originals(make, prefix):
    draft = make(seed="", length=4096).draft(50)
    assert draft.answer_prefix == f" Answer: {prefix}"
    assert draft.prompt.endswith("?")


@pytest.mark.parametrize(
    ("make", "kind", "times"), [(common_words_maker, "cwe", 2), (frequent_words_maker, "fwe", 1)]
)
def test_users_wording_is_used(make, kind, times):
    wording = RulerTemplate(kind, "<{context}>10?{query}", " so:")
    draft = make(seed="", length=4096, template=wording).draft(50)
    assert draft.prompt.count("<") == draft.prompt.count(">10?") == times
    assert draft.answer_prefix == " so:"
