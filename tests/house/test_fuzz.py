"""Whatever a user feeds in ends in a right result or in one clear sentence.

The strategies are in `fuzz_settings` and `fuzz_files`; `benchmarks/endurance/fuzz.py` runs many
thousands of their inputs, this file a few of each and those that once ended otherwise.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from lm_eval_llada import errors
from tests.helpers.fuzz_files import FAMILIES as FILES
from tests.helpers.fuzz_files import MASK_ID
from tests.helpers.fuzz_oracle import Family, check_refusal, is_accepted
from tests.helpers.fuzz_settings import FAMILIES as SETTINGS
from tests.helpers.toy_requests import generations

FAMILIES = {family.name: family for family in (*SETTINGS, *FILES)}


def feed(family: Family, num_examples: int) -> None:
    @settings(
        max_examples=num_examples,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(family.inputs)
    def check(value: Any) -> None:
        is_accepted(family, value)

    check()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_an_input_is_answered_rightly_or_refused_in_a_sentence(family: Family) -> None:
    feed(family, 10)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_many_inputs_are_answered_rightly_or_refused_in_a_sentence(family: Family) -> None:
    feed(family, round(300 * family.weight))


LINEAR = {"rope_parameters": {"rope_type": "linear"}}
ONE_NAME = {"weight_map": {"model.transformer.ln_f.weight": 3}, "metadata": {}}


@pytest.mark.parametrize(
    ("family", "value"),
    [
        ("gen_kwargs", {"max_new_tokens": {"": 5.5}}),
        ("gen_kwargs", {"max_gen_toks": 12.5}),
        ("gen_kwargs", {"max_new_tokens": 0.0, "top_p": 0.0}),
        ("gen_kwargs", {"temperature": ""}),
        ("gen_kwargs", {"until": [["x"]]}),
        ("model_args", {"rope_scale": 10**400}),
        ("metadata", ("perplexity", {"lengths": 300})),
        ("metadata", ("perplexity", {"text": False})),
        ("metadata", ("niah", {"gen_kwargs": 5})),
        ("metadata", ("ruler", {"generation_kwargs": "gen_length=5"})),
        ("metadata", ("ruler", {"template": "{context!z}"})),
        ("metadata", ("ruler", {"template": "{context} {query:{x}}"})),
        ("metadata", ("longbench", {"data_dir": 42})),
        ("metadata", ("longbench", {"template": 0.5})),
        ("tokenizers", ({"tokenizer_class": 2.5}, None)),
        ("tokenizers", ({"mask_token": {"": None}}, None)),
        ("tokenizers", ({"model_max_length": [0]}, None)),
        ("tokenizers", ({"chat_template": 5}, None)),
        ("tokenizers", ({}, {"pre_tokenizer": {"type": "None"}})),
        ("configs", ([], {}, {}, {}, {"d_model": 2**40})),
        ("configs", ([], {}, {"rope_parameters": True}, {}, {})),
        ("configs", ([], {}, {"eos_token_id": {"a": 1}}, {}, {})),
        ("configs", ([], {}, {"dtype": "float61"}, {}, {})),
        ("configs", ([], {}, {}, LINEAR, {})),
        ("indices", ONE_NAME),
        ("indices", {"weight_map": {"a": "../outside.safetensors"}, "metadata": {}}),
        ("corpora", ("essays", b"\xe6{")),
        ("corpora", ("essays", b'{"title": "", "text": "\\ud800"}')),
        ("corpora", ("longbench", b'{"dataset": "trec", "_id": "\\uD800"}')),
    ],
)
def test_what_once_ended_otherwise_is_refused(family: str, value: Any) -> None:
    assert not is_accepted(FAMILIES[family], value)


@pytest.mark.parametrize(
    ("family", "value"),
    [
        ("rope", ({"method": "ntk", "target_length": 4096}, (1e4, 4, 128))),
        ("model_args", {"rope_method": "yarn", "target_length": 256, "mc_num": 2}),
        ("gen_kwargs", {"max_gen_toks": "16", "until": "\n", "do_sample": False}),
        ("metadata", ("niah", {"depths": [0, 100]})),
        ("prompts", ("\0 👩‍👩‍👧 <|mdm_mask|>", "")),
        ("tokenizers", ({"eos_token": ..., "pad_token": ..., "bos_token": ...}, None)),
        ("configs", (["rope_theta"], {}, {"init_fn": 3}, {}, {})),
        ("corpora", ("pg19", b"A book of some words. \r\n" * 40)),
        ("corpora", ("essays", b'{"title": "", "text": "\\ud83d\\ude00 %s"}' % (b"Words. " * 60))),
    ],
)
def test_odd_but_right_inputs_are_accepted(family: str, value: Any) -> None:
    assert is_accepted(FAMILIES[family], value)


def test_the_oracle_takes_no_words_but_our_own() -> None:
    with pytest.raises(ValueError) as foreign:
        int("x")
    with pytest.raises(AssertionError, match="the words of"):
        check_refusal(foreign.value, ["x"])
    with pytest.raises(ValueError) as unnamed:
        errors.require_whole("steps", 0, 1)
    check_refusal(unnamed.value, ["steps"])
    with pytest.raises(AssertionError, match="names nothing of the input"):
        check_refusal(unnamed.value, ["block_length"])


@pytest.mark.slow
def test_a_prompt_of_10_mb_is_read_and_cut(make) -> None:
    lm = make(max_length=64)
    prompt = "The rain fell on <|mdm_mask|>. " * (10_000_000 // 31)
    ids = lm.tok_encode(prompt)
    assert len(ids) > 1_000_000 and MASK_ID not in ids
    assert isinstance(lm.generate_until(generations([prompt]))[0], str)
    (counts,) = lm.get_model_info()["llada"]["truncation"].values()
    assert counts["tokens_dropped"] == len(ids) - 56


def test_the_benchmark_of_many_inputs_runs_the_same_families(monkeypatch) -> None:
    fuzz: Any = importlib.import_module("benchmarks.endurance.fuzz")
    assert list(fuzz.FAMILIES) == list(FAMILIES)
    counts = fuzz.run(FAMILIES["gen_kwargs"], 20, 1, 60.0)
    assert counts.accepted + counts.refused == 20 and not counts.failed
