"""Packing: every token once and in order, and a packer that goes on to the token."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.posttrain import packing
from lm_eval_llada.posttrain.packing import (
    PADDING_DOCUMENT,
    STRATEGIES,
    Packed,
    Packer,
    PackingOptions,
    PackingStatistics,
)

EOD, PAD = 7_777, 8_888
DOCUMENT_LENGTHS = st.lists(st.integers(0, 23), max_size=12)


def documents_of(lengths: list[int]) -> list[list[int]]:
    """Documents without a token in common: document n has the tokens 100 n, 100 n + 1, ..."""
    return [list(range(100 * n, 100 * n + length)) for n, length in enumerate(lengths)]


def options(strategy: str, length: int, **changes) -> PackingOptions:
    return PackingOptions(strategy, length, **{"eod_token_id": EOD, **changes})


def plain_stream(strategy: str, documents: list[list[int]]) -> list[int]:
    """All tokens in order, as a loop writes them."""
    stream = []
    for document in documents:
        stream += document
        if strategy == "eod" and document:
            stream.append(EOD)
    return stream


def tokens_of(packs: list[Packed]) -> list[int]:
    return [token for packed in packs for token in packed.input_ids.tolist()]


def same(packs: list[Packed], others: list[Packed]) -> bool:
    def content(packed: Packed):
        ids = packed.document_ids
        return packed.input_ids.tolist(), None if ids is None else ids.tolist()

    return list(map(content, packs)) == list(map(content, others))


# --- tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(lengths=DOCUMENT_LENGTHS, length=st.integers(1, 17))
def test_sequences_joined_are_the_documents_joined(strategy, lengths, length):
    documents = documents_of(lengths)
    packer = Packer(options(strategy, length), documents)
    packs = list(packer)
    expected = plain_stream(strategy, documents)
    whole = len(expected) // length * length
    assert all(packed.input_ids.shape == (length,) for packed in packs)
    assert tokens_of(packs) == expected[:whole]
    assert packer.statistics.tokens == whole
    assert packer.statistics.dropped_tokens == len(expected) - whole
    assert packer.statistics.padding_share == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(lengths=DOCUMENT_LENGTHS, length=st.integers(1, 17))
def test_a_padded_last_sequence_drops_nothing(strategy, lengths, length):
    documents = documents_of(lengths)
    packer = Packer(options(strategy, length, pad_token_id=PAD), documents)
    packs = list(packer)
    expected = plain_stream(strategy, documents)
    num_padding = -len(expected) % length
    assert tokens_of(packs) == expected + [PAD] * num_padding
    assert packer.statistics.dropped_tokens == 0
    assert packer.statistics.padding == num_padding
    if num_padding:
        is_padding = packs[-1].document_ids == PADDING_DOCUMENT
        assert torch.equal(is_padding, packs[-1].input_ids == PAD)
    for packed in packs[: len(packs) - bool(num_padding)]:
        assert (packed.document_ids is None) == (strategy != "adaptive")


@given(lengths=DOCUMENT_LENGTHS, length=st.integers(1, 17))
def test_document_ids_change_exactly_where_documents_do(lengths, length):
    for packed in Packer(options("adaptive", length), documents_of(lengths)):
        document = packed.input_ids // 100
        expected = torch.cat([document.new_zeros(1), document.diff().ne(0).cumsum(0)])
        assert packed.document_ids.dtype == torch.int64
        assert torch.equal(packed.document_ids, expected)


@given(lengths=DOCUMENT_LENGTHS, length=st.integers(1, 17))
def test_eod_puts_one_separator_behind_each_document(lengths, length):
    packer = Packer(options("eod", length, pad_token_id=PAD), documents_of(lengths))
    tokens = tokens_of(list(packer))
    assert tokens.count(EOD) == packer.statistics.separators == sum(map(bool, lengths))
    for place, token in enumerate(tokens):
        if token == EOD:
            following = tokens[place + 1 : place + 2]
            assert not following or following[0] == PAD or following[0] % 100 == 0


def test_concat_and_adaptive_differ_in_document_ids_alone():
    documents = documents_of([5, 40, 3, 3, 12])
    concat, adaptive = (
        list(Packer(options(strategy, 16), documents)) for strategy in ("concat", "adaptive")
    )
    assert tokens_of(concat) == tokens_of(adaptive)
    assert all(packed.document_ids is None for packed in concat)


def test_tensors_and_lists_pack_alike():
    documents = documents_of([4, 9, 2])
    packs = list(Packer(options("adaptive", 5), documents))
    tensors = [torch.tensor(document) for document in documents]
    assert same(packs, list(Packer(options("adaptive", 5), tensors)))


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(
    lengths=DOCUMENT_LENGTHS,
    length=st.integers(1, 17),
    stop=st.integers(0, 40),
    pad=st.sampled_from([None, PAD]),
)
def test_resuming_anywhere_equals_going_on(strategy, lengths, length, stop, pad):
    documents = documents_of(lengths)
    settings = options(strategy, length, pad_token_id=pad, min_document_length=3)
    uninterrupted = Packer(settings, documents)
    packs = list(uninterrupted)
    first = Packer(settings, documents)
    begun = list(islice(first, stop))
    state = json.loads(json.dumps(first.state_dict()))
    second = Packer(settings, iter(documents))
    second.load_state_dict(state)
    assert same(begun + list(second), packs)
    assert second.statistics == uninterrupted.statistics
    # A packer that is used further resumes as a new one does.
    first.load_state_dict(state)
    assert same(begun + list(first), packs)


def test_iterating_again_goes_on():
    documents = documents_of([30, 4, 9])
    packer = Packer(options("concat", 5), documents)
    packs = [*islice(packer, 3), *islice(packer, 2), *packer]
    assert tokens_of(packs) == plain_stream("concat", documents)[:40]


def test_a_state_of_other_options_is_refused():
    state = Packer(options("concat", 5), []).state_dict()
    with pytest.raises(ValueError, match="'length': 5.*'length': 6"):
        Packer(options("concat", 6), []).load_state_dict(state)


def test_a_state_of_other_documents_is_refused():
    packer = Packer(options("concat", 5), documents_of([9, 9]))
    next(packer)
    with pytest.raises(ValueError, match="token 5 of a document that has 3"):
        Packer(options("concat", 5), documents_of([3, 9])).load_state_dict(packer.state_dict())


def test_a_used_iterator_cannot_go_back():
    packer = Packer(options("concat", 5), iter(documents_of([9, 9])))
    state = packer.state_dict()
    next(packer)
    with pytest.raises(ValueError, match="an iterator of which 1 are used up"):
        packer.load_state_dict(state)


# --- statistics ---------------------------------------------------------------------------------


def test_statistics_count_documents_cuts_and_what_is_left_out():
    # 10 | 4 6 | 10 10 5, five to a sequence: 25 tokens of a long document are parted twice.
    lengths = [10, 1, 4, 6, 25]
    packer = Packer(options("concat", 10, min_document_length=2), documents_of(lengths))
    assert len(list(packer)) == 4
    assert packer.statistics == PackingStatistics(
        sequences=4, documents=4, cuts=2, tokens=40, short_documents=1, dropped_tokens=5
    )


def test_a_separator_in_the_next_sequence_cuts_no_document():
    packer = Packer(options("eod", 10), documents_of([10, 8, 10]))
    assert tokens_of([next(packer)]) == list(range(10))
    assert packer.statistics.cuts == 0
    assert tokens_of([next(packer)]) == [EOD, *range(100, 108), EOD]
    assert packer.statistics.separators == 2


def test_statistics_are_printed_in_words():
    statistics = PackingStatistics(2, 3, 4, 5, 30, 10, 6, 7)
    assert statistics.padding_share == 0.25
    assert statistics.lines() == [
        "2 sequences of 30 tokens in all; padding 10 tokens, 25.00%",
        "3 documents, cut 4 times; 5 separators",
        "left out: 6 documents for their length, 7 tokens at the end",
    ]


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "adaptve"}, "Did you mean 'adaptive'"),
        ({"length": 0}, "length must be a whole number >= 1"),
        ({"min_document_length": 0}, "min_document_length must be"),
        ({"strategy": "eod"}, "needs eod_token_id"),
        ({"pad_token_id": -1}, "pad_token_id must be"),
    ],
    ids=lambda value: str(value),
)
def test_options_out_of_range_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        PackingOptions(**changes)


def test_documents_that_are_all_too_short_are_an_error_and_no_hang(monkeypatch):
    monkeypatch.setattr(packing, "MAX_SHORT_RUN", 50)
    endless = iter(lambda: [1, 2], None)
    with pytest.raises(ValueError, match="fewer than min_document_length=3"):
        next(Packer(options("concat", 5, min_document_length=3), endless))
