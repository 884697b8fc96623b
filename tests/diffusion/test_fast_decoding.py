"""Decoding that stops where a text ends, and decoding of several sure tokens at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.requests import generation_settings
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.modeling import load_config
from tests.helpers.sampling import (
    CASES,
    MASK,
    NETWORK,
    PROMPTS,
    SEEDS,
    plain_generate,
    plain_logits,
    run,
)
from tests.helpers.toy_requests import generations


def ends_at(token: int):
    return lambda decided: token in decided.tolist()


@pytest.mark.parametrize("name", [name for name in CASES if "stop" not in name])
def test_a_text_that_ends_early_keeps_its_tokens_up_to_the_end(name):
    options = CASES[name]
    texts = run(PROMPTS, options, SEEDS, ends=[ends_at(2)] * len(PROMPTS))
    for text, prompt, seed in zip(texts, PROMPTS, SEEDS, strict=True):
        whole = plain_generate(NETWORK, prompt, options, seed)
        num_needed = whole.index(2) + 1 if 2 in whole else len(whole)
        assert text[:num_needed] == whole[:num_needed]
        assert all(token in (MASK, full) for token, full in zip(text, whole, strict=True))


def test_a_text_that_has_ended_leaves_the_batch_and_its_blocks_are_not_run():
    options = SamplingOptions(gen_length=12, block_length=4)
    stats = DenoiserStats()
    never, at_once = (lambda decided: False), (lambda decided: len(decided) >= 1)
    short, long = run(PROMPTS[:2], options, ends=[at_once, never], stats=stats)
    assert MASK not in long and MASK in short
    assert stats.num_passes == 12
    assert 12 < stats.num_sequences <= 12 + 4
    assert short[4:] == [MASK] * 8


def test_the_end_is_looked_for_only_where_tokens_were_added_to_the_decided_ones():
    seen = []
    options = SamplingOptions(gen_length=10)
    run(PROMPTS[:1], options, ends=[lambda decided: bool(seen.append(len(decided)))])
    assert seen == sorted(set(seen)) and seen[-1] == 10


def plain_parallel(prompt, options):
    """Fast-dLLM's rules for one prompt: a pass, then every token that is sure enough."""
    first, length = len(prompt), options.gen_length
    block_length = options.block_length or length
    x, num_passes = torch.cat([prompt, torch.full((length,), MASK)]), 0
    for start in range(first, first + length, block_length):
        block = range(start, min(start + block_length, first + length))
        while any(x[p] == MASK for p in block):
            probabilities = plain_logits(NETWORK, x, first, options).float().softmax(-1)
            num_passes += 1
            masked = [p for p in block if x[p] == MASK]
            sure = {p: float(probabilities[p].max()) for p in masked}
            ordered = sorted(masked, key=lambda p: -sure[p])
            if options.threshold is not None:
                chosen = [p for p in ordered if sure[p] >= options.threshold]
            else:
                sizes = range(len(ordered), 0, -1)
                n = next(
                    (n for n in sizes if (n + 1) * (1 - sure[ordered[n - 1]]) < options.factor), 0
                )
                chosen = ordered[:n]
            for p in chosen or ordered[:1]:
                x[p] = probabilities[p].argmax()
    return x[first:].tolist(), num_passes


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(gen_length=12, threshold=0.8),
        SamplingOptions(gen_length=11, block_length=4, threshold=0.5, steps=3),
        SamplingOptions(gen_length=12, factor=1.0),
        SamplingOptions(gen_length=10, block_length=5, factor=2.5, cfg_scale=0.5),
    ],
    ids=["threshold", "threshold_blocks", "factor", "factor_guided"],
)
def test_parallel_decoding_equals_a_plain_loop(options):
    expected = [plain_parallel(prompt, options) for prompt in PROMPTS]
    stats = DenoiserStats()
    assert run(PROMPTS, options, stats=stats) == [text for text, _ in expected]
    # A text takes part in a pass only while its block has masks, and some steps reveal several.
    copies = 2 if options.cfg_scale else 1
    assert stats.num_sequences == copies * sum(num for _, num in expected)
    assert stats.num_sequences < copies * options.gen_length * len(PROMPTS)


