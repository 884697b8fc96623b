"""Cutting prompts in the middle: both ends stay, and the budget holds however it is counted."""

from __future__ import annotations

import copy
import re
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lm_eval_llada.tasks import token_counts as counting
from lm_eval_llada.tasks.longbench import truncation
from lm_eval_llada.tasks.longbench.truncation import (
    Cut,
    MiddleCutter,
    make_cutter,
)
from tests.helpers.toy_tokenizer import toy_tokenizer

BOS = "<|startoftext|>"


@lru_cache(maxsize=1)
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """The toy tokenizer, which here puts a BOS token before every text by itself."""
    backend = copy.deepcopy(toy_tokenizer().backend_tokenizer)
    backend.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, toy_tokenizer().bos_token_id)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS)


@lru_cache(maxsize=1)
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The toy tokenizer with a chat format whose marks are ordinary characters."""
    tokenizer = copy.deepcopy(toy_tokenizer())
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}>"
    return tokenizer


TOKENIZERS = {"without BOS": toy_tokenizer, "with BOS": bos_tokenizer}
LETTERS = MiddleCutter(lambda text: [ord(c) for c in text], lambda ids: "".join(map(chr, ids)))


def by_original_rule(tokenizer: PreTrainedTokenizerFast, text: str, budget: int) -> str:
    """What LongBench's program makes of a prompt, for even budgets."""
    ids = tokenizer(text)["input_ids"]
    if len(ids) <= budget:
        return text
    half = budget // 2
    ends = (ids[:half], ids[-half:])
    return "".join(tokenizer.decode(part, skip_special_tokens=True) for part in ends)


@pytest.mark.parametrize(
    ("budget", "num_special", "text", "num_tokens"),
    [
        (8, 0, "abcdefgh", 8),
        (7, 0, "abcefgh", 7),
        (6, 0, "abcfgh", 6),
        (5, 0, "abfgh", 5),
        (2, 0, "ah", 2),
        (9, 1, "abcdefgh", 9),
        (8, 1, "abcefgh", 8),  # the special token is one of the four of the first half
        (7, 1, "abcfgh", 7),
        (3, 1, "ah", 3),
    ],
)
def test_cut_has_the_ends_worked_by_hand(budget, num_special, text, num_tokens):
    cutter = MiddleCutter(LETTERS.encode, LETTERS.decode, num_special)
    expected = Cut(text, num_tokens, 8 + num_special - num_tokens)
    assert cutter.cut("abcdefgh", budget) == expected


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("budget", [10, 32, 64, 250])
def test_even_budgets_give_the_originals_text(make, budget):
    text = "Nobody carries sand, it is everywhere! Trains carry 40 tons of coal. " * 7
    cut = make_cutter(make()).cut(text, budget)
    assert cut.text == by_original_rule(make(), text, budget)
    assert (cut.num_dropped > 0) == (cut.text != text)


TEXTS = st.text(st.sampled_from("ab c.\n07文字é😀ñ\ufffd"), max_size=120)


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
@given(text=TEXTS, budget=st.integers(4, 150))
def test_prompt_keeps_to_its_budget_and_keeps_both_ends(make, text, budget):
    tokenizer = make()
    whole = len(tokenizer(text)["input_ids"])
    cut = make_cutter(tokenizer).cut(text, budget)
    assert cut.num_tokens == len(tokenizer(cut.text)["input_ids"]) <= budget
    assert cut.num_dropped == whole - cut.num_tokens
    if whole <= budget:
        assert cut == Cut(text, whole, 0)
        return
    assert cut.num_dropped > 0
    places = range(len(cut.text) + 1)
    if "\ufffd" not in text:
        head = max(n for n in places if text.startswith(cut.text[:n]))
        tail = max(n for n in places if text.endswith(cut.text[len(cut.text) - n :]))
        assert head + tail >= len(cut.text)


@given(text=st.text(st.sampled_from("a 文字é😀"), min_size=60), budget=st.integers(4, 60))
def test_no_character_is_cut_into_pieces(text, budget):
    # Three tokens for most Chinese characters and four for the face, none of which merge here.
    cut = make_cutter(toy_tokenizer()).cut(text, budget)
    assert "\ufffd" not in cut.text
    # No more than the two characters at the seam are given up, and what is left may merge there.
    assert cut.num_tokens >= min(budget, cut.num_tokens + cut.num_dropped) - 7


