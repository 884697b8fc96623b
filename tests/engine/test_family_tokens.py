"""The mask token and the ends of a text, where families keep them in different places."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.modeling import LLaDAConfig
from lm_eval_llada.modeling.families import FAMILIES
from tests.helpers.family_tokenizers import write_remote_tokenizer, write_toy_tokenizer

NAMED = [(row.name, token) for row in FAMILIES for token in row.mask_tokens]


def config_of(family: str, **changes) -> LLaDAConfig:
    sizes = {"vocab_size": 700, "d_model": 32, "n_heads": 4, "n_layers": 1, "mlp_hidden_size": 32}
    return LLaDAConfig(family=family, **{**sizes, **changes})


def opened(folder: Path, config: LLaDAConfig) -> Tokenization:
    return Tokenization(str(folder), config)


@pytest.mark.parametrize(("family", "name"), NAMED)
def test_a_mask_token_that_the_config_does_not_name_is_the_one_its_family_names(
    tmp_path, family, name
):
    tokenizer = write_toy_tokenizer(tmp_path, "<|other|>", name)
    found = opened(tmp_path, config_of(family)).mask_token_id
    assert found == tokenizer.convert_tokens_to_ids(name) == len(tokenizer) - 1
    # A config that names one has the last word.
    other = tokenizer.convert_tokens_to_ids("<|other|>")
    assert opened(tmp_path, config_of(family, mask_token_id=other)).mask_token_id == other


def test_of_two_names_for_a_mask_the_familys_counts(tmp_path):
    tokenizer = write_toy_tokenizer(tmp_path, "<|mask|>", mask_token="<MASK>")
    assert tokenizer.mask_token_id != tokenizer.convert_tokens_to_ids("<|mask|>")
    found = opened(tmp_path, config_of("A2D-Qwen3")).mask_token_id
    assert found == tokenizer.convert_tokens_to_ids("<|mask|>")


def test_of_sdars_two_names_the_first_counts(tmp_path):
    # An id of its own for the second would be one that the model was never trained on.
    tokenizer = write_toy_tokenizer(tmp_path, "<MASK>", mask_token="<|MASK|>")
    assert tokenizer.mask_token_id == tokenizer.convert_tokens_to_ids("<MASK>") + 1
    found = opened(tmp_path, config_of("SDAR")).mask_token_id
    assert found == tokenizer.convert_tokens_to_ids("<MASK>")


def test_a_tokenizers_own_mask_token_stands_in_for_one_it_does_not_know(tmp_path):
    tokenizer = write_toy_tokenizer(tmp_path, mask_token="<MASK>")
    assert opened(tmp_path, config_of("A2D-Qwen3")).mask_token_id == tokenizer.mask_token_id


def test_without_any_mask_token_the_error_says_what_it_would_be_called(tmp_path):
    write_toy_tokenizer(tmp_path)
    # Ordinary text that spells the name is no mask token.
    with pytest.raises(ValueError, match=r"which iLLaDA calls '<\[MASK\]>'; add mask_token_id"):
        opened(tmp_path, config_of("iLLaDA"))
    with pytest.raises(ValueError, match="The config of the model has no mask_token_id"):
        opened(tmp_path, config_of("LLaDA"))


def test_every_token_that_ends_a_turn_or_a_text_ends_an_answer(tmp_path):
    tokenizer = write_toy_tokenizer(tmp_path, "<|mask|>", "<|im_end|>", "<|eot_id|>", "<|stop|>")
    stop, turn = (tokenizer.convert_tokens_to_ids(name) for name in ("<|stop|>", "<|im_end|>"))
    config = config_of("Dream", eos_token_id=[stop, tokenizer.eos_token_id])
    text = opened(tmp_path, config)
    assert text.eos_token_id == stop
    assert text.end_token_ids == (stop, tokenizer.eos_token_id, turn)
    ids = [*tokenizer.encode("A"), turn, *tokenizer.encode("B")]
    assert text.text_of(ids, [], ignore_eos=False) == "A"
    # Each family has its own: LLaDA's does not end on that of Qwen, nor the other way.
    llada = opened(tmp_path, config_of("LLaDA", mask_token_id=config_mask(tokenizer)))
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in llada.end_token_ids
    assert turn not in llada.end_token_ids


def config_mask(tokenizer) -> int:
    return tokenizer.convert_tokens_to_ids("<|mask|>")


def test_a_tokenizer_of_remote_code_is_read_by_the_class_it_was_made_from(tmp_path):
    write_remote_tokenizer(tmp_path)
    tokenizer = load_tokenizer(None, str(tmp_path))
    assert type(tokenizer).__name__ == "Qwen2Tokenizer"
    ids = tokenizer("the the<|im_end|>12")["input_ids"]
    assert ids == [
        257, 258, tokenizer.convert_tokens_to_ids("<|im_end|>"),
        *(tokenizer.convert_tokens_to_ids(digit) for digit in "12"),
    ]  # fmt: skip
    text = opened(tmp_path, config_of("Dream"))
    assert (text.mask_token_id, text.eos_token_id) == (263, 259)
    assert text.end_token_ids == (259, 261)
