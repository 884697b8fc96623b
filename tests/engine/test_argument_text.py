"""Arguments mean the same from the command line, a file, and a string in Python."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval._cli.utils import key_val_to_dict
from lm_eval.models.huggingface import HFLM

from lm_eval_llada.engine.argument_text import check_pairs, check_texts, read_pairs
from lm_eval_llada.engine.arguments import known_names, parse_model_args
from lm_eval_llada.harness.hf_rope import RopeLM
from lm_eval_llada.harness.llada import LLaDALM

TEXTS = ("pretrained", "tokenizer", "revision", "dtype", "device", "attn_implementation",
         "device_map", "quantization", "truncation", "answers_dir", "data_dir", "length_unit",
         "attention", "peft", "kernels", "remasking", "alg", "cache", "cache_dtype", "entry",
         "generation",
         "likelihood", "likelihood_cache", "rope_method")  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("typed", ["2024.10", "1234e56", "007"])
def test_a_number_that_was_made_of_a_text_is_refused(name: str, typed: str) -> None:
    # pretrained=2024.10 opened the checkpoint 2024.1.
    with pytest.raises(ValueError, match=rf"{name} must be text, but was read as the number"):
        parse_model_args(key_val_to_dict(f"{name}={typed}"))


def test_every_option_that_is_a_text_is_among_those_tested() -> None:
    def takes_number(name: str) -> bool:
        try:
            parse_model_args({name: 0.1})
        except ValueError as error:
            return "must be text" not in str(error)
        return True

    assert {name for name in known_names() if not takes_number(name)} == {*TEXTS}


def test_quotes_keep_a_number_a_text() -> None:
    arguments = parse_model_args(key_val_to_dict('pretrained="2024.10",revision="1234e56"'))
    assert (arguments.loading.pretrained, arguments.loading.revision) == ("2024.10", "1234e56")


@pytest.mark.parametrize("name", ["pretrained", "revision", "tokenizer", "dtype", "peft"])
def test_the_causal_model_refuses_such_numbers_too(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be text"):
        check_texts({name: 2024.1}, HFLM.__init__)
    with pytest.raises(ValueError, match=f"{name} must be text"):
        RopeLM(**{"pretrained": "tiny-llama", name: 2024.1})


@pytest.mark.parametrize("value", ["1e2", 1e2, 100, "100", "+100", "0100"])
def test_whole_numbers_are_the_same_however_they_are_written(value: Any) -> None:
    assert parse_model_args({"gen_length": value}).sampling.gen_length == 100


@pytest.mark.parametrize("value", ["1e30", 1e30, 2.0**53 + 2, float("inf"), "nan"])
def test_a_float_that_is_no_longer_what_was_typed_is_no_seed(value: Any) -> None:
    with pytest.raises(ValueError, match="seed must be an integer"):
        parse_model_args({"seed": value})


@pytest.mark.parametrize("word", ["cache", "answers_dir", "quantization"])
@pytest.mark.parametrize("value", ["none", "None", None])
def test_none_is_a_word_where_it_is_one_of_the_choices(word: str, value: Any) -> None:
    assert parse_model_args({word: value}) == parse_model_args({word: "none"})


def test_a_string_in_python_reads_as_the_command_line_does(random_checkpoint) -> None:
    # The harness' other parser made None of the method none, and so ntk of it.
    text = f"pretrained={random_checkpoint},device=cpu,rope_method=none,target_length=512"
    lm = LLaDALM.create_from_arg_string(f"{text},cache=none,answers_dir=none,quantization=none")
    assert (lm.rope.method, lm.rope.rope_scale) == ("none", 1)
    assert lm.arguments.sampling.cache == "none"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("until=Bob's,max_gen_toks=4", "'"),
        ('until=12",max_gen_toks=4', '"'),
        ("until=(,max_gen_toks=4", r"\("),
        ("max_gen_toks=4,until=[a", r"\["),
        ("a={,b=2", r"\{"),
    ],
)
def test_an_open_quote_swallows_nothing(text: str, letter: str) -> None:
    with pytest.raises(ValueError, match=f"--gen_kwargs: {letter} in .* is not closed by"):
        check_pairs(text, "--gen_kwargs")


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ('until="Bob\'s",max_gen_toks=4', "Bob's"),
        ("until=a),max_gen_toks=4", "a)"),
        ('until=["a","b,c"],max_gen_toks=4', ["a", "b,c"]),
    ],
)
def test_closed_quotes_and_brackets_are_read(text: str, until: Any) -> None:
    assert read_pairs(text, "gen_kwargs") == {"until": until, "max_gen_toks": 4}


def test_json_is_left_to_its_own_parser() -> None:
    check_pairs('{"until": ["Bob\'s", "("]}', "--gen_kwargs")


def test_a_name_without_a_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="model_args: expected `key=value`, got 'tiny-llada'"):
        read_pairs("tiny-llada", "model_args")
