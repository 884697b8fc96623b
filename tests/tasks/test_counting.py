"""Counting tokens in either unit, and finding the tokenizer to count with."""

from __future__ import annotations

import copy
import sys

import pytest

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.tasks import token_counts as counting
from lm_eval_llada.tasks.niah.single import build_niah
from lm_eval_llada.tasks.token_counts import chat_overhead, make_counter
from tests.helpers.toy_tokenizer import toy_tokenizer


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
    with pytest.raises(ImportError, match=r'pip install -e "\.\[ruler\]"'):
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


# --- chat ---------------------------------------------------------------------------------------

MARKS = "<|startoftext|><|start_header_id|>"
PLAIN_WORDS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def with_template(template: str | None):
    tokenizer = copy.copy(toy_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def chat_of(tokenizer, message: str, answer: str) -> str:
    turns = [{"role": "user", "content": message}]
    opened = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return opened + answer


@pytest.mark.parametrize("tokenizer", [load_tokenizer(), with_template(PLAIN_WORDS)])
@pytest.mark.parametrize("answer", ["", "The answer is", "7"])
@pytest.mark.parametrize("message", ["Which number is it?", "x", "3 + 4 =", "第一段"])
def test_chat_counts_no_less_than_what_is_sent(tokenizer, message, answer):
    counter = make_counter(tokenizer, apply_chat_template=True)
    sent = len(
        tokenizer(chat_of(tokenizer, message, answer), add_special_tokens=False)["input_ids"]
    )
    parts = sum(make_counter(tokenizer).count_plain([message, answer]))
    assert counter.num_special == chat_overhead(tokenizer)
    assert sent <= parts + counter.num_special <= sent + 2


def test_shipped_chat_format_takes_17_tokens():
    # One of text, two turns of two marks around the letters of the role, two line breaks each, and
    # one end of turn.
    tokenizer = load_tokenizer()
    assert chat_of(tokenizer, "", "").startswith(MARKS)
    assert chat_overhead(tokenizer) == 17


def test_chat_that_writes_its_bos_gets_no_second_one():
    tokenizer = with_template("{{ bos_token }}" + PLAIN_WORDS)
    with_bos, without = (
        make_counter(tokenizer, apply_chat_template=True, add_bos_token=add)
        for add in (True, False)
    )
    assert with_bos.num_special == without.num_special == chat_overhead(tokenizer)
    plain = with_template(PLAIN_WORDS)
    counter = make_counter(plain, apply_chat_template=True, add_bos_token=True)
    assert counter.num_special == chat_overhead(plain) + 1 == chat_overhead(tokenizer)


def test_chat_format_counts_in_the_models_tokens_under_cl100k_too(monkeypatch):
    monkeypatch.setattr(counting, "cl100k_encoding", Words)
    counter = make_counter(load_tokenizer(), "cl100k", apply_chat_template=True)
    assert counter.count("one two three") == 3 + chat_overhead(load_tokenizer())


def test_missing_chat_template_is_an_error():
    with pytest.raises(ValueError, match="no chat template.*run without apply_chat_template"):
        make_counter(with_template(None), apply_chat_template=True)
