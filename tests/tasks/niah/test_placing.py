"""Filling a prompt to its length and finding a needle's place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.tasks.niah.placing import (
    TOLERANCE,
    Haystack,
    fill,
    insert,
)
from lm_eval_llada.tasks.text.haystacks import haystack_pieces
from lm_eval_llada.tasks.token_counts import make_counter
from tests.helpers.toy_tokenizer import toy_tokenizer


@settings(max_examples=30)
@given(
    words=st.lists(st.text("abc.", min_size=1, max_size=40), min_size=300, max_size=300),
    budget=st.integers(10, 250),
    wrong_by=st.sampled_from([0.4, 1, 3]),
)
def test_fill_reaches_its_budget_however_wrong_the_estimates_are(words, budget, wrong_by):
    pieces = [f" {word}" for word in words]
    haystack = Haystack.of(pieces, [max(1, int(len(piece) * wrong_by)) for piece in pieces])
    used, text, count = fill(haystack, budget, lambda part: "<" + "".join(part.pieces) + ">", len)
    assert budget - TOLERANCE <= count <= budget
    assert text == "<" + "".join(pieces)[: count - 2] + ">"
    assert "".join(used.pieces) == text[1:-1]


def test_fill_encodes_a_long_text_few_times():
    pieces = haystack_pieces("noise", 8000, "seed")
    counter = make_counter(toy_tokenizer())
    calls: list[int] = []

    def count(text: str) -> int:
        calls.append(len(text))
        return counter.count(text)

    haystack = Haystack.of(pieces, counter.count_pieces(pieces))
    fill(haystack, 8000, lambda part: insert(part, [(0.5, "Here it is.")]), count)
    assert sum(length > 1000 for length in calls) <= 4


def test_haystack_that_cannot_be_cut_finely_is_an_error():
    haystack = Haystack.of(["a", " b", " c"], [20, 20, 20])
    with pytest.raises(ValueError, match="no cut of the haystack between 42 and 50"):
        fill(haystack, 50, lambda part: "".join(part.pieces), lambda text: 20 * len(text.split()))


@given(
    counts=st.lists(st.integers(1, 9), min_size=0, max_size=80),
    ends=st.sets(st.integers(0, 79)),
    depths=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
)
def test_place_is_monotone_and_at_the_ends_exact(counts, ends, depths):
    pieces = [f" w{i}{'.' if i in ends else ''}" for i in range(len(counts))]
    haystack = Haystack.of(pieces, counts)
    assert haystack.place(depths[0]) <= haystack.place(depths[1])
    assert (haystack.place(0), haystack.place(1)) == (0, len(pieces))


def test_needles_that_share_a_place_keep_the_order_of_their_depths():
    haystack = Haystack.of(["One.", " Two."], [5, 5])
    text = insert(haystack, [(1.0, "last"), (0.0, "first"), (0.52, "late"), (0.48, "early")])
    assert text == "first\nOne.\nearly\nlate\nTwo.\nlast"
