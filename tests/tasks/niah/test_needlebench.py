"""NeedleBench as OpenCompass runs it: its needles, its order of documents, its places."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.tasks import token_counts as counting
from lm_eval_llada.tasks.niah.needlebench import (
    TokenCutter,
    fixed_context,
    shuffled_for,
)
from lm_eval_llada.tasks.niah.needles import needlebench_drawn
from lm_eval_llada.tasks.niah.scores import niah_results
from lm_eval_llada.tasks.niah.single import DEPTHS, build_niah
from tests.helpers.cl100k_stand_in import StandIn
from tests.helpers.toy_tokenizer import toy_tokenizer


@pytest.fixture
def cl100k(monkeypatch) -> StandIn:
    encoding = StandIn()
    monkeypatch.setattr(counting, "cl100k_encoding", lambda: encoding)
    return encoding


def test_needles_of_the_ten_repeats_are_those_of_opencompass(data_dir):  # noqa: F811
    drawn = [needlebench_drawn(repeat, data_dir) for repeat in range(10)]
    assert [needle.answer for needle in drawn] == [
        *("Magic Essence", "Cosmic Ruler Starshine", "Orion the Hunter", "Moonlight Box"),
        *("Moonlight Box", "Moonlight Box", "Ghost Pearl", "Moonlight Box", "Ghost Pearl"),
        "Dream Bubble",
    ]
    keys = [needle.key for needle in drawn]
    assert keys[3] == keys[4] == "Phantom Island"
    assert len({(needle.key, needle.answer) for needle in drawn}) == 9


def test_an_output_without_the_keyword_is_compared_to_the_needle(data_dir, cl100k):  # noqa: F811
    (sample,) = build_niah(
        toy_tokenizer(),
        **{"length": 2000, "gen_length": 32, "buffer": 600, "repeats": 1, "depths": [50]},
        **{"haystack": "needlebench", "length_unit": "cl100k", "data_dir": data_dir},
    )
    assert sample["reference"] == "Hidden on Emerald Island is the legendary Magic Essence."
    assert niah_results(sample, [" the magic essence"])["score"] < 20
    assert niah_results(sample, [" the Magic Essence"])["score"] == 100
    without = sample["reference"].replace("Magic", "magic")
    assert niah_results(sample, [without])["score"] == pytest.approx(0.2 * 100 * 47 / 48)


def loop_context(documents: list[str], num_tokens: int, needle: str, depth: int, encoding) -> str:
    """The released code's steps, one by one: ids are joined, cut, parted and decoded."""
    needle_ids = encoding.encode_ordinary(f"\n{needle}\n")
    room = num_tokens - len(needle_ids)
    ids: list[int] = []
    for document in documents:
        ids.extend(encoding.encode_ordinary(document))
    ids = ids[:room]
    place = int(len(ids) * (depth / 100))
    return encoding.decode(ids[:place] + needle_ids + ids[place:])


@settings(max_examples=60)
@given(
    documents=st.lists(st.text("ab é。\n.", min_size=0, max_size=60), min_size=8, max_size=12),
    num_tokens=st.integers(20, 60),
    depth=st.sampled_from(DEPTHS),
)
def test_contexts_are_those_of_the_released_steps(documents, num_tokens, depth):
    documents = [*documents, "and the rest is long enough for any number of tokens, " * 3]
    encoding = StandIn()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "cl100k_encoding", lambda: encoding)
        cutter = TokenCutter(None, "cl100k")
    context, (share,) = fixed_context(documents, num_tokens, [(depth / 100, "It is X.")], cutter)
    assert context == loop_context(documents, num_tokens, "It is X.", depth, encoding)
    assert depth / 100 - 1 / (num_tokens - 8) < share <= depth / 100


@settings(max_examples=60)
@given(text=st.text(max_size=200))
def test_pieces_are_as_many_as_tokens_and_join_to_the_text(text):
    pieces = TokenCutter(toy_tokenizer(), "model").cut(text)
    assert "".join(pieces) == text
    assert len(pieces) == len(toy_tokenizer()(text, add_special_tokens=False)["input_ids"])


def test_tiktoken_says_where_its_tokens_are(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([value]): value for value in range(256)}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={}
    )
    monkeypatch.setattr(counting, "cl100k_encoding", lambda: encoding)
    pieces = TokenCutter(None, "cl100k").cut("a é’b <|endoftext|>")
    assert "".join(pieces) == "a é’b <|endoftext|>"
    assert pieces[:8] == ["a", " ", "", "é", "", "", "’", "b"]


def test_a_tokenizer_without_places_is_refused():
    with pytest.raises(ValueError, match="needs a fast tokenizer.*got object"):
        TokenCutter(object(), "model")


def test_documents_are_shuffled_again_in_every_repeat():
    documents = [f"text {number}" for number in range(20)]
    lines = documents.copy()
    state = random.getstate()
    for repeat in range(4):
        random.seed(repeat)
        random.shuffle(lines)
        expected = lines.copy()
        assert shuffled_for(repeat, documents) == expected
    random.setstate(state)