@given(st.floats(0.01, 1.0), st.sampled_from(["threshold", "factor"]))
def test_parallel_decoding_decides_every_token_within_one_pass_a_token(value, name):
    stats = DenoiserStats()
    options = SamplingOptions(gen_length=6, block_length=3, **{name: value})
    (text,) = run(PROMPTS[:1], options, stats=stats)
    assert MASK not in text
    assert 2 <= stats.num_passes <= 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cache": "full"}, "cache must be one of none, prefix, dual"),
        ({"refresh_every": 4}, "needs cache=prefix or cache=dual"),
        ({"refresh_every": 0, "cache": "dual"}, "refresh_every must be"),
        ({"threshold": 0.9, "factor": 1.0}, "set only one of them"),
        ({"threshold": 0.0}, "threshold must be"),
        ({"threshold": 0.9, "remasking": "random"}, "use remasking=low_confidence"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**changes)


def test_a_cache_needs_a_denoiser_that_has_one():
    with pytest.raises(ValueError, match="cache=dual needs a denoiser with a cache"):
        run(PROMPTS, SamplingOptions(cache="dual"))


@pytest.fixture(scope="module")
def tokenization() -> Tokenization:
    return Tokenization("tiny-llada", load_config("tiny-llada"))


# Small ids are single bytes and special tokens, among them incomplete characters.
IDS = st.lists(st.one_of(st.integers(0, 110), st.integers(0, 1023)), max_size=24)
STOPS = st.lists(
    st.sampled_from(["\n", "a", "ab", "e t", ".\n\n", "<|endoftext|>", "é", " the"]), max_size=4
)


@given(IDS, STOPS, st.booleans())
def test_what_follows_a_final_text_does_not_change_it(tokenization, ids, until, ignore_eos):
    whole = tokenization.text_of(ids, until, ignore_eos=ignore_eos)
    for end in range(len(ids) + 1):
        if tokenization.is_final(ids[:end], until, ignore_eos=ignore_eos):
            assert tokenization.text_of(ids[:end], until, ignore_eos=ignore_eos) == whole


def test_a_longer_stop_that_has_begun_earlier_is_waited_for(tokenization):
    ids = tokenization.encode("one ab", add_special_tokens=False)
    more = tokenization.encode("one ab\ncd", add_special_tokens=False)
    assert tokenization.is_final(ids, ["b"], ignore_eos=False)
    assert not tokenization.is_final(ids, ["b", "ab\nc"], ignore_eos=False)
    assert tokenization.is_final(more, ["b", "ab\nc"], ignore_eos=False)


def test_a_text_without_an_end_is_never_final(tokenization):
    ids = tokenization.encode("some words and no more", add_special_tokens=False)
    assert not tokenization.is_final(ids, [], ignore_eos=False)
    assert not tokenization.is_final(ids, ["\n"], ignore_eos=False)
    assert tokenization.is_final([*ids, tokenization.eos_token_id], [], ignore_eos=False)
    assert not tokenization.is_final([*ids, tokenization.eos_token_id], [], ignore_eos=True)


def test_equal_requests_run_once_unless_they_draw_random_numbers(make):
    prompts = ["The key is", "One.", "The key is", "The key is"]
    lm = make(batch_size=4)
    texts = lm.generate_until(generations(prompts))
    assert texts[0] == texts[2] == texts[3] != texts[1]
    # Texts may end early, so passes are counted by the longest of two.
    assert lm.runner.stats.num_sequences <= 2 * 8
    random = make(batch_size=4, temperature=1.0)
    # A sample that is repeated draws anew each time.
    random.generate_until(4 * generations(prompts[:1], repeats=4, ignore_eos=True))
    assert random.runner.stats.num_sequences == 4 * 8


def test_requests_that_end_at_different_stops_do_not_share_a_text(make):
    lm = make(batch_size=4)
    whole, cut = lm.generate_until(
        [*generations(["The key is"]), *generations(["The key is"], until=["e"])]
    )
    assert cut == whole.split("e")[0]


def test_approximations_reach_the_results(make):
    lm = make(batch_size=2, cache="dual", threshold=0.9)
    lm.generate_until(generations(["One."], block_length=4))
    options = generation_settings({}, lm.arguments.sampling).options
    assert (options.cache, options.threshold) == ("dual", 0.9)
    assert lm.get_model_info()["llada"]["approximations"] == {
        "toy": ["cache=dual", "threshold=0.9"]
    }
    exact = make(batch_size=2)
    exact.generate_until(generations(["One."]))
    assert exact.get_model_info()["llada"]["approximations"] == {}
