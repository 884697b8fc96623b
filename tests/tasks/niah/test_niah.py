"""Samples of needle in a haystack: their length, their needles and their places."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.tasks.niah.needles import number_needles
from lm_eval_llada.tasks.niah.single import (
    DEPTHS,
    NiahOptions,
    build_niah,
    niah_dataset,
)
from lm_eval_llada.tasks.niah.words import KEYS
from tests.helpers.toy_tokenizer import toy_tokenizer

NEEDLE = re.compile(r"The [a-z]+ [a-z]+ for ([a-z]+-[a-z]+) is (\d{5})\.")
GENERATION = {"gen_length": 8}
MODEL_ARGUMENTS = """
revision dtype device attn_implementation device_map tp batch_size max_length truncation
rope_method rope_scale target_length train_length d_crit round_scale force_rope steps gen_length
block_length remasking temperature cfg_scale threshold cache refresh_every stop_at_eos
suppress_eos mc_num likelihood is_check_greedy seed version config_source
"""


def num_tokens(text: str) -> int:
    return len(toy_tokenizer()(text, add_special_tokens=False)["input_ids"])


# --- samples ------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    length=st.integers(220, 1500),
    gen_length=st.integers(6, 40),
    depth=st.sampled_from(DEPTHS) | st.floats(0, 100),
    num_distractors=st.integers(0, 3),
    seed=st.integers(0, 10**6),
)
def test_sample_never_exceeds_its_length_and_is_within_8_tokens(
    length, gen_length, depth, num_distractors, seed
):
    (sample,) = build_niah(
        toy_tokenizer(),
        length=length,
        gen_length=gen_length,
        depths=[depth],
        repeats=1,
        num_distractors=num_distractors,
        seed=seed,
    )
    total = num_tokens(sample["prompt"]) + gen_length
    assert total <= length <= total + 8
    assert sample["num_tokens"] + gen_length == total


@settings(max_examples=30)
@given(length=st.integers(260, 900), num_distractors=st.integers(0, 4), seed=st.integers(0, 10**6))
def test_every_needle_is_there_once_on_a_line_of_its_own(length, num_distractors, seed):
    samples = build_niah(
        toy_tokenizer(),
        length=length,
        gen_length=8,
        repeats=1,
        depths=[0, 40, 100],
        num_distractors=num_distractors,
        seed=seed,
    )
    for sample in samples:
        context, question = sample["prompt"].split("\n\nQuestion: ")
        found = [NEEDLE.fullmatch(line) for line in context.split("\n")]
        needles = [match.groups() for match in found if match]
        assert len(needles) == len(NEEDLE.findall(context)) == 1 + num_distractors
        keys, numbers = zip(*needles, strict=True)
        assert len(set(keys)) == len(set(numbers)) == len(needles)
        asked = re.search(r"for (\S+)\?", question).group(1)
        assert dict(needles)[asked] == sample["answer"]
        assert sample["answer"] not in question


def test_prompt_ends_in_the_stem_of_the_answer():
    for sample in build_niah(toy_tokenizer(), length=300, gen_length=8, repeats=3):
        stem = sample["reference"].removesuffix(f" {sample['answer']}.")
        assert sample["prompt"].endswith(f"\nAnswer: {stem}")


def needle_share(sample: dict) -> float:
    """Share of the haystack's tokens before the needle, measured in the prompt."""
    context = sample["prompt"].split("\n\nQuestion: ")[0]
    before, after = context.split(sample["reference"])
    return num_tokens(before) / (num_tokens(before) + num_tokens(after))


@settings(max_examples=8)
@given(length=st.integers(260, 1200), seed=st.integers(0, 10**6))
def test_needle_goes_deeper_with_depth_and_stays_near_it(length, seed):
    samples = build_niah(toy_tokenizer(), length=length, gen_length=8, repeats=1, seed=seed)
    shares = [needle_share(sample) for sample in samples]
    assert shares == sorted(shares)
    assert len(set(shares)) == len(shares)
    context = samples[0]["prompt"].split("\n\nQuestion: ")[0]
    assert context.startswith(samples[0]["reference"])
    assert samples[-1]["prompt"].split("\n\nQuestion: ")[0].endswith(samples[-1]["reference"])
    for sample, share in zip(samples, shares, strict=True):
        # A word of slack, since the newlines around a needle are tokens as well.
        slack = 8 / num_tokens(context)
        assert abs(share - sample["depth"] / 100) <= min(0.03, 64 / num_tokens(context)) + slack
        assert sample["placed_depth"] == pytest.approx(100 * share, abs=100 * slack)


def test_needles_stand_between_sentences_where_the_haystack_is_long():
    for sample in build_niah(toy_tokenizer(), length=4000, gen_length=8, repeats=1):
        lines = sample["prompt"].split("\n\nQuestion: ")[0].split("\n")
        place = lines.index(sample["reference"])
        if sample["depth"] < 100:
            assert all(line.endswith(".") for line in lines[:place])


def test_samples_do_not_depend_on_global_random_state_or_order():
    def build(**options):
        return build_niah(toy_tokenizer(), length=300, gen_length=8, num_distractors=2, **options)

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = build(repeats=3)
    states = random.getstate(), torch.get_rng_state()
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    build_niah(toy_tokenizer(), length=500, gen_length=8, repeats=1)
    assert build(repeats=3) == first
    assert build(repeats=2) == first[:22]
    assert build(repeats=3, depths=[40]) == [s for s in first if s["depth"] == 40]
    random.setstate(states[0]), torch.set_rng_state(states[1])
    build(repeats=1)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_samples_of_a_seed_stay_what_they_are():
    # Published numbers name the seed only, so a change of what it draws must be seen.
    (sample,) = build_niah(toy_tokenizer(), length=300, gen_length=8, repeats=1, depths=[0])
    assert sample["reference"] == "The locker code for drowsy-peach is 58289."
    assert "A farmer drove his cart slowly across the field." in sample["prompt"]


