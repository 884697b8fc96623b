"""`attention=`: what a run makes of a checkpoint whose files do not say how it attends."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_eval_llada.engine.arguments import LoadingOptions, answer_fingerprint, parse_model_args
from lm_eval_llada.engine.loading import open_checkpoint, open_run
from lm_eval_llada.engine.tokenization import Tokenization
from tests.helpers.family_checkpoints import make_family_checkpoint
from tests.helpers.family_tokenizers import write_toy_tokenizer


@pytest.fixture(scope="module")
def a2d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a2d")
    tokenizer = write_toy_tokenizer(folder, "<|mask|>")
    make_family_checkpoint("A2D-Qwen3", folder, vocab_size=len(tokenizer))
    return folder


def test_a_run_attends_as_it_is_told(a2d):
    given = {"pretrained": str(a2d)}
    assert open_run(given).config.blocks is None
    blocks = open_run({**given, "attention": "block"}).config.blocks
    assert blocks is not None and (blocks.block_length, blocks.grid) == (32, "prompt")
    checkpoint = open_run({**given, "attention": "block", "block_length": "8"})
    assert checkpoint.config.block_length == checkpoint.arguments.sampling.block_length == 8


def test_what_is_kept_open_is_not_taken_over_under_another_attention(a2d):
    given = {"pretrained": str(a2d)}
    open_checkpoint(parse_model_args(given), keep=True)
    arguments = parse_model_args({**given, "attention": "block"})
    assert open_checkpoint(arguments, keep=True).config.block_length == 32
    other = parse_model_args({**given, "attention": "block", "block_length": 4})
    assert open_checkpoint(other).config.block_length == 4


def test_answers_of_one_attention_are_not_those_of_the_other(a2d):
    given = {"pretrained": str(a2d)}
    said = parse_model_args({**given, "attention": "block"})
    assert isinstance(open_checkpoint(said).text, Tokenization)
    digests = {
        answer_fingerprint(parse_model_args(given), str(a2d)),
        answer_fingerprint(said, str(a2d)),
    }
    assert len(digests) == 2


def test_an_unknown_word_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="attention must be one of bidirectional, block"):
        LoadingOptions(attention="full")
