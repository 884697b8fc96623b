"""What likelihoods and the greedy check share: fewer sequences are read, and no answer changes."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats
from lm_eval_llada.diffusion.estimates import TargetMasks, by_context
from lm_eval_llada.diffusion.likelihood import (
    LikelihoodOptions,
    scored_pairs,
)
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import as_denoiser, load_model
from tests.helpers.likelihood_loops import (
    EMPTY,
    MASK,
    NETWORK,
    PAIRS,
    SEEDS,
    greedy_matches,
    plain_enumeration,
    plain_estimate,
    plain_log_probs,
    random_tokens,
    score,
)
from tests.helpers.toys import FixedLogits, Recorder, denoiser


def score_and_check(
    pairs, options, seeds=None, denoise=NETWORK, mask_token_id=MASK, stats=None, **kwargs
):
    model = denoiser(denoise, mask_token_id, stats=stats)
    return scored_pairs(model, pairs, options, seeds=seeds, **kwargs)


def greedy_text(prefix, length, cfg_scale=0.0, denoise=NETWORK, mask_token_id=MASK):
    if not length:
        return EMPTY
    options = SamplingOptions(gen_length=length, cfg_scale=cfg_scale)
    return generate(Denoiser(denoise, mask_token_id), [prefix], options)[0]


def changed(text, position):
    """The text with one wrong token."""
    text = text.clone()
    text[position] = (text[position] + 1) % MASK
    return text


# --- what is read ---------------------------------------------------------------------------------


def test_one_token_options_of_a_context_are_one_sequence():
    prefix, stats = random_tokens(6, 0), DenoiserStats()
    greedy = int(greedy_text(prefix, 1))
    options = [(greedy + k) % MASK for k in range(4)]
    pairs = [(prefix, torch.tensor([token])) for token in options]
    scored = score_and_check(pairs, LikelihoodOptions(), stats=stats)
    assert (stats.num_passes, stats.num_sequences, stats.num_rows) == (1, 1, 1)
    assert [is_greedy for _, is_greedy in scored] == [True, False, False, False]
    for (_, target), (estimate, _) in zip(pairs, scored, strict=True):
        expected = plain_log_probs(NETWORK, prefix, target, torch.tensor([True]), 0.0, MASK)
        assert estimate.value == pytest.approx(expected[0], abs=1e-6)
        assert estimate.num_passes == 1, "what one estimate rests on, shared or not"


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_enumerated_target_is_checked_without_a_sequence_of_its_own(batch_size):
    prefix, stats = random_tokens(6, 1), DenoiserStats()
    options = LikelihoodOptions(batch_size=batch_size)
    pairs = [(prefix, greedy_text(prefix, 3))]
    ((estimate, is_greedy),) = score_and_check(pairs, options, stats=stats)
    assert is_greedy
    assert stats.num_sequences == estimate.num_passes == 7
    assert stats.num_passes == math.ceil(7 / batch_size)


def test_options_of_one_length_share_their_fully_masked_form():
    prefix, stats = random_tokens(6, 2), DenoiserStats()
    # No two have a token in common, so that no other mask of them gives equal sequences.
    targets = [torch.tensor([k, (k + 2) % MASK, (k + 5) % MASK]) for k in range(4)]
    score_and_check([(prefix, target) for target in targets], LikelihoodOptions(), stats=stats)
    assert stats.num_sequences == 1 + 4 * 6


def test_options_that_begin_alike_share_more():
    prefix, stats = random_tokens(6, 2), DenoiserStats()
    pairs = [(prefix, torch.tensor([4, last])) for last in (1, 2, 3)]
    score_and_check(pairs, LikelihoodOptions(), stats=stats)
    assert stats.num_sequences == 1 + 1 + 3, "both masked, the last masked, the first masked"


@pytest.mark.parametrize(("cfg_scale", "expected"), [(0.0, 3), (1.5, 2 * 4)])
def test_where_the_prompt_ends_matters_only_to_guidance(cfg_scale, expected):
    text, stats = random_tokens(7, 3), DenoiserStats()
    pairs = [(text[:5], text[5:]), (text[:6], text[6:])]
    score_and_check(pairs, LikelihoodOptions(cfg_scale=cfg_scale), stats=stats)
    assert stats.num_sequences == expected


@pytest.mark.parametrize("seed", range(4))
def test_the_check_of_a_sampled_target_reads_only_states_that_no_draw_hit(seed):
    prefix, length = random_tokens(4, seed), 8
    recorder, stats = Recorder(NETWORK), DenoiserStats()
    target = greedy_text(prefix, length, denoise=recorder)
    states = {tuple(call["input_ids"][0].tolist()) for call in recorder.calls}
    masks = TargetMasks.sampled(length, 60, seed).masks
    drawn = {(*prefix.tolist(), *target.masked_fill(mask, MASK).tolist()) for mask in masks}
    assert len(states) == length
    assert 0 < len(states & drawn) < length, "some are hit and some are not"
    options = LikelihoodOptions(mc_num=60, method="mc", batch_size=5)
    ((estimate, is_greedy),) = score_and_check([(prefix, target)], options, [seed], stats=stats)
    assert is_greedy
    assert estimate.num_passes == len(masks)
    assert stats.num_sequences == len(states | drawn)


def test_missing_states_of_several_targets_fill_a_batch_together():
    stats = DenoiserStats()
    prefixes = [random_tokens(5, seed) for seed in range(4)]
    pairs = [(prefix, greedy_text(prefix, 6)) for prefix in prefixes]
    found = greedy_matches(denoiser(NETWORK, MASK, stats=stats), pairs, 4)
    assert found == [True] * 4
    assert (stats.num_passes, stats.num_sequences) == (6, 24)


def test_equal_pairs_are_decoded_once():
    prefix, stats = random_tokens(5, 0), DenoiserStats()
    pairs = [(prefix, greedy_text(prefix, 6))] * 3
    assert greedy_matches(denoiser(NETWORK, MASK, stats=stats), pairs) == [True] * 3
    assert stats.num_sequences == 6


def test_lengths_mix_only_where_a_pass_would_be_lost_otherwise():
    pairs = [(random_tokens(n, i), random_tokens(2, i)) for i, n in enumerate((9, 9, 5, 5, 3))]
    for batch_size, lengths in [(8, [{11, 7}, {7, 5}]), (7, [{11}, {7}, {5}])]:
        recorder = Recorder(NETWORK)
        score(pairs, LikelihoodOptions(batch_size=batch_size), denoise=recorder)
        found = []
        for call in recorder.calls:
            width, mask = call["input_ids"].shape[1], call["attention_mask"]
            found.append({width} if mask is None else {*mask.sum(dim=1).tolist()})
        assert found == lengths
        assert len(found) == math.ceil(15 / batch_size)


def test_logits_are_let_go_before_the_next_pass():
    alive = []

    def denoise(input_ids, **kwargs):
        assert not any(reference() is not None for reference in alive)
        logits = NETWORK(input_ids, **kwargs)
        alive.append(weakref.ref(logits))
        return logits

    score_and_check(PAIRS, LikelihoodOptions(mc_num=20), SEEDS, denoise=denoise)
    assert len(alive) > 5


# --- what is answered -----------------------------------------------------------------------------


@st.composite
def requests(draw):
    """Few prefixes and many targets, so that much is shared: right, nearly right and repeated."""
    cfg_scale = draw(st.sampled_from([0.0, 0.0, 1.5]))
    prefixes = [EMPTY, random_tokens(3, 1), random_tokens(3, 1)[:2], random_tokens(5, 2)]
    pairs = []
    for _ in range(draw(st.integers(1, 6))):
        prefix = draw(st.sampled_from(prefixes))
        length = draw(st.integers(0, 5))
        target = greedy_text(prefix, length, cfg_scale)
        kind = draw(st.sampled_from(["right", "wrong", "any", "one token"]))
        if kind == "wrong" and length:
            target = changed(target, draw(st.integers(0, length - 1)))
        elif kind == "any":
            target = random_tokens(length, draw(st.integers(0, 3)))
        elif kind == "one token":
            target = torch.full((length,), draw(st.integers(0, MASK - 1)))
        pairs += [(prefix, target)] * draw(st.integers(1, 2))
    options = LikelihoodOptions(
        mc_num=draw(st.integers(1, 12)),
        method=draw(st.sampled_from(["auto", "mc"])),
        batch_size=draw(st.integers(1, 9)),
        cfg_scale=cfg_scale,
    )
    seeds = draw(st.lists(st.integers(0, 5), min_size=len(pairs), max_size=len(pairs)))
    return pairs, options, seeds


@settings(max_examples=30, deadline=None)
@given(requests())
def test_sharing_changes_no_value_and_no_greedy_answer(request):
    pairs, options, seeds = request
    stats = DenoiserStats()
    scored = score_and_check(pairs, options, seeds, stats=stats)
    alone = DenoiserStats()
    for pair, seed, (estimate, is_greedy) in zip(pairs, seeds, scored, strict=True):
        prefix, target = pair
        expected = plain_estimate(NETWORK, prefix, target, options, seed)[0] if len(target) else 0
        assert estimate.value == pytest.approx(expected, rel=1e-6, abs=1e-5)
        text = greedy_text(prefix, len(target), options.cfg_scale)
        assert is_greedy == torch.equal(text, target)
        score_and_check([pair], options, [seed], stats=alone)
    assert stats.num_sequences <= alone.num_sequences
    without = score(pairs, options, seeds)
    for one, (other, _) in zip(without, scored, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6, abs=1e-6)
        assert one.num_passes == other.num_passes


def test_equally_confident_positions_are_revealed_from_the_left():
    logits = torch.zeros(3, 9)
    logits[:, 5] = 4.0
    recorder = Recorder(FixedLogits(logits))
    target = torch.tensor([5, 5, 5])
    assert greedy_matches(Denoiser(recorder, MASK), [(EMPTY, target)]) == [True]
    states = [call["input_ids"][0].tolist() for call in recorder.calls]
    assert states == [[MASK] * 3, [5, MASK, MASK], [5, 5, MASK]]


def test_a_mask_token_in_the_text_is_scored_but_never_decoded():
    prefix = torch.tensor([1, MASK, 2])
    target = torch.tensor([3, MASK])
    ((estimate, is_greedy),) = score_and_check([(prefix, target)], LikelihoodOptions())
    assert estimate.value == pytest.approx(plain_enumeration(NETWORK, prefix, target), abs=1e-5)
    assert not is_greedy


def test_tiny_llada_scores_questions_as_plain_loops_do():
    model = load_model("tiny-llada", dtype=torch.float32)
    denoise, mask_token_id = as_denoiser(model).forward, model.config.mask_token_id
    pairs = []
    for seed, length in enumerate((1, 2, 3)):
        prefix = random_tokens(20 + 3 * seed, seed) + 300
        text = greedy_text(prefix, length, denoise=denoise, mask_token_id=mask_token_id)
        pairs += [(prefix, text), (prefix, text.flip(0) + 1), (prefix, random_tokens(length, 9))]
    stats = DenoiserStats()
    scored = score_and_check(
        pairs, LikelihoodOptions(), denoise=denoise, mask_token_id=mask_token_id, stats=stats
    )
    for (prefix, target), (estimate, _) in zip(pairs, scored, strict=True):
        expected = plain_enumeration(denoise, prefix, target, mask_token_id=mask_token_id)
        assert estimate.value == pytest.approx(expected, rel=1e-5)
    assert [is_greedy for _, is_greedy in scored] == [True, False, False] * 3
    assert stats.num_sequences <= 1 + (1 + 3 * 2) + (1 + 3 * 6)


@pytest.mark.parametrize("check_greedy", [False, True])
def test_nan_logits_are_an_error_however_they_are_read(check_greedy):
    denoise = FixedLogits(torch.full((2, 9), math.nan))
    pairs = [(EMPTY, random_tokens(2, 0))]
    with pytest.raises(ValueError, match="NaN or infinite"):
        score_and_check(pairs, LikelihoodOptions(), denoise=denoise, check_greedy=check_greedy)
    with pytest.raises(ValueError, match="NaN or infinite"):
        greedy_matches(Denoiser(denoise, MASK), pairs)


# --- which requests meet --------------------------------------------------------------------------


def test_targets_of_a_prefix_are_grouped_wherever_they_stand():
    prefixes = [random_tokens(4, seed) for seed in range(3)] + [EMPTY]
    pairs = [(prefixes[i % 4], random_tokens(1 + i % 3, i)) for i in range(20)]
    groups = by_context(pairs, LikelihoodOptions())
    assert sorted(sum(groups, [])) == list(range(20))
    assert sorted(map(set, groups), key=min) == [{*range(i, 20, 4)} for i in range(4)]


def test_a_prefix_with_very_many_targets_makes_several_groups():
    pairs = [(EMPTY, random_tokens(9, i)) for i in range(40)]
    groups = by_context(pairs, LikelihoodOptions(mc_num=128))
    assert [len(group) for group in groups] == [16, 16, 8]
    assert [len(group) for group in by_context(pairs[:2], LikelihoodOptions(mc_num=5000))] == [1, 1]


def test_the_harness_model_reads_each_context_of_one_token_options_once(make):
    lm = make(batch_size=3)
    contexts = [[100 + i, 200, 300 + i % 3] * (1 + i % 2) for i in range(7)]
    requests = [(("", ""), contexts[i % 7], [400 + i // 7]) for i in range(28)]
    together = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    assert lm.runner.stats.num_sequences == 7
    apart = [lm._loglikelihood_tokens([one], disable_tqdm=True)[0] for one in requests]
    for one, other in zip(together, apart, strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-5)
        assert one[1] == other[1]