def test_another_seed_gives_other_needles_and_another_haystack():
    one, other = (
        build_niah(toy_tokenizer(), length=300, gen_length=8, repeats=1, depths=[0], seed=seed)[0]
        for seed in (1, 2)
    )
    assert one["reference"] != other["reference"]
    assert one["prompt"].split("\n")[1] != other["prompt"].split("\n")[1]


def test_repeats_have_needles_of_their_own_that_lengths_and_distractors_keep():
    short = build_niah(toy_tokenizer(), length=300, gen_length=8, repeats=12)
    long = build_niah(toy_tokenizer(), length=700, gen_length=8, repeats=12, num_distractors=3)
    assert [s["needle_id"] for s in short] == [s["needle_id"] for s in long]
    assert len({s["needle_id"] for s in short}) == 12
    assert all(len({s["needle_id"] for s in short[i : i + 11]}) == 1 for i in range(0, 132, 11))


def test_first_samples_are_spread_over_the_depths():
    samples = build_niah(toy_tokenizer(), length=300, gen_length=8, repeats=2)
    assert [sample["depth"] for sample in samples] == [*DEPTHS, *DEPTHS]


def test_special_tokens_of_the_model_are_counted():
    options = {"length": 400, "gen_length": 8, "repeats": 1, "depths": [50]}
    (plain,) = build_niah(toy_tokenizer(), **options)
    (with_bos,) = build_niah(toy_tokenizer(), add_bos_token=True, **options)
    assert with_bos["num_tokens"] == num_tokens(with_bos["prompt"]) + 1
    assert plain["num_tokens"] == num_tokens(plain["prompt"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be a whole number >= 1; got 0"),
        ({"length": 300.0}, "length must be a whole number"),
        ({"gen_length": 0}, "gen_length must be"),
        ({"repeats": 0}, "repeats must be"),
        ({"repeats": True}, "repeats must be"),
        ({"num_distractors": -1}, "num_distractors must be"),
        ({"gen_length": 300}, "length=300 must be more than gen_length=300"),
        ({"haystack": "noisy"}, "Did you mean 'noise'"),
        ({"needles": "number"}, "Did you mean 'numbers'"),
        ({"length_unit": "gpt4"}, "length_unit must be one of model, cl100k; got 'gpt4'"),
        ({"depths": [0, 101]}, "percentages from 0 to 100"),
        ({"depths": []}, "percentages from 0 to 100"),
        ({"depths": "50"}, "percentages from 0 to 100"),
        ({"depths": [50, 0]}, "must ascend"),
        ({"depths": [50, 50]}, "must ascend"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NiahOptions(**{"length": 300, "gen_length": 8, **options})


def test_needle_that_does_not_fit_is_an_error_with_the_numbers():
    with pytest.raises(ValueError, match=r"takes \d+ tokens, but only 32 are left"):
        build_niah(toy_tokenizer(), length=40, gen_length=8)


def test_output_too_short_for_the_answer_is_an_error():
    with pytest.raises(ValueError, match="gen_length=3 leaves no room for the answer"):
        build_niah(toy_tokenizer(), length=300, gen_length=3)


def test_more_repeats_than_keys_are_refused():
    with pytest.raises(ValueError, match=f"at most {len(KEYS)}"):
        number_needles(0, len(KEYS), 0)
    with pytest.raises(ValueError, match="num_distractors must be less than"):
        number_needles(0, 0, len(KEYS))


def test_numbers_of_the_haystack_are_not_used_as_answers():
    drawn = number_needles(0, 0, 1)
    again = number_needles(0, 0, 1, avoid=f"a bill of {drawn[0].answer} coins")
    assert again[0].answer == drawn[1].answer
    assert again[0].key == drawn[0].key


# --- the data set of a task ---------------------------------------------------------------------


def test_model_arguments_pass_through_without_changing_the_samples():
    settings = {"length": 300, "repeats": 1, "generation_kwargs": GENERATION}
    plain = niah_dataset(tokenizer=toy_tokenizer(), **settings)["test"]
    leaked = {name: 77 for name in MODEL_ARGUMENTS.split()} | {
        "data_dir": None,
        "add_bos_token": None,
    }
    assert niah_dataset(tokenizer=toy_tokenizer(), **settings, **leaked)["test"][:] == plain[:]
    assert len(plain) == 11


def test_settings_of_the_command_line_win():
    dataset = niah_dataset(
        length=300,
        repeats=1,
        generation_kwargs=GENERATION,
        gen_kwargs={"gen_length": 20},
        data_seed=5,
        tokenizer=toy_tokenizer(),
    )["test"]
    assert set(dataset["gen_length"]) == {20}
    assert dataset[0] == build_niah(toy_tokenizer(), length=300, gen_length=20, seed=5)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": None}, "must give length"),
        ({"generation_kwargs": None}, "generation_kwargs of a NIAH task must give gen_length"),
        ({"num_distractor": 3}, "Did you mean 'num_distractors'"),
        ({"depth": [0]}, "Did you mean 'depths'"),
        ({"depths": [0, 25, 50]}, "which have metrics; got 25"),
    ],
)
def test_wrong_metadata_of_a_task_is_named(change, message):
    settings = {"length": 300, "generation_kwargs": GENERATION, **change}
    with pytest.raises(ValueError, match=message):
        niah_dataset(tokenizer=toy_tokenizer(), **settings)
