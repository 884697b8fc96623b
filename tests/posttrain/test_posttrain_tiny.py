"""Documents for post-training a shipped model: long, resumable, and without evaluation words."""

from __future__ import annotations

import re
from itertools import islice

import pytest
import torch

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.posttrain.packing import (
    Packer,
    PackingOptions,
    Resumable,
)
from lm_eval_llada.tasks.niah.words import EVALUATION_WORDS
from lm_eval_llada.tasks.text.haystacks import noise_sentences
from lm_eval_llada.tiny.corpus import Corpus
from lm_eval_llada.tiny.documents import MIN_LENGTH, TinyDocuments
from lm_eval_llada.tiny.samples import SampleMaker

WORDS = ("about", "before", "class", "default", "error", "false", "given", "method", "object")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny-llada")


@pytest.fixture(scope="module")
def maker(tokenizer) -> SampleMaker:
    """Of a small corpus; that the real one has no evaluation words is tested with the recipe."""
    sentences = noise_sentences()
    texts = [" ".join(sentences[n::7]) for n in range(7)]
    return SampleMaker(Corpus(tuple(texts), WORDS, "any", "none"), tokenizer.backend_tokenizer, 0)


def documents(maker, **settings) -> TinyDocuments:
    return TinyDocuments(maker, **{"seed": 1, "max_length": 700, **settings})


def test_documents_have_lengths_up_to_the_longest_and_no_evaluation_words(maker, tokenizer) -> None:
    found = list(islice(documents(maker), 60))
    lengths = [len(ids) for ids in found]
    assert min(lengths) >= MIN_LENGTH and max(lengths) <= 700
    assert sum(length < 212 for length in lengths) > 12
    assert sum(length > 212 for length in lengths) > 12
    for ids in found:
        assert ids.dtype == torch.int64
        assert EVALUATION_WORDS.isdisjoint(re.findall(r"[a-z]+", tokenizer.decode(ids).lower()))


@pytest.mark.parametrize(("strategy", "separator"), [("adaptive", None), ("eod", 0)])
def test_packing_cuts_no_document(maker, strategy, separator) -> None:
    # A question packed apart from its needle teaches to make up an answer.
    stream = documents(maker, separator_length=int(separator is not None))
    packer = Packer(PackingOptions(strategy, 700, eod_token_id=separator), stream)
    assert all(len(packed.input_ids) == 700 for packed in islice(packer, 30))
    assert packer.statistics.documents > 30
    assert packer.statistics.cuts == 0


def test_the_share_of_needles_is_as_asked_for(maker, tokenizer) -> None:
    texts = documents(maker, needle_share=0.0)
    needles = documents(maker, needle_share=1.0)

    def answered(stream: TinyDocuments) -> int:
        """Documents with a number of three digits or more in their last 40 tokens."""
        tails = [tokenizer.decode(ids[-40:]) for ids in islice(stream, 25)]
        return sum(bool(re.search(r"\d{3}", tail)) for tail in tails)

    assert answered(needles) >= 18
    assert answered(texts) <= 5


def test_packing_goes_on_at_the_very_token(maker) -> None:
    assert isinstance(documents(maker), Resumable)
    options = PackingOptions(length=500)
    packer = Packer(options, documents(maker))
    before = list(islice(packer, 3))
    state = packer.state_dict()
    after = list(islice(packer, 3))
    again = Packer(options, documents(maker))
    again.load_state_dict(state)
    for one, two in zip(after, islice(again, 3), strict=True):
        assert torch.equal(one.input_ids, two.input_ids)
        assert torch.equal(one.document_ids, two.document_ids)
    assert not torch.equal(before[0].input_ids, after[0].input_ids)


def test_a_place_in_other_documents_is_refused(maker) -> None:
    state = documents(maker).state_dict()
    with pytest.raises(ValueError, match="saved documents have needle_share=0.5, these 1.0"):
        documents(maker, needle_share=1.0).load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 63}, "max_length must be a whole number >= 64; got 63"),
        ({"max_length": 64, "separator_length": 1}, "max_length must be a whole number >= 65"),
        ({"separator_length": -1}, "separator_length must be a whole number >= 0; got -1"),
        ({"needle_share": -0.1}, "needle_share must be a number >= 0; got -0.1"),
        ({"needle_share": 1.1}, "needle_share must be at most 1; got 1.1"),
    ],
)
def test_wrong_values_are_refused(maker, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        documents(maker, **settings)
