"""Counting tokens in either unit, and finding the tokenizer to count with."""

from __future__ import annotations

import sys

import pytest
from toy_tokenizer import toy_tokenizer

from lm_eval_llada.data import counting
from lm_eval_llada.data.counting import load_tokenizer, make_counter
from lm_eval_llada.data.niah import build_niah


class Words:
    """Stands in for tiktoken's encoding: a token a word."""

    def encode_ordinary(self, text: str) -> list[str]:
        return text.split()


def test_length_can_be_counted_in_cl100k_tokens(monkeypatch):
    monkeypatch.setattr(counting, "cl100k_encoding", Words)
    (sample,) = build_niah(
        toy_tokenizer(), length=200, gen_length=8, length_unit="cl100k", repeats=1, depths=[50]
    )
    assert 184 <= len(sample["prompt"].split()) == sample["num_tokens"] <= 192


def test_cl100k_that_cannot_be_downloaded_is_explained(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")

    def fail(name):
        raise OSError("no route to host")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(ValueError, match="TIKTOKEN_CACHE_DIR.*length_unit='model'"):
        make_counter(toy_tokenizer(), "cl100k")


def test_missing_tiktoken_is_explained_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ImportError, match=r'pip install "lm_eval_llada\[ruler\]"'):
        make_counter(toy_tokenizer(), "cl100k")


def test_counting_is_not_cut_by_the_tokenizers_last_truncation(tmp_path):
    toy_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    text = "one two three " * 50
    expected = len(tokenizer(text)["input_ids"])
    tokenizer(text, truncation=True, max_length=5)
    assert make_counter(tokenizer).count(text) == expected


def test_slow_tokenizer_counts_by_its_call():
    class Slow:
        bos_token_id = 1

        def __call__(self, texts, add_special_tokens=True, verbose=True):
            if isinstance(texts, str):
                return {"input_ids": [1, *texts.split()]}
            return {"input_ids": [text.split() for text in texts]}

    counter = make_counter(Slow(), add_bos_token=True)
    assert counter.count("one two") == 3  # its own beginning-of-sequence token is not added twice
    assert counter.count_pieces(["a b", " c", "a b"]) == [2, 1, 2]


def test_tokenizer_comes_from_either_model_argument(tmp_path):
    toy_tokenizer().save_pretrained(tmp_path)
    for arguments in ({"tokenizer": str(tmp_path)}, {"pretrained": str(tmp_path)}):
        assert len(load_tokenizer(**arguments)) == len(toy_tokenizer())
    assert load_tokenizer(toy_tokenizer(), "somewhere/else") is toy_tokenizer()
    with pytest.raises(ValueError, match="pass tokenizer= as well"):
        load_tokenizer(pretrained=object())
    with pytest.raises(ValueError, match="does not exist"):
        load_tokenizer(pretrained="./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No tokenizer could be loaded"):
        load_tokenizer(pretrained=str(tmp_path / "empty"))