def test_replacement_characters_of_the_prompt_itself_stay():
    text = "\ufffd" * 40
    cut = make_cutter(toy_tokenizer()).cut(text, 30)
    assert 8 <= cut.text.count("\ufffd") == len(cut.text) <= 10  # three tokens each


def test_seam_that_needs_more_tokens_is_cut_again():
    def encode(text: str) -> list[str]:
        return re.findall("ab|bcd|.", text)

    cutter = MiddleCutter(encode, "".join)
    # Two tokens of each end are "pa" and "bcdq", which joined are p, ab, c, d, q: five.
    assert cutter.cut("pa------bcdq", 4) == Cut("pbcdq", 3, 7)


def test_budget_without_room_for_both_ends_is_refused():
    cutter = MiddleCutter(LETTERS.encode, LETTERS.decode, 6)
    with pytest.raises(ValueError, match="14 tokens cannot be cut to 7, as 6 of them are special"):
        cutter.cut("abcdefgh", 7)
    assert cutter.cut("a", 7).text == "a"


def test_marks_around_the_text_are_part_of_the_budget_as_they_are_encoded():
    def encode(text: str) -> list[str]:
        return re.findall("<a|.", text)

    cutter = MiddleCutter(encode, "".join, 1, "<{}>".format)
    assert cutter.cut("abcdef", 8) == Cut("abcdef", 8, 0)  # <a, b to f, >, and a special token
    assert cutter.cut("abcdef", 7) == Cut("abdef", 7, 1)
    # Two tokens around six letters, while the first mark takes one of its own before another.
    assert cutter.cut("Abcdef", 8) == Cut("Abdef", 8, 1)


@given(text=st.text(st.sampled_from("a []\n文.1"), max_size=150), budget=st.integers(12, 100))
def test_chat_prompt_keeps_to_its_budget(text, budget):
    tokenizer = chat_tokenizer()
    cut = make_cutter(tokenizer, apply_chat_template=True).cut(text, budget)
    message = [{"role": "user", "content": cut.text}]
    ids = tokenizer(tokenizer.apply_chat_template(message, tokenize=False))["input_ids"]
    assert len(ids) == cut.num_tokens <= budget


def test_special_tokens_that_the_text_spells_are_left_out_of_a_cut():
    text = f"one two {BOS}three" + " and so on" * 50
    cutter = make_cutter(toy_tokenizer())
    assert cutter.cut(text, 10_000).text == text
    assert cutter.cut(text, 60).text.startswith("one two three and")


def test_bos_that_the_model_adds_is_counted():
    text = "one two three " * 50
    plain = make_cutter(toy_tokenizer()).cut(text, 40)
    with_bos = make_cutter(toy_tokenizer(), add_bos_token=True).cut(text, 40)
    assert len(toy_tokenizer()(with_bos.text)["input_ids"]) + 1 == with_bos.num_tokens <= 40
    assert len(with_bos.text) < len(plain.text)


def test_cutting_ignores_the_tokenizers_last_truncation():
    tokenizer = copy.deepcopy(toy_tokenizer())
    text = "one two three " * 50
    expected = make_cutter(tokenizer).cut(text, 40)
    tokenizer(text, truncation=True, max_length=5)
    assert make_cutter(tokenizer).cut(text, 40) == expected


def test_slow_tokenizer_cuts_by_its_call():
    class Slow:
        bos_token_id = 1

        def __call__(self, text, add_special_tokens=True, verbose=True):
            return {"input_ids": [*([1] if add_special_tokens else []), *map(ord, text)]}

        def decode(self, ids, skip_special_tokens, clean_up_tokenization_spaces):
            assert skip_special_tokens and not clean_up_tokenization_spaces
            return "".join(map(chr, ids))

    assert make_cutter(Slow()).cut("abcdefgh", 6) == Cut("abfgh", 6, 3)


def test_budget_can_be_in_cl100k_tokens(monkeypatch):
    class Letters:
        encode_ordinary = staticmethod(LETTERS.encode)
        decode = staticmethod(LETTERS.decode)

    monkeypatch.setattr(counting, "cl100k_encoding", Letters)
    monkeypatch.setattr(truncation, "cl100k_encoding", Letters)
    assert make_cutter(toy_tokenizer(), "cl100k").cut("abcdefgh", 5).text == "abfgh"
