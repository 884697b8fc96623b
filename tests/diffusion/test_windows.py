"""The greedy check and rolling windows against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats
from lm_eval_llada.diffusion.likelihood import (
    LikelihoodOptions,
    rolling_log_likelihoods,
    rolling_windows,
)
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from tests.helpers.likelihood_loops import (
    EMPTY,
    JOINT,
    MASK,
    NETWORK,
    PAIRS,
    greedy_matches,
    plain_enumeration,
    random_tokens,
    score,
)
from tests.helpers.toys import JOINT_MASK_ID, FixedLogits, denoiser

# --- greedy check ---------------------------------------------------------------------------------


def plain_greedy_match(prefix, target, cfg_scale=0.0):
    """Decode the whole region one most confident token a pass, then compare."""
    x = torch.cat([prefix, torch.full((len(target),), MASK)])
    for _ in target:
        logits = NETWORK(x[None], attention_mask=None)
        if cfg_scale > 0:
            blind = x.clone()
            blind[: len(prefix)] = MASK
            unconditional = NETWORK(blind[None], attention_mask=None)
            logits = unconditional + (cfg_scale + 1) * (logits - unconditional)
        logits[:, MASK] = -torch.inf
        sure, choice = logits.softmax(dim=-1).max(dim=-1)
        masked = [p for p in range(len(x)) if x[p] == MASK]
        best = max(masked, key=lambda p: (float(sure[p]), -p))
        x[best] = choice[best]
    return torch.equal(x[len(prefix) :], target)


def greedy_pairs(cfg_scale):
    """Half the targets are what the sampler writes, half differ from that in one token."""
    pairs = []
    for k, (prefix, target) in enumerate(PAIRS):
        options = SamplingOptions(gen_length=len(target), cfg_scale=cfg_scale)
        (text,) = generate(Denoiser(NETWORK, MASK), [prefix], options)
        if k % 2:
            text[k % len(text)] = (text[k % len(text)] + 1) % MASK
        pairs.append((prefix, text))
    return pairs


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_greedy_check_equals_a_plain_loop_and_the_sampler(cfg_scale, batch_size):
    pairs = greedy_pairs(cfg_scale)
    got = greedy_matches(Denoiser(NETWORK, MASK).guided(cfg_scale), pairs, batch_size)
    assert got == [plain_greedy_match(*pair, cfg_scale) for pair in pairs]
    assert got == [k % 2 == 0 for k in range(len(pairs))]


def test_greedy_check_stops_at_the_first_wrong_token():
    logits = torch.zeros(5, 9)
    for position, (token, logit) in enumerate([(1, 3.0), (2, 9.0), (3, 8.0), (4, 2.0), (5, 1.0)]):
        logits[position, token] = logit
    # Revealed in the order of positions 1, 2, 0, 3, 4; the target is wrong at position 0.
    stats = DenoiserStats()
    target = torch.tensor([7, 2, 3, 4, 5])
    model = denoiser(FixedLogits(logits), MASK, stats=stats)
    assert greedy_matches(model, [(EMPTY, target)]) == [False]
    assert stats.num_passes == 3


def test_greedy_check_hands_a_freed_place_to_the_next_pair():
    logits = torch.zeros(5, 9)
    logits[:, 1] = 1.0
    right, wrong = torch.tensor([1, 1, 1, 1]), torch.tensor([2, 2, 2, 2])
    stats = DenoiserStats()
    # Prefixes differ, or equal pairs would share their sequences.
    pairs = [(torch.tensor([k + 3]), t) for k, t in enumerate((wrong, right, wrong, right))]
    got = greedy_matches(denoiser(FixedLogits(logits), MASK, stats=stats), pairs, 2)
    assert got == [False, True, False, True]
    # Two wrong ones take 1 pass each, two right ones 4: ten sequence reads in five full passes.
    assert (stats.num_passes, stats.num_sequences) == (5, 10)


def test_an_empty_target_matches():
    assert greedy_matches(Denoiser(NETWORK, MASK), [(random_tokens(3, 0), EMPTY)]) == [True]


# --- rolling --------------------------------------------------------------------------------------


def test_rolling_windows_are_those_of_the_diagram():
    assert rolling_windows(20, 8) == [(0, 0, 8), (8, 8, 16), (12, 16, 20)]


def test_rolling_windows_are_disjoint_up_to_the_last():
    assert rolling_windows(10, 4) == [(0, 0, 4), (4, 4, 8), (6, 8, 10)]
    assert rolling_windows(4, 4) == [(0, 0, 4)]
    assert rolling_windows(0, 4) == []


def test_rolling_windows_count_given_tokens_but_do_not_score_them():
    assert rolling_windows(10, 4, num_given=1) == [(0, 1, 4), (4, 4, 8), (6, 8, 10)]
    assert rolling_windows(1, 4, num_given=1) == []


@given(num_tokens=st.integers(0, 200), max_length=st.integers(1, 40), data=st.data())
def test_rolling_windows_score_every_token_exactly_once(num_tokens, max_length, data):
    given_tokens = data.draw(st.integers(0, min(num_tokens, max_length - 1)))
    windows = rolling_windows(num_tokens, max_length, num_given=given_tokens)
    scored = [token for _, begin, end in windows for token in range(begin, end)]
    assert scored == list(range(given_tokens, num_tokens))
    assert all(end - start <= max_length for start, _, end in windows)
    for start, _, end in windows[1:]:
        assert end - start == max_length, "later windows are full"


def test_rolling_windows_refuse_to_leave_no_room_for_a_target():
    with pytest.raises(ValueError, match="num_given=4 leaves no token .* use at most 3"):
        rolling_windows(10, 4, num_given=4)


def roll(documents, options, **kwargs):
    return rolling_log_likelihoods(Denoiser(NETWORK, MASK), documents, options, **kwargs)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rolling_likelihood_is_the_sum_over_its_windows(batch_size):
    documents = [random_tokens(length, length) for length in (13, 4, 0, 9)]
    bos = torch.tensor([7])
    got = roll(
        documents,
        LikelihoodOptions(batch_size=batch_size),
        max_length=6,
        prefix=bos,
    )
    for document, estimate in zip(documents, got, strict=True):
        text, expected, passes = torch.cat([bos, document]), 0.0, 0
        starts = rolling_windows(len(text), 6, num_given=1)
        for start, begin, end in starts:
            expected += plain_enumeration(NETWORK, text[start:begin], text[begin:end])
            passes += 2 ** (end - begin) - 1
        assert estimate.value == pytest.approx(expected, abs=1e-5)
        assert estimate.stderr == 0
        assert estimate.num_passes == passes


def test_rolling_likelihood_in_one_window_is_the_true_log_probability():
    (estimate,) = rolling_log_likelihoods(
        Denoiser(JOINT, JOINT_MASK_ID), [JOINT.states[20]], LikelihoodOptions(), max_length=4
    )
    assert estimate.value == pytest.approx(JOINT.log_prob(JOINT.states[20]), abs=1e-6)


def test_rolling_errors_add_in_squares_and_windows_draw_different_masks():
    # Two windows of the same eight tokens, which equal seeds would score alike.
    half = random_tokens(8, 5)
    options = LikelihoodOptions(mc_num=6, method="mc")
    (both,) = roll([torch.cat([half, half])], options, max_length=8, seeds=[3])
    source = torch.Generator().manual_seed(3)
    window_seeds = torch.randint(2**63 - 1, (2,), generator=source).tolist()
    one, two = score([(EMPTY, half)] * 2, options, window_seeds)
    assert one.value != pytest.approx(two.value, abs=1e-4)
    assert both.value == pytest.approx(one.value + two.value, abs=1e-5)
    assert both.stderr == pytest.approx(math.hypot(one.stderr, two.stderr), abs=1e-5)


def test_rolling_scores_do_not_depend_on_batch_size_or_order():
    documents = [random_tokens(length, length) for length in (40, 9, 23)]
    kwargs = {"max_length": 12}
    one = roll(documents, LikelihoodOptions(mc_num=5, batch_size=3), seeds=[1, 2, 3], **kwargs)
    other = roll(
        documents[::-1], LikelihoodOptions(mc_num=5, batch_size=8), seeds=[3, 2, 1], **kwargs
    )
    for a, b in zip(one, other[::-1], strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-5)
        assert a.stderr == pytest.approx(b.stderr, abs=1e-5)
